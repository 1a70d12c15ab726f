"""Rules about how answers become rankings (``inference``); written as in `mllmrec.config.rules`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mllmrec.config.capabilities import capability

Settings = Mapping[str, Any]


def _drawing(cfg: Settings) -> str | None:
    """The inference part in words, if it draws answers; runs of earlier versions name none."""
    section = cfg.get("inference")
    if not capability(section, "draws", False):
        return None
    return f"inference._target_={section['_target_']}"  # type: ignore[index]


def answers_can_be_drawn(cfg: Settings) -> str | None:
    """Answers are to be drawn, and the ranking has no answers: it is of a recommender, or of questions."""
    part = _drawing(cfg)
    if part is None:
        return None
    if cfg["method"]["recommender"] is not None:
        return (
            f"{part} with method={cfg['method']['name']}: a recommender says nothing that could be drawn; leave inference out, "
            "or choose a run of a language model"
        )
    if cfg["eval"]["ranking"] == "pointwise":
        return (
            f"{part} with eval.ranking=pointwise: Yes or No names no candidate; set inference=greedy, or eval.ranking=likelihood "
            "to draw among the candidates"
        )
    return None


def drawn_answers_follow_the_prompt(cfg: Settings) -> str | None:
    """Answers are to be drawn right after the prompt, which asks for a profile and lists no candidate."""
    part = _drawing(cfg)
    if part is None or cfg["cot"]["placement"] != "profile" or cfg["mix_ratio"] == 0:
        return None
    if cfg["eval"].get("cot", "auto") is False:
        return None
    return (
        f"{part} with cot.placement=profile: the prompt asks for a profile, and answers come from a second prompt that no drawing "
        "way writes; set inference=greedy (eval.reasoning_samples draws several profiles), or choose a run of task=reasoned"
    )


def drawn_answers_are_not_corrected(cfg: Settings) -> str | None:
    """Likelihoods are to be corrected, and the ranking comes from drawn answers."""
    part, evaluated = _drawing(cfg), cfg["eval"]
    for name in ("calibrate", "normalise"):
        asked = evaluated.get(name, "none")
        if part is not None and asked not in ("none", "same"):  # same: the run's own value is judged later
            return (
                f"{part} with eval.{name}={asked}: only likelihoods of all candidates can be corrected; set eval.{name}=none or "
                "inference=greedy"
            )
    return None


def drawn_answers_are_of_one_list(cfg: Settings) -> str | None:
    """Answers are to be drawn, and the candidates stand in several prompts, whose answers do not compare."""
    part = _drawing(cfg)
    asked, trained = cfg["eval"]["num_negatives"], cfg["candidates"]["num_negatives"]
    if part is None or cfg["eval"].get("listing", "trained") != "trained":
        return None
    if asked == "full" or asked <= trained:
        return None
    return (
        f"{part} with eval.listing=trained and eval.num_negatives={asked}: the candidates would stand in several prompts of "
        f"{trained + 1}, whose answers do not compare; set eval.listing=all or none, or eval.num_negatives={trained}"
    )


def ranked_lists_are_there(cfg: Settings) -> str | None:
    """The inference part works on ranked lists, and answers name one item."""
    section, places = cfg.get("inference"), cfg["prompt"].get("places", 1)
    if places > 1 or not capability(section, "needs_lists", False):
        return None
    return (
        f"inference._target_={section['_target_']} with prompt.places=1: answers must be ranked lists; choose a run of "  # type: ignore[index]
        "task=ranked_list, or inference=best_of_n"
    )


def reasoning_is_not_skipped(cfg: Settings) -> str | None:
    """Training prompts ask for reasoning, and the inference part continues prompts with answers at once."""
    section, places = cfg.get("inference"), cfg["prompt"].get("places", 1)
    asks = cfg["cot"]["placement"] != "prompt" and cfg["mix_ratio"] > 0
    if not asks or not capability(section, "skips_reasoning", False):
        return None
    if places == 1 and capability(section, "needs_lists", False):
        return None  # `ranked_lists_are_there` says what comes first
    return (
        f"inference._target_={section['_target_']} with cot.placement={cfg['cot']['placement']}: prompts ask for reasoning "  # type: ignore[index]
        "first, but its answers begin right after the prompt; set inference=best_of_n, whose answers have reasoning of their own, "
        "or choose a run of cot.placement=prompt"
    )


INFERENCE_RULES = (
    answers_can_be_drawn,
    drawn_answers_follow_the_prompt,
    drawn_answers_are_not_corrected,
    drawn_answers_are_of_one_list,
    ranked_lists_are_there,
    reasoning_is_not_skipped,
)
