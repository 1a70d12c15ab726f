"""Exchangeable parts are checked on toy batches, so that one which gives the wrong thing is found before data are read.

The checks are those that `mllmrec.testing` offers to authors.
"""

from __future__ import annotations

import pydoc
from collections.abc import Callable, Collection, Mapping
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from mllmrec.config.rules import rolls_out
from mllmrec.errors import UserError, failure

Settings = Mapping[str, Any]


def trial_faults(settings: Settings, faulty: Collection[str] = ()) -> list[str]:
    """What is wrong with the parts that the run would use: a line for each, naming the class and what it should return.

    Args:
        settings: resolved.
        faulty: sections with known faults, which are not tried.
    """
    method = settings.get("method")
    if not isinstance(method, Mapping) or "method" in faulty:
        return []
    stages = method.get("stages") or []
    used = ["caption"]
    if rolls_out(stages):
        used += ["reward", "rollout"]
    if "grpo" in stages:
        used += ["advantage", "loss"]
    faults = []
    for group in used:
        section = settings.get(group)
        if group in faulty or not isinstance(section, Mapping) or section.get("_target_") is None:
            continue
        check, contract = _TRIALS[group]()
        what = _tried(check, group, section, settings)
        if what is not None:
            faults.append(f"{group}._target_={section['_target_']}: {what}; {contract}")
    return faults


def _tried(check: Check, group: str, section: Settings, settings: Settings) -> str | None:
    # A toy answer is short.
    short = {"max_new_tokens": 4} if group == "rollout" and "max_new_tokens" in section else {}
    try:
        part = instantiate({**section, **short})
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


# The checks need torch, which is imported only when all else is right.
Check = Callable[[Any, Settings], None]


def _reward() -> tuple[Check, str]:
    from mllmrec.testing.rewards import REWARD, check_reward

    return lambda part, settings: check_reward(part), REWARD


def _advantage() -> tuple[Check, str]:
    from mllmrec.testing.advantages import ADVANTAGE, check_advantage

    def check(part: Any, settings: Settings) -> None:
        rollout = pydoc.locate(str(settings["rollout"]["_target_"]))
        check_advantage(part, weighted=getattr(rollout, "every_answer", False))

    return check, ADVANTAGE


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
    "advantage": _advantage,
    "loss": _loss,
    "rollout": _rollout,
    "caption": _caption,
}
