"""Rules about what is trained: phases, and the parts that they read; written as in `mllmrec.config.rules`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mllmrec.config.capabilities import capability
from mllmrec.config.phases import ANSWERS, Phase, phases_of

Settings = Mapping[str, Any]


def of_kinds(cfg: Settings, *kinds: str) -> list[Phase]:
    """The phases of these kinds."""
    return [phase for phase in phases_of(cfg) if phase.kind.name in kinds]


def drawing(cfg: Settings) -> list[Phase]:
    """The phases that draw completions."""
    return [phase for phase in phases_of(cfg) if phase.kind.rolls_out]


def single(cfg: Settings, *kinds: str) -> list[Phase]:
    """The phases of these kinds that learn the answers of single items, and none that another phase drew."""
    return [phase for phase in of_kinds(cfg, *kinds) if phase.own(ANSWERS) is None]


def supervised(cfg: Settings, loss_on: str) -> list[str]:
    """The phases of supervised fine-tuning that run with this ``loss_on``."""
    return [
        phase.name
        for phase in phases_of(cfg)
        if phase.kind.supervised and phase.settings(cfg)[phase.kind.name]["loss_on"] == loss_on
    ]


def learnt_reasoning_is_said(cfg: Settings) -> str | None:
    """The policy learns to reason before it answers, but cannot write the reasoning later, or evaluation wants none."""
    placement = cfg["cot"]["placement"]
    if placement == "prompt" or cfg["mix_ratio"] == 0:
        return None
    for phase in drawing(cfg):
        rollout = phase.settings(cfg)["rollout"]
        if capability(rollout, "constrained", False) and not capability(rollout, "reasons", False):
            return (
                f"cot.placement={placement} with a rollout that allows only the candidates' answers: the policy cannot "
                "reason; choose "
                + ("rollout=profiled" if placement == "profile" else "rollout=reasoned, rollout=free")
                + " or method=sft"
            )
    if single(cfg, "dpo", "pointwise"):
        return (
            f"cot.placement={placement} with method={cfg['method']['name']}, which learns answers without reasoning; "
            "set cot.placement=prompt, or choose method=sft or mllmrec_r1"
        )
    if cfg["eval"]["cot"] is True:
        return (
            f"cot.placement={placement} with eval.cot=true: the policy writes the reasoning, so prompts cannot show it; "
            "set eval.cot=auto"
        )
    if cfg["eval"]["cot"] is False and cfg["eval"]["ranking"] == "generate":
        return (
            f"cot.placement={placement} with eval.cot=false: training prompts ask for reasoning before the answer, but "
            "evaluation prompts would not; set eval.cot=auto"
        )
    return None


def lists_are_written(cfg: Settings) -> str | None:
    """An answer is to be a ranked list, and something learns, draws or measures single items."""
    places = cfg["prompt"].get("places", 1)
    if places == 1:
        for phase in drawing(cfg):
            if capability(phase.settings(cfg)["rollout"], "lists", False):
                return "a rollout draws ranked lists with prompt.places=1, and prompts ask for one item: set task=ranked_list"
        return None
    where = f"prompt.places={places}"
    if cfg["eval"]["ranking"] not in ("generate", "constrained"):
        return (
            f"{where} with eval.ranking={cfg['eval']['ranking']}, which scores single items: set eval.ranking=constrained "
            "(lists of the candidates) or generate (free text)"
        )
    if places > cfg["candidates"]["num_negatives"] + 1:
        return (
            f"{where} exceeds the {cfg['candidates']['num_negatives'] + 1} candidates of a training prompt: lower it, or raise "
            "candidates.num_negatives"
        )
    if max(cfg["eval"]["ks"]) > places:
        return f"eval.ks={list(cfg['eval']['ks'])} with {where}: a list says nothing about later places; lower eval.ks"
    for phase in phases_of(cfg):
        seen = phase.settings(cfg)
        if phase.kind.name in ("dpo", "pointwise") and phase.own(ANSWERS) is None:
            return f"{where} with a phase of kind {phase.kind.name}, which learns single items: choose another method"
        if phase.kind.supervised and seen[phase.kind.name]["loss_on"] == "candidates":
            return f"{where} with {phase.name}.loss_on=candidates, which learns single items: set {phase.name}.loss_on=answer"
        single = capability(seen["rollout"], "constrained", False) and not capability(
            seen["rollout"], "lists", False
        )
        if phase.kind.rolls_out and single:
            return f"{where} with rollouts that allow only single items: choose rollout=lists or free"
    return None


def negatives_are_listed(cfg: Settings) -> str | None:
    """A phase needs more negatives than a prompt lists."""
    listed = cfg["candidates"]["num_negatives"]
    for phase in single(cfg, "dpo", "pointwise"):
        stage = phase.kind.name
        wanted = (phase.settings(cfg).get(stage) or {}).get("negatives", 0)
        if wanted > listed:
            return (
                f"{stage}.negatives={wanted} exceeds candidates.num_negatives={listed}, the negatives that a prompt "
                "lists: lower the first or raise the second"
            )
    return None


def yes_or_no_is_ranked(cfg: Settings) -> str | None:
    """The policy learns to answer Yes or No, but evaluation ranks in another way."""
    if of_kinds(cfg, "pointwise") and cfg["eval"]["ranking"] != "pointwise":
        return (
            f"eval.ranking={cfg['eval']['ranking']} with phase pointwise, which learns to answer Yes or No: set "
            "eval.ranking=pointwise"
        )
    return None


def experience_is_drawn_and_shown(cfg: Settings) -> str | None:
    """Experience should be learnt, but answers are not drawn, a part needs another policy, or rankings ask questions."""
    for phase in phases_of(cfg):
        if phase.kind.trains:
            continue
        seen, where = phase.settings(cfg), f"phase {phase.name}"
        if capability(seen["rollout"], "every_answer", False):
            return (
                f"rollout._target_={seen['rollout']['_target_']} with {where}, which compares drawn answers: choose "
                "rollout=constrained or free"
            )
        for name, part in (("reward", seen["reward"]), *(seen.get("shapers") or {}).items()):
            if "reference" in capability(part, "needs", frozenset()):
                return (
                    f"{name}._target_={part['_target_']} with {where}, which changes no weights, so the reference would be "
                    "the policy itself: choose another reward"
                )
        if cfg["eval"]["ranking"] == "pointwise":
            return (
                f"eval.ranking=pointwise with {where}, whose experience stands in prompts, not in questions: set "
                "eval.ranking=likelihood"
            )
    return None


def item_tokens_have_vectors(cfg: Settings) -> str | None:
    """Prompts should show vectors that nothing trains, or no prompt shows the vectors that are trained."""
    method, asked = cfg["method"], cfg["prompt"]["item_tokens"]
    vectors = method.get("item_vectors") is not None
    if method["recommender"] is not None and (vectors or asked != "none"):
        setting = "method.item_vectors" if vectors else f"prompt.item_tokens={asked}"
        return f"{setting} with method={method['name']}, which reads no prompt: remove it, or choose method=llara"
    if asked == "vector" and not vectors:
        return (
            f"prompt.item_tokens=vector with method={method['name']}, which trains no vectors: choose method=llara, "
            "or set prompt.item_tokens=none"
        )
    if vectors and asked != "vector":
        return (
            f"prompt.item_tokens={asked} with method={method['name']}: no prompt would show the vectors of this "
            "method; set prompt.item_tokens=vector, or choose method=sft"
        )
    return None


def item_tokens_are_learnt(cfg: Settings) -> str | None:
    """No phase learns to read the item tokens, or a phase would learn to write them."""
    prompt = cfg["prompt"]
    if prompt["item_tokens"] == "none":
        if prompt["curriculum"] != "none":
            return (
                f"prompt.curriculum={prompt['curriculum']} with prompt.item_tokens=none: there are no item tokens to "
                "phase in; set prompt.curriculum=none or choose method=llara"
            )
        return None
    if prompt["item_tokens"] != "vector":
        return None
    if not of_kinds(cfg, "sft"):
        return (
            "prompt.item_tokens=vector without phase sft, which learns to read them: add sft to method.phases, or "
            "choose method=llara"
        )
    for stage in supervised(cfg, "all"):
        return (
            f"{stage}.loss_on=all with prompt.item_tokens=vector: the policy reads item tokens but cannot write them; "
            f"set {stage}.loss_on=answer"
        )
    return None


def phase_has_settings(cfg: Settings) -> str | None:
    """The section of a phase that should run is empty. Only warm-up may be empty: pretrained models need none."""
    empty = [
        phase.name
        for phase in phases_of(cfg)
        if phase.kind.data != "sequences" and phase.settings(cfg).get(phase.kind.name) is None
    ]
    if empty:
        return (
            f"method.phases names {', '.join(empty)} without settings for it: choose another recipe or method"
        )
    return None


def patience_has_rankings(cfg: Settings) -> str | None:
    """Rankings should end a phase early, but none are made."""
    if cfg["heldout"]["patience"] is not None and cfg["heldout"]["users"] == 0:
        return (
            f"heldout.patience={cfg['heldout']['patience']} with heldout.users=0: without rankings during a phase, "
            "patience cannot end it; set heldout.patience=null, or heldout.users=500"
        )
    return None


PHASE_RULES = (
    learnt_reasoning_is_said,
    lists_are_written,
    negatives_are_listed,
    yes_or_no_is_ranked,
    experience_is_drawn_and_shown,
    item_tokens_have_vectors,
    item_tokens_are_learnt,
    phase_has_settings,
    patience_has_rankings,
)
