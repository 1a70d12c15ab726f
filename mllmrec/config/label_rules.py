"""Rules about how candidates are named; written as in `mllmrec.config.rules`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mllmrec.config.capabilities import capability
from mllmrec.config.phases import phases_of

Settings = Mapping[str, Any]

_LETTERS = 26
_ONE_DIGIT = 9
_NAMES = {"none": "title", "number": "number"}


def _label(cfg: Settings) -> str:
    """How candidates are named; ``id`` where no prompt is read."""
    return "id" if cfg["method"]["recommender"] is not None else str(cfg["prompt"].get("label", "id"))


def names_need_a_list(cfg: Settings) -> str | None:
    """Candidates are named by their place in the prompt's list, and some prompts list none, or too many."""
    label, evaluated = _label(cfg), cfg["eval"]
    if label not in ("letter", "number"):
        return None
    where = f"prompt.label={label}"
    trained = cfg["candidates"]["num_negatives"] + 1
    if label == "letter" and trained > _LETTERS:
        return (
            f"{where} with candidates.num_negatives={trained - 1}: there are {_LETTERS} letters for {trained} candidates; set "
            f"prompt.label=number, or candidates.num_negatives={_LETTERS - 1}"
        )
    if evaluated["ranking"] == "pointwise":
        return None
    if evaluated["num_negatives"] == "full":
        return (
            f"{where} with eval.num_negatives=full: no prompt lists the whole catalogue, so its items have no {label}s; set "
            "prompt.label=id or none, or eval.num_negatives to a number"
        )
    listing = evaluated.get("listing", "trained")
    if listing == "none":
        return (
            f"{where} with eval.listing=none: candidates that no prompt lists have no {label}s; set eval.listing=trained, or "
            "prompt.label=id or none"
        )
    if label == "letter" and listing == "all" and evaluated["num_negatives"] >= _LETTERS:
        return (
            f"{where} with eval.listing=all and eval.num_negatives={evaluated['num_negatives']}: there are {_LETTERS} letters; "
            "set eval.listing=trained, or prompt.label=number"
        )
    return None


def warmup_needs_ids(cfg: Settings) -> str | None:
    """The warm-up learns sequences of item ids, which no prompt or answer shows."""
    label = _label(cfg)
    if label == "id" or not capability(cfg["backbone"], "from_scratch", False):
        return None
    for phase in phases_of(cfg):
        if phase.kind.data == "sequences" and phase.settings(cfg).get(phase.kind.name):
            return (
                f"prompt.label={label} with phase {phase.name}, which learns the tokens of item ids: set prompt.label=id, leave the "
                "phase out (method.phases=[sft,grpo]), or choose a pretrained backbone"
            )
    return None


def titles_are_said(cfg: Settings) -> str | None:
    """Titles alone tell items apart, but answers would have none."""
    if _label(cfg) == "none" and cfg["prompt"]["answer"] == "id":
        return (
            "prompt.label=none with prompt.answer=id: an answer would say nothing; set prompt.answer=id_title"
        )
    return None


def items_stand_apart(cfg: Settings) -> str | None:
    """Items without ids run into each other, since the wording puts nothing between them."""
    if _label(cfg) != "id" and cfg["prompt"]["template"] == "compact":
        return (
            f"prompt.label={_label(cfg)} with prompt.template=compact, which puts only a space between items: where one title ends "
            "would not be seen; set prompt.template=instruct"
        )
    return None


def lists_tell_names_apart(cfg: Settings) -> str | None:
    """In lists of candidates, one name may be the beginning of another, and no end token tells them apart."""
    label, places = _label(cfg), cfg["prompt"].get("places", 1)
    if places == 1 or label not in ("none", "number"):
        return None
    listed = [cfg[part]["num_negatives"] for part in ("candidates", "eval")]
    if label == "number" and all(count != "full" and count < _ONE_DIGIT for count in listed):
        return None
    drawn = [phase.settings(cfg)["rollout"] for phase in phases_of(cfg) if phase.kind.rolls_out]
    if cfg["eval"]["ranking"] != "constrained" and not any(capability(one, "lists", False) for one in drawn):
        return None
    return (
        f"prompt.label={label} with prompt.places={places} and lists of the candidates: one {_NAMES[label]} may be the beginning of "
        "another; set prompt.label=id or letter, or rollout=lines and eval.ranking=generate"
    )


def reward_reads_names(cfg: Settings) -> str | None:
    """The reward pays only answers that name items by their ids."""
    label = _label(cfg)
    if label == "id":
        return None
    for phase in phases_of(cfg):
        if phase.kind.rolls_out:
            reward = phase.settings(cfg)["reward"]
            if capability(reward, "needs_ids", False):
                return (
                    f"reward._target_={reward['_target_']} with prompt.label={label}: this reward never pays an answer that does not "
                    "name items by their ids; set prompt.label=id or choose another reward"
                )
    return None


LABEL_RULES = (
    names_need_a_list,
    warmup_needs_ids,
    titles_are_said,
    items_stand_apart,
    lists_tell_names_apart,
    reward_reads_names,
)
