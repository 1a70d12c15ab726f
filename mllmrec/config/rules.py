"""Rules about settings that contradict each other or this machine. Each is a small function: a fault, or None.

A rule's docstring describes its fault. Every rule reads the resolved configuration as plain dictionaries. The schema
reports an absent or malformed section, so `broken_rules` skips a rule that lacks a value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

from mllmrec.config.capabilities import capability
from mllmrec.config.data_rules import DATA_RULES
from mllmrec.config.kinds import KINDS
from mllmrec.config.phases import Phase, phases_of

Settings = Mapping[str, Any]
Rule = Callable[[Settings], "str | None"]


def _of_kinds(cfg: Settings, *kinds: str) -> list[Phase]:
    """The phases of these kinds."""
    return [phase for phase in phases_of(cfg) if phase.kind.name in kinds]


def _drawing(cfg: Settings) -> list[Phase]:
    """The phases that draw completions."""
    return [phase for phase in phases_of(cfg) if phase.kind.rolls_out]


def _supervised(cfg: Settings, loss_on: str) -> list[str]:
    """The phases of supervised fine-tuning that run with this ``loss_on``."""
    return [
        phase.name
        for phase in phases_of(cfg)
        if phase.kind.supervised and phase.settings(cfg)[phase.kind.name]["loss_on"] == loss_on
    ]


def cot_needs_policy(cfg: Settings) -> str | None:
    """CoT should be mixed in, but nothing writes it."""
    if cfg["cot_policy"]["_target_"] is None and cfg["mix_ratio"] > 0:
        return (
            f"mix_ratio={cfg['mix_ratio']} with cot_policy=none: no reasoning exists to mix in; set mix_ratio=0 or "
            "choose a cot_policy"
        )
    return None


def evaluated_cot_needs_policy(cfg: Settings) -> str | None:
    """Evaluation prompts should show CoT, but nothing writes it."""
    if cfg["cot_policy"]["_target_"] is None and cfg["eval"]["cot"] is True:
        return "eval.cot=true with cot_policy=none: no reasoning exists to show; set eval.cot=auto or choose a cot_policy"
    return None


def chosen_by_confidence(cfg: Settings) -> str | None:
    """Samples should be chosen by confidence, but nothing computes one."""
    if cfg["mixing"]["select"] != "confidence" or cfg["mix_ratio"] == 0:
        return None
    if capability(cfg["cot_policy"], "gives_confidence", False):
        return None
    return "mixing.select=confidence: this cot_policy gives no confidence; set cot_policy=confident or mixing.select=random"


def learnt_reasoning_is_said(cfg: Settings) -> str | None:
    """The policy learns to reason before it answers, but cannot write the reasoning later, or evaluation wants none."""
    if cfg["cot"]["placement"] != "completion" or cfg["mix_ratio"] == 0:
        return None
    for stage in _supervised(cfg, "candidates"):
        return (
            f"cot.placement=completion with {stage}.loss_on=candidates, which learns answers without reasoning; set "
            f"{stage}.loss_on=answer, or cot.placement=prompt"
        )
    if any(capability(phase.settings(cfg)["rollout"], "constrained", False) for phase in _drawing(cfg)):
        return (
            "cot.placement=completion with a rollout that allows only the candidates' answers: the policy cannot "
            "reason; choose rollout=free or method=sft"
        )
    if _of_kinds(cfg, "dpo", "pointwise"):
        return (
            f"cot.placement=completion with method={cfg['method']['name']}, which learns answers without reasoning; "
            "set cot.placement=prompt, or choose method=sft or mllmrec_r1"
        )
    if cfg["eval"]["cot"] is True:
        return (
            "cot.placement=completion with eval.cot=true: the policy writes the reasoning, so prompts cannot show it; "
            "set eval.cot=auto"
        )
    if cfg["eval"]["cot"] is False and cfg["eval"]["ranking"] == "generate":
        return (
            "cot.placement=completion with eval.cot=false: training prompts ask for reasoning before the answer, but "
            "evaluation prompts would not; set eval.cot=auto"
        )
    return None


def lists_are_written(cfg: Settings) -> str | None:
    """An answer is to be a ranked list, and something learns, draws or measures single items."""
    places = cfg["prompt"].get("places", 1)
    if places == 1:
        return None
    where = f"prompt.places={places}"
    if cfg["eval"]["ranking"] != "generate":
        return f"{where} with eval.ranking={cfg['eval']['ranking']}, which scores single items: set eval.ranking=generate"
    if places > cfg["candidates"]["num_negatives"] + 1:
        return (
            f"{where} exceeds the {cfg['candidates']['num_negatives'] + 1} candidates of a training prompt: lower it, or raise "
            "candidates.num_negatives"
        )
    if max(cfg["eval"]["ks"]) > places:
        return f"eval.ks={list(cfg['eval']['ks'])} with {where}: a list says nothing about later places; lower eval.ks"
    for phase in phases_of(cfg):
        seen = phase.settings(cfg)
        if phase.kind.name in ("dpo", "pointwise"):
            return f"{where} with a phase of kind {phase.kind.name}, which learns single items: choose another method"
        if phase.kind.supervised and seen[phase.kind.name]["loss_on"] == "candidates":
            return f"{where} with {phase.name}.loss_on=candidates, which learns single items: set {phase.name}.loss_on=answer"
        if phase.kind.rolls_out and capability(seen["rollout"], "constrained", False):
            return f"{where} with rollouts that allow only single items: choose rollout=free"
    return None


def cutoffs_within_candidates(cfg: Settings) -> str | None:
    """A K of HR@K exceeds the number of candidates, so the metric says nothing."""
    negatives = cfg["eval"]["num_negatives"]
    largest = max(cfg["eval"]["ks"])
    if isinstance(negatives, int) and largest > negatives + 1:
        return (
            f"eval.ks={list(cfg['eval']['ks'])}: {largest} exceeds the {negatives + 1} candidates; lower eval.ks or "
            "raise eval.num_negatives"
        )
    return None


def negatives_are_listed(cfg: Settings) -> str | None:
    """A stage needs more negatives than a prompt lists."""
    listed = cfg["candidates"]["num_negatives"]
    for phase in _of_kinds(cfg, "dpo", "pointwise"):
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
    if _of_kinds(cfg, "pointwise") and cfg["eval"]["ranking"] != "pointwise":
        return (
            f"eval.ranking={cfg['eval']['ranking']} with stage pointwise, which learns to answer Yes or No: set "
            "eval.ranking=pointwise"
        )
    return None


def listed_candidates_end(cfg: Settings) -> str | None:
    """A prompt should list the whole catalogue. Generated answers need such a list, since they are chosen from it."""
    if cfg["eval"]["num_negatives"] != "full" or cfg["eval"]["ranking"] == "pointwise":
        return None
    if cfg["eval"]["ranking"] == "generate":
        return (
            "eval.ranking=generate with eval.num_negatives=full: the prompt cannot list the whole catalogue; set "
            "eval.ranking=likelihood or constrained, or eval.num_negatives to a number"
        )
    if cfg["eval"].get("listing") == "all":
        return (
            "eval.listing=all with eval.num_negatives=full: the prompt cannot list the whole catalogue; set "
            "eval.listing=trained or none, or eval.num_negatives to a number"
        )
    return None


def generated_answers_are_listed(cfg: Settings) -> str | None:
    """Answers are generated, which needs a prompt that lists all candidates, but prompts list fewer."""
    asked, trained = cfg["eval"]["num_negatives"], cfg["candidates"]["num_negatives"]
    if cfg["eval"]["ranking"] != "generate" or asked == "full":
        return None
    listing = cfg["eval"].get("listing", "trained")
    if listing == "none" or (listing == "trained" and asked > trained):
        longer = "" if asked <= trained else f" (a longer list than the {trained + 1} of training prompts)"
        return (
            f"eval.ranking=generate with eval.listing={listing} and eval.num_negatives={asked}: the prompt must list "
            f"all candidates, since the answer names one; set eval.listing=all{longer}, or eval.ranking=likelihood"
        )
    return None


def renormalised_scores_are_of_one_list(cfg: Settings) -> str | None:
    """Constrained scores add up to 1 in each list, so scores from different lists do not compare."""
    asked, trained = cfg["eval"]["num_negatives"], cfg["candidates"]["num_negatives"]
    if cfg["eval"]["ranking"] != "constrained" or asked == "full" or asked <= trained:
        return None
    if cfg["eval"].get("listing", "trained") != "trained":
        return None
    return (
        f"eval.ranking=constrained with eval.listing=trained and eval.num_negatives={asked}: probabilities would be "
        f"renormalised within each list of {trained + 1}, so scores from different lists would not compare; set "
        "eval.ranking=likelihood, or eval.listing=none or all"
    )


def reward_needs_title(cfg: Settings) -> str | None:
    """The reward pays only answers with a title, but answers have none."""
    if cfg["prompt"]["answer"] != "id":
        return None
    for phase in _drawing(cfg):
        reward = phase.settings(cfg)["reward"]
        asked = reward.get("require_title", False)
        if asked or capability(reward, "needs_title", False):
            which = "reward.require_title=true" if asked else f"reward._target_={reward['_target_']}"
            return (
                f"{which} with prompt.answer=id: this reward never pays an answer without a title; set "
                "prompt.answer=id_title or choose another reward"
            )
    return None


def loss_accepts_advantage(cfg: Settings) -> str | None:
    """The advantage differs within a completion in a way that the loss cannot use."""
    for phase in phases_of(cfg):
        if not {"advantage", "loss"} <= set(phase.kind.parts):
            continue
        seen = phase.settings(cfg)
        varies = capability(seen["advantage"], "varies", "sequence")
        accepts = capability(seen["loss"], "accepts", frozenset({"sequence"}))
        if varies not in accepts:
            return (
                f"advantage._target_={seen['advantage']['_target_']} varies by {varies}, and "
                f"loss._target_={seen['loss']['_target_']} accepts only advantages that vary by "
                f"{', '.join(sorted(accepts))}: choose another loss or another advantage"
            )
    return None


def off_policy_has_a_ratio(cfg: Settings) -> str | None:
    """Rows come from another policy, and the loss takes them for the policy's own."""
    for phase in _drawing(cfg):
        seen = phase.settings(cfg)
        if capability(seen["rollout"], "off_policy", False) and capability(
            seen.get("loss"), "on_policy_only", False
        ):
            return (
                f"rollout._target_={seen['rollout']['_target_']} draws from another policy, and "
                f"loss._target_={seen['loss']['_target_']} has no ratio to correct for it: choose loss=grpo"
            )
    return None


