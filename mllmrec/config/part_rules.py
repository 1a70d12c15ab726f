"""Rules about parts that must fit each other: rollout, reward, shapers, advantage, loss and regularizers; written as in
`mllmrec.config.rules`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mllmrec.config.capabilities import capability
from mllmrec.config.phase_rules import drawing
from mllmrec.config.phases import phases_of

Settings = Mapping[str, Any]


def reward_needs_title(cfg: Settings) -> str | None:
    """The reward pays only answers with a title, but answers have none."""
    if cfg["prompt"]["answer"] != "id":
        return None
    for phase in drawing(cfg):
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


def places_are_paid(cfg: Settings) -> str | None:
    """The advantage reads a reward for each place of a list, and the reward pays lists as a whole."""
    for phase in drawing(cfg):
        seen = phase.settings(cfg)
        if "advantage" not in phase.kind.parts or not capability(seen["advantage"], "needs_places", False):
            continue
        judges = [seen["reward"], *(seen.get("shapers") or {}).values()]
        if not any(capability(one, "pays_places", False) for one in judges):
            return (
                f"reward._target_={seen['reward']['_target_']} pays an answer as a whole, and "
                f"advantage._target_={seen['advantage']['_target_']} reads a reward for each place of a list: set "
                "reward=rank_list, or choose another advantage and loss"
            )
    return None


def parts_are_paid(cfg: Settings) -> str | None:
    """The advantage reads parts of a reward that nothing pays."""
    for phase in drawing(cfg):
        seen = phase.settings(cfg)
        if "advantage" not in phase.kind.parts or not capability(seen["advantage"], "needs_parts", False):
            continue
        judges = [seen["reward"], seen["rollout"], *(seen.get("shapers") or {}).values()]
        parts = [capability(one, "parts", ()) for one in judges]
        wanted = seen["advantage"].get("weights")
        if not isinstance(wanted, Mapping) or not all(isinstance(one, tuple) for one in parts):
            continue  # parts that only a running reward knows
        known = sorted({name for one in parts for name in one})
        for name in wanted:
            if name not in known:
                return (
                    f"advantage.weights.{name}: neither reward nor shapers have such a part; they have "
                    f"{', '.join(known) or 'none'}: name one of these, or remove it with ~advantage.weights.{name}"
                )
    return None


def flat_groups_are_left_out_once(cfg: Settings) -> str | None:
    """The advantage makes up for groups without variance, and the mean of the loss does not count them either."""
    for phase in drawing(cfg):
        seen = phase.settings(cfg)
        if "advantage" not in phase.kind.parts or not capability(seen["advantage"], "makes_up", False):
            continue
        if seen[phase.kind.name].get("skip_zero_variance") == "drop":
            return (
                f"{phase.kind.name}.skip_zero_variance=drop with advantage._target_={seen['advantage']['_target_']}: both make up "
                f"for groups without variance; set {phase.kind.name}.skip_zero_variance=auto, or choose advantage=grpo"
            )
    return None


def off_policy_has_a_ratio(cfg: Settings) -> str | None:
    """Rows come from another policy, and the loss takes them for the policy's own."""
    for phase in drawing(cfg):
        seen = phase.settings(cfg)
        if capability(seen["rollout"], "off_policy", False) and capability(
            seen.get("loss"), "on_policy_only", False
        ):
            return (
                f"rollout._target_={seen['rollout']['_target_']} draws from another policy, and "
                f"loss._target_={seen['loss']['_target_']} has no ratio to correct for it: choose loss=grpo"
            )
    return None


def criteria_are_paid(cfg: Settings) -> str | None:
    """The rollout asks for what no part of the reward tells."""
    for phase in drawing(cfg):
        seen = phase.settings(cfg)
        wanted, parts = seen["rollout"].get("criteria"), capability(seen["reward"], "parts", ())
        if not capability(seen["rollout"], "needs_parts", False) or not isinstance(parts, tuple):
            continue
        for name in wanted if isinstance(wanted, Mapping) else ():
            if name not in parts:
                return (
                    f"rollout.criteria.{name}: reward._target_={seen['reward']['_target_']} has no such part; it has "
                    f"{', '.join(sorted(parts)) or 'none'}: set reward=rubric, or remove it with ~rollout.criteria.{name}"
                )
    return None


def foreign_tokens_are_weighed(cfg: Settings) -> str | None:
    """Somebody else wrote some of the tokens that are learnt, and the loss takes them for the policy's own."""
    for phase in drawing(cfg):
        seen = phase.settings(cfg)
        if "loss" not in phase.kind.parts or not capability(seen["rollout"], "inserts", False):
            continue
        if not capability(seen["loss"], "takes_foreign", False):
            return (
                f"rollout._target_={seen['rollout']['_target_']} puts tokens of somebody else into answers, and "
                f"loss._target_={seen['loss']['_target_']} takes them for the policy's own: set loss=shaped"
            )
    return None


def several_updates_have_a_ratio(cfg: Settings) -> str | None:
    """A loss without a ratio learns from answers that an older policy gave."""
    for phase in drawing(cfg):
        seen = phase.settings(cfg)
        updates = seen[phase.kind.name].get("iterations", 1)
        if updates > 1 and capability(seen.get("loss"), "on_policy_only", False):
            return (
                f"{phase.kind.name}.iterations={updates} with loss._target_={seen['loss']['_target_']}: from the second update on, "
                "the answers are an older policy's, and this loss has no ratio to correct for it; set "
                f"{phase.kind.name}.iterations=1, or choose loss=grpo"
            )
    return None


def reasoning_is_penalised(cfg: Settings) -> str | None:
    """A regularizer spares the tokens of answers, and answers have no others."""
    for phase in drawing(cfg):
        seen = phase.settings(cfg)
        if not capability(seen["rollout"], "constrained", False) or capability(
            seen["rollout"], "reasons", False
        ):
            continue
        for name, one in (seen.get("regularizers") or {}).items():
            if isinstance(one, Mapping) and one.get("answers") is False:
                return (
                    f"regularizers.{name}.answers=false with a rollout that allows only the candidates' answers: there are no "
                    f"other tokens to penalise; set task=reasoned, or regularizers.{name}.answers=true"
                )
    return None


def needs_are_met(cfg: Settings) -> str | None:
    """A part needs a teacher, and there is none."""
    for phase in drawing(cfg):
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


PART_RULES = (
    reward_needs_title,
    loss_accepts_advantage,
    places_are_paid,
    parts_are_paid,
    flat_groups_are_left_out_once,
    off_policy_has_a_ratio,
    criteria_are_paid,
    foreign_tokens_are_weighed,
    several_updates_have_a_ratio,
    reasoning_is_penalised,
    needs_are_met,
)
