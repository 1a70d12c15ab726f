"""Rules about reasoning that the policy writes; written as in `mllmrec.config.rules`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mllmrec.config.capabilities import capability, innermost
from mllmrec.config.phases import phases_of

Settings = Mapping[str, Any]


def _asks(cfg: Settings) -> bool:
    """Whether training prompts ask for reasoning before the answer."""
    return cfg["cot"]["placement"] == "completion" and cfg["mix_ratio"] > 0


def reasoning_is_asked_for(cfg: Settings) -> str | None:
    """Rollouts or rankings wait for reasoning, and no prompt asks for it."""
    if _asks(cfg):
        return None
    waits = [
        f"rollout._target_={rollout['_target_']}"
        for phase in phases_of(cfg)
        if phase.kind.rolls_out and capability(rollout := phase.settings(cfg)["rollout"], "reasons", False)
    ]
    if cfg["eval"]["ranking"] == "reasoned":
        waits.append("eval.ranking=reasoned")
    if not waits:
        return None
    return (
        f"{' and '.join(dict.fromkeys(waits))} with cot.placement={cfg['cot']['placement']} and mix_ratio={cfg['mix_ratio']}: "
        "no prompt asks for reasoning before the answer; set cot.placement=completion and mix_ratio=1"
    )


def reasoning_is_not_cut_off(cfg: Settings) -> str | None:
    """Evaluation prompts ask for reasoning, and the ranking scores answers without any, or the other way round."""
    ranking, cot = cfg["eval"]["ranking"], cfg["eval"]["cot"]
    if not _asks(cfg):
        return None
    if cot == "auto" and ranking in ("likelihood", "constrained"):
        return (
            f"cot.placement=completion with eval.ranking={ranking}: prompts ask for reasoning first, but answers are scored right "
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
    for phase in phases_of(cfg):
        if not phase.kind.rolls_out:
            continue
        trained = innermost(phase.settings(cfg)["rollout"]).get("max_reasoning_tokens", 0)
        if trained > limit:
            return (
                f"eval.max_reasoning_tokens={limit} is less than rollout.max_reasoning_tokens={trained}: what the policy learns to "
                f"write would be cut off; set eval.max_reasoning_tokens={trained}"
            )
    return None


REASONING_RULES = (reasoning_is_asked_for, reasoning_is_not_cut_off, reasoning_fits)