def needs_are_met(cfg: Settings) -> str | None:
    """A part needs a teacher, and there is none."""
    for phase in _drawing(cfg):
        seen = phase.settings(cfg)
        sections: dict[str, Any] = {
            name: seen.get(name) for name in ("reward", "rollout", "advantage", "loss")
        }
        for group in ("shapers", "regularizers"):
            sections |= {f"{group}.{name}": part for name, part in (seen.get(group) or {}).items()}
        for name, part in sections.items():
            if "teacher" in capability(part, "needs", frozenset()) and seen.get("teacher") is None:
                return f"{name}._target_={part['_target_']} needs a teacher: choose one, as in +teacher=NAME"
    return None


def baselines_have_names_of_their_own(cfg: Settings) -> str | None:
    """A baseline has the name of a stage, so the rankings of one would replace those of the other."""
    names = [*KINDS, *(phase.name for phase in phases_of(cfg))]
    taken = {"zero_shot", *names, *(f"{name}_{which}" for name in names for which in ("best", "last"))}
    clash = sorted(taken & set(cfg.get("baselines") or {}))
    if clash:
        return f"baselines.{clash[0]}: the rankings of a stage have this name; give the baseline another"
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
    """No stage learns to read the item tokens, or a stage would learn to write them."""
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
    if not _of_kinds(cfg, "sft"):
        return (
            "prompt.item_tokens=vector without phase sft, which learns to read them: add sft to method.phases, or "
            "choose method=llara"
        )
    for stage in _supervised(cfg, "all"):
        return (
            f"{stage}.loss_on=all with prompt.item_tokens=vector: the policy reads item tokens but cannot write them; "
            f"set {stage}.loss_on=answer"
        )
    return None


