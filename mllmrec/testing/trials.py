"""Exchangeable parts are checked on toy batches, so that a part that returns the wrong thing is found before data are read.

The checks are those that `mllmrec.testing` offers to authors.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from mllmrec.config.capabilities import innermost
from mllmrec.config.phases import Phase, phases_of
from mllmrec.errors import UserError, failure

Settings = Mapping[str, Any]


def trial_faults(settings: Settings, faulty: Collection[str] = ()) -> list[str]:
    """What is wrong with the parts that the run would use: a line for each, naming the class and what it should return.

    Args:
        settings: resolved.
        faulty: sections with known faults, which are not tried.
    """
    if "method" in faulty:
        return []
    try:
        phases = phases_of(settings)
    except (ValueError, KeyError, TypeError):
        return []
    tried: dict[str, None] = {}
    for group, section, seen in _used(settings, phases):
        if (
            group.split(".")[0] in faulty
            or not isinstance(section, Mapping)
            or section.get("_target_") is None
        ):
            continue
        check, contract = _TRIALS[group.split(".")[0]]()
        what = _tried(check, group, section, seen)
        if what is not None:
            tried[f"{group}._target_={section['_target_']}: {what}; {contract}"] = None
    return list(tried)


def _used(settings: Settings, phases: Sequence[Phase]) -> Iterator[tuple[str, Any, Settings]]:
    """Each part that is used: its place in the settings, its section, and the settings around it."""
    yield "caption", settings.get("caption"), settings
    for group in ("reward", "shapers", "rollout", "sampler", "advantage", "loss", "regularizers"):
        known: list[Any] = []
        for phase in phases:
            seen = phase.settings(settings)
            if group not in phase.kind.parts or seen.get(group) in known:
                continue
            known.append(seen.get(group))
            if group in ("shapers", "regularizers"):
                for name, section in (seen.get(group) or {}).items():
                    yield f"{group}.{name}", section, seen
            else:
                yield group, seen.get(group), seen


def _tried(check: Check, group: str, section: Settings, settings: Settings) -> str | None:
    try:
        part = instantiate(_short(section) if group == "rollout" else section)
    except InstantiationException:
        # What its constructor has to say was heard when the components were checked.
        return None
    try:
        check(part, settings)
    except AssertionError as wrong:
        return str(wrong) or "it fails an assertion of its own on a toy batch"
    except UserError:
        # It says itself what it needs, and says it again when the job asks it.
        return None
    except Exception as error:
        return f"it fails on a toy batch ({failure(error)})"
    return None


def _short(section: Settings) -> Settings:
    """A rollout whose toy answers are short."""
    if isinstance(section.get("inner"), Mapping):
        return {**section, "inner": _short(section["inner"])}
    return {**section, "max_new_tokens": 4} if "max_new_tokens" in section else section


def _takes_every_answer(section: Any) -> bool:
    """Whether a rollout's rows have weights; a setting may decide. A rollout that cannot be made is reported by itself."""
    try:
        return bool(instantiate(innermost(section)).every_answer) if section is not None else False
    except Exception:
        return False


# The checks need torch, which is imported only when all else is right.
Check = Callable[[Any, Settings], None]


def _reward() -> tuple[Check, str]:
    from mllmrec.testing.rewards import REWARD, check_reward

    return lambda part, settings: check_reward(part), REWARD


def _advantage() -> tuple[Check, str]:
    from mllmrec.testing.advantages import ADVANTAGE, check_advantage

    def check(part: Any, settings: Settings) -> None:
        check_advantage(part, weighted=_takes_every_answer(settings["rollout"]))

    return check, ADVANTAGE


def _sampler() -> tuple[Check, str]:
    from mllmrec.testing.samplers import SAMPLER, check_sampler

    return lambda part, settings: check_sampler(part), SAMPLER


def _shaper() -> tuple[Check, str]:
    from mllmrec.testing.rewards import SHAPER, check_shaper

    return lambda part, settings: check_shaper(part), SHAPER


def _regularizer() -> tuple[Check, str]:
    from mllmrec.testing.losses import REGULARIZER, check_regularizer

    return lambda part, settings: check_regularizer(part), REGULARIZER


def _loss() -> tuple[Check, str]:
    from mllmrec.testing.losses import LOSS, check_loss

    return lambda part, settings: check_loss(part), LOSS


def _rollout() -> tuple[Check, str]:
    from mllmrec.testing.rollouts import ROLLOUT, check_rollout

    def check(part: Any, settings: Settings) -> None:
        engine = settings.get("engine")
        check_rollout(part, instantiate(engine) if isinstance(engine, Mapping) else None)

    return check, ROLLOUT


def _caption() -> tuple[Check, str]:
    from mllmrec.testing.data import CAPTIONER, check_captioner

    return lambda part, settings: check_captioner(part), CAPTIONER


_TRIALS: dict[str, Callable[[], tuple[Check, str]]] = {
    "reward": _reward,
    "shapers": _shaper,
    "sampler": _sampler,
    "regularizers": _regularizer,
    "advantage": _advantage,
    "loss": _loss,
    "rollout": _rollout,
    "caption": _caption,
}
