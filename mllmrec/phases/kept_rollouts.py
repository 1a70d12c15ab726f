"""Rollouts for people to read: whole groups, from steps spread over a phase, and all of a step that went wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from mllmrec.rl.batch import RolloutBatch
from mllmrec.run.rollouts import Rollout

LEAST_STEPS, MOST_STEPS = 20, 200


def kept_steps(steps: int, every: int) -> set[int]:
    """The steps at which rollouts are kept: every held-out ranking, and 20 steps spread evenly from first to last.

    Args:
        steps: number of steps in the phase.
        every: steps between two held-out rankings.

    Returns:
        Steps from 0 on. If there are more than 200, 200 of them, spread evenly, so that the file stays small.
    """
    kept = np.union1d(np.arange(0, steps, every), _spread(steps, LEAST_STEPS))
    return set(kept[_spread(len(kept), MOST_STEPS)].tolist())


def _spread(size: int, most: int) -> np.ndarray:
    """Positions from 0 to ``size`` - 1, evenly spaced and at most ``most`` of them."""
    return np.unique(np.linspace(0, size - 1, min(size, most)).round().astype(int))


def whole_groups(batch: RolloutBatch, groups: int) -> list[Rollout]:
    """The rollouts of the first ``groups`` groups of a batch; its examples are in random order."""
    rewards, advantages = batch.judged().tolist(), batch.advantages
    assert advantages is not None
    # One number a row: advantages that differ within a completion are averaged over its learnt tokens.
    if advantages.dim() == 2:
        advantages = (advantages * batch.learnt).sum(1) / batch.learnt.sum(1).clamp_min(1)
    return [
        Rollout(
            step=batch.step,
            prompt_id=batch.examples[int(batch.example_of[row])].sample_id,
            completion=batch.texts[row],
            reward=rewards[row],
            parts={name: float(values[row]) for name, values in batch.parts.items()},
            advantage=float(advantages[row]),
        )
        for row in range(len(batch))
        if batch.group_of[row] < groups
    ]


def in_tokens(batch: RolloutBatch) -> dict[str, Any]:
    """All rollouts of a step as the model sees them: token ids of the prompts, and of each completion with its numbers.

    ``learnt`` says which of a completion's tokens the loss covers, ``old`` under which log-probabilities they were drawn, if
    that is known.
    """

    def of(values: Tensor | None, row: int) -> Any:
        """A row's value, or its values at the tokens that were written."""
        if values is None:
            return None
        return (
            values[row] if values.dim() == 1 else values[row][batch.completions.mask[row].to(values.device)]
        )

    return {
        "prompts": [ids[mask] for ids, mask in zip(*batch.prompts, strict=True)],
        "completions": [
            {
                "sample": batch.examples[int(batch.example_of[row])].sample_id,
                "prompt": int(batch.prompt_of[row]),
                "tokens": of(batch.completions.ids, row),
                "text": batch.texts[row],
                "learnt": of(batch.learnt, row),
                "reward": of(batch.rewards, row),
                "advantage": of(batch.advantages, row),
                "old": of(batch.old, row),
            }
            for row in range(len(batch))
        ],
    }