def stage_has_settings(cfg: Settings) -> str | None:
    """The section of a stage that should run is empty. Only warm-up may be empty: pretrained models need none."""
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
    """Rankings should end a stage early, but none are made."""
    if cfg["heldout"]["patience"] is not None and cfg["heldout"]["users"] == 0:
        return (
            f"heldout.patience={cfg['heldout']['patience']} with heldout.users=0: without rankings during a stage, "
            "patience cannot end it; set heldout.patience=null, or heldout.users=500"
        )
    return None


def heads_divide_width(cfg: Settings) -> str | None:
    """The attention heads cannot have the same, even width."""
    width, heads = cfg["backbone"].get("hidden_size"), cfg["backbone"].get("num_heads")
    if width is not None and heads is not None and (width % heads or width // heads % 2):
        return (
            f"backbone.hidden_size={width} with backbone.num_heads={heads}: each head must have the same, even "
            "width; choose a multiple of twice the number of heads"
        )
    return None


def images_are_seen(cfg: Settings) -> str | None:
    """Prompts show images, but the backbone reads only text, or a stage or the engine needs prompts of text."""
    if cfg["prompt"]["item_tokens"] != "image" or cfg["method"]["recommender"] is not None:
        return None
    if not capability(cfg["backbone"], "sees_images", False):
        return (
            "prompt.item_tokens=image with a backbone that reads only text: choose backbone=tiny_vl or qwen3_vl, or "
            "set prompt.item_tokens=none"
        )
    for stage in _supervised(cfg, "all"):
        return (
            f"prompt.item_tokens=image with {stage}.loss_on=all: the policy cannot write images; set "
            f"{stage}.loss_on=answer"
        )
    asks = bool(_of_kinds(cfg, "pointwise")) or cfg["eval"]["ranking"] == "pointwise"
    if asks and not capability(cfg["engine"], "continues_images", True):
        return (
            "prompt.item_tokens=image with yes-or-no questions: each question has its own image after the shared "
            "history, which engine=shared_prefix cannot read; set engine=plain"
        )
    return None


def pixels_agree(cfg: Settings) -> str | None:
    """The fewest pixels of an image exceed the most."""
    low, high = cfg["backbone"].get("min_pixels"), cfg["backbone"].get("max_pixels")
    if low is not None and high is not None and low > high:
        return f"backbone.min_pixels={low} exceeds backbone.max_pixels={high}: lower the first or raise the second"
    return None


def vision_heads_divide_width(cfg: Settings) -> str | None:
    """The vision heads cannot have the same width, a multiple of 4: rotary positions have two axes, each in pairs."""
    width, heads = cfg["backbone"].get("vision_size"), cfg["backbone"].get("vision_heads")
    if width is not None and heads is not None and (width % heads or width // heads % 4):
        return (
            f"backbone.vision_size={width} with backbone.vision_heads={heads}: each head must have the same width, a "
            "multiple of 4; choose a multiple of four times the number of heads"
        )
    return None


def quantized_needs_adapter(cfg: Settings) -> str | None:
    """4-bit weights cannot train without an adapter."""
    if cfg["backbone"].get("quantization") and not (cfg["backbone"].get("lora") or {}).get("rank"):
        return (
            f"backbone.quantization={cfg['backbone']['quantization']} with backbone.lora.rank=0: 4-bit weights "
            "cannot train; set backbone.lora.rank=16, or backbone.quantization=null"
        )
    return None


def quantized_needs_package(cfg: Settings) -> str | None:
    """The optional package bitsandbytes is missing."""
    if cfg["backbone"].get("quantization") and find_spec("bitsandbytes") is None:
        return (
            f"backbone.quantization={cfg['backbone']['quantization']} needs: pip install 'mllmrec[quantized]'"
        )
    return None


def logger_needs_package(cfg: Settings) -> str | None:
    """The logger's package is missing: TensorBoard is optional, and wandb may have been removed."""
    target = str(cfg["logger"]["_target_"])
    if target.endswith(".TensorBoardLoggers") and find_spec("tensorboard") is None:
        return "logger=tensorboard needs: pip install 'mllmrec[tensorboard]'"
    if target.endswith(".WandbLoggers") and find_spec("wandb") is None:
        return "logger=wandb needs: pip install wandb"
    return None


def accelerator_exists(cfg: Settings) -> str | None:
    """The requested device does not exist. Imports torch only if a device was requested."""
    wanted = cfg["trainer"]["accelerator"]
    if wanted not in ("gpu", "mps"):
        return None
    import torch

    there = torch.cuda.is_available() if wanted == "gpu" else torch.backends.mps.is_available()
    if there:
        return None
    return f"trainer.accelerator={wanted}: PyTorch finds no such device here; set trainer=cpu or trainer=auto"


CONTRADICTIONS: tuple[Rule, ...] = (
    cot_needs_policy,
    evaluated_cot_needs_policy,
    chosen_by_confidence,
    learnt_reasoning_is_said,
    lists_are_written,
    cutoffs_within_candidates,
    negatives_are_listed,
    yes_or_no_is_ranked,
    listed_candidates_end,
    generated_answers_are_listed,
    renormalised_scores_are_of_one_list,
    reward_needs_title,
    loss_accepts_advantage,
    off_policy_has_a_ratio,
    needs_are_met,
    baselines_have_names_of_their_own,
    item_tokens_have_vectors,
    item_tokens_are_learnt,
    stage_has_settings,
    patience_has_rankings,
    *DATA_RULES,
    heads_divide_width,
    images_are_seen,
    pixels_agree,
    vision_heads_divide_width,
    quantized_needs_adapter,
    quantized_needs_package,
    logger_needs_package,
)


def broken_rules(cfg: Settings, rules: tuple[Rule, ...] = CONTRADICTIONS) -> list[str]:
    """The faults that the rules find in ``cfg``."""
    faults = []
    for rule in rules:
        try:
            fault = rule(cfg)
        except (KeyError, TypeError, AttributeError, ValueError, ZeroDivisionError):
            # A value is absent or of a wrong type; the schema reports that.
            continue
        if fault is not None:
            faults.append(fault)
    return faults
