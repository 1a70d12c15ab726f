"""Rules about reasoning that the policy writes; written as in `mllmrec.config.rules`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mllmrec.config.capabilities import capability, innermost
from mllmrec.config.phases import ANSWERS, phases_of

Settings = Mapping[str, Any]


def _asks(cfg: Settings) -> bool:
    """Whether training prompts ask for reasoning before the answer, or for a profile."""
    return cfg["cot"]["placement"] != "prompt" and cfg["mix_ratio"] > 0


def _rollouts(cfg: Settings) -> list[Mapping[str, Any]]:
    """The rollouts of the phases that draw."""
    return [phase.settings(cfg)["rollout"] for phase in phases_of(cfg) if phase.kind.rolls_out]


def reasoning_is_asked_for(cfg: Settings) -> str | None:
    """Rollouts or rankings wait for reasoning, and no prompt asks for it."""
    if _asks(cfg):
        return None
    waits = [
        f"rollout._target_={rollout['_target_']}"
        for rollout in _rollouts(cfg)
        if capability(rollout, "reasons", False) and not capability(rollout, "describes", False)
    ]
    if cfg["eval"]["ranking"] == "reasoned":
        waits.append("eval.ranking=reasoned")
    if not waits:
        return None
    return (
        f"{' and '.join(dict.fromkeys(waits))} with cot.placement={cfg['cot']['placement']} and mix_ratio={cfg['mix_ratio']}: "
        "no prompt asks for reasoning before the answer; set "
        + ("" if cfg["cot"]["placement"] == "profile" else "cot.placement=completion and ")
        + "mix_ratio=1"
    )


def reasoning_is_not_cut_off(cfg: Settings) -> str | None:
    """Evaluation prompts ask for reasoning, and the ranking scores answers without any, or the other way round."""
    ranking, cot = cfg["eval"]["ranking"], cfg["eval"]["cot"]
    if not _asks(cfg):
        return None
    if cot == "auto" and ranking in ("likelihood", "constrained"):
        return (
            f"cot.placement={cfg['cot']['placement']} with eval.ranking={ranking}: prompts ask for reasoning first, but answers are scored right "
            "after the prompt without any; set eval.ranking=reasoned, or eval.cot=false to ask for none"
        )
    if cot is not False or ranking != "reasoned":
        return None
    return "eval.ranking=reasoned with eval.cot=false: prompts do not ask for the reasoning that is waited for; set eval.cot=auto"


def reasoning_fits(cfg: Settings) -> str | None:
    """Rankings allow less reasoning than rollouts do."""
    if cfg["eval"]["ranking"] != "reasoned":
        return None
    limit = cfg["eval"]["max_reasoning_tokens"]
    for rollout in _rollouts(cfg):
        trained = innermost(rollout).get("max_reasoning_tokens", 0)
        if trained > limit:
            return (
                f"eval.max_reasoning_tokens={limit} is less than rollout.max_reasoning_tokens={trained}: what the policy learns to "
                f"write would be cut off; set eval.max_reasoning_tokens={trained}"
            )
    return None


def profiles_are_written_and_read(cfg: Settings) -> str | None:
    """Profiles need prompts that ask for them, a rollout that answers in a second prompt, and a ranking that does."""
    profiles = cfg["cot"]["placement"] == "profile" and cfg["mix_ratio"] > 0
    if not profiles:
        found = [rollout for rollout in _rollouts(cfg) if capability(rollout, "describes", False)]
        if not found or cfg["eval"]["ranking"] == "reasoned":  # another rule speaks of this
            return None
        return (
            f"rollout._target_={found[0]['_target_']} with cot.placement={cfg['cot']['placement']} and "
            f"mix_ratio={cfg['mix_ratio']}: no prompt asks for a profile; set task=profiled"
        )
    if cfg["eval"]["ranking"] != "reasoned":
        return (
            f"cot.placement=profile with eval.ranking={cfg['eval']['ranking']}: answers come from a second prompt, after the "
            "profile; set eval.ranking=reasoned"
        )
    for rollout in _rollouts(cfg):
        if capability(rollout, "describes", False) is False:
            return (
                f"cot.placement=profile with rollout._target_={rollout['_target_']}, which answers right after the prompt; set "
                "rollout=profiled"
            )
        if isinstance(rollout.get("inner"), Mapping):
            return (
                f"rollout._target_={rollout['_target_']} around profiles, which it would judge without the answers after them; "
                "set rollout=profiled"
            )
    for phase in phases_of(cfg):
        if phase.own(ANSWERS) is not None:
            return (
                f"cot.placement=profile with phase {phase.name}, which learns the answers that {phase.own(ANSWERS)} drew: its rows "
                "are profiles and answers to two prompts; set cot.placement=completion, or leave the phase out"
            )
    drawing = [phase for phase in phases_of(cfg) if phase.kind.rolls_out]
    for phase in drawing:
        settings = phase.settings(cfg)
        if phase.kind.name != "grpo":
            return (
                f"cot.placement=profile with method={cfg['method']['name']}, whose phase {phase.name} learns drawn answers and no "
                "profiles; set cot.placement=completion, or choose method=mllmrec_r1"
            )
        if "greedy" in capability(settings["advantage"], "needs", frozenset()):
            return (
                f"cot.placement=profile with advantage._target_={settings['advantage']['_target_']}, whose baseline is a greedy "
                "answer right after the prompt; choose another advantage, or cot.placement=completion"
            )
    return None


REASONING_RULES = (
    reasoning_is_asked_for,
    reasoning_is_not_cut_off,
    reasoning_fits,
    profiles_are_written_and_read,
)
