"""Which rollouts of a stage are kept for people to read: whole groups, from steps spread over the stage."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mllmrec.prompts.examples import Example
from mllmrec.run.rollouts import Rollout
from mllmrec.stages.grpo import Judged

LEAST_STEPS, MOST_STEPS = 20, 200


def kept_steps(steps: int, every: int) -> set[int]:
    """The steps at which rollouts are kept: every held-out ranking, and 20 steps spread evenly from first to last.

    Args:
        steps: number of steps in the stage.
        every: steps between two held-out rankings.

    Returns:
        Steps from 0 on. If there are more than 200, 200 of them, spread evenly, so that the file stays small.
    """
    kept = np.union1d(np.arange(0, steps, every), _spread(steps, LEAST_STEPS))
    return set(kept[_spread(len(kept), MOST_STEPS)].tolist())


def _spread(size: int, most: int) -> np.ndarray:
    """Positions from 0 to ``size`` - 1, evenly spaced and at most ``most`` of them."""
    return np.unique(np.linspace(0, size - 1, min(size, most)).round().astype(int))


def whole_groups(step: int, batch: Sequence[Example], judged: Judged, groups: int) -> list[Rollout]:
    """The rollouts of the first ``groups`` prompts of a batch; the batch is in random order.

    Args:
        step: the stage's step.
        batch: B examples.
        judged: their B * G rollouts.
        groups: prompts to keep.
    """
    size = judged.rewards.shape[1]
    return [
        Rollout(
            step=step,
            prompt_id=batch[row // size].sample_id,
            completion=judged.texts[row],
            reward=judged.parts[row]["reward"],
            parts={name: value for name, value in judged.parts[row].items() if name != "reward"},
            advantage=float(judged.advantages[row]),
        )
        for row in range(min(groups * size, len(judged.texts)))
    ]
