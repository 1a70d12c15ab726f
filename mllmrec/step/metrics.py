"""The numbers logged about a batch of rollouts, under TRL's names where TRL has one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from mllmrec.rl.batch import POLICY, RolloutBatch


def rollout_metrics(batch: RolloutBatch, *, constrained: bool) -> dict[str, float]:
    """Rewards, lengths and validity of what the policy said to the examples' own prompts.

    Rows that answer hints, or a rollout's own questions, do not show how good the policy is. Only the spread of rewards
    covers them, since that is what the advantages see.

    Args:
        batch: judged.
        constrained: whether only the candidates' answers were possible, so that all are valid.
    """
    spread, learns = batch.groups.std(batch.judged()), ~batch.groups.all_equal(batch.judged())
    batch = _own(batch)
    rewards, groups = batch.judged(), batch.groups
    lengths = batch.completions.mask.sum(1).float()
    metrics: dict[str, Any] = {
        "reward": groups.mean(rewards).mean(),
        "reward_std": spread.mean(),
        "frac_reward_zero_std": (~learns).float().mean(),
        "completions/mean_length": lengths.mean(),
        "completions/min_length": lengths.min(),
        "completions/max_length": lengths.max(),
        "completions/clipped_ratio": 1 - batch.finished.float().mean(),
    }
    for name, values in batch.parts.items():
        metrics[f"rewards/{name}/mean"] = groups.mean(values).mean()
    if not constrained:
        metrics |= _invalid(batch)
    with_cot = torch.tensor([example.has_reasoning for example in batch.examples])
    # A group's rows are about one example; the first of them says which.
    first = torch.zeros(groups.count, dtype=torch.long).scatter_(
        0, batch.group_of.flip(0), batch.example_of.flip(0)
    )
    means = groups.mean(rewards)
    for name, chosen in (("reward_with_cot", with_cot[first]), ("reward_without_cot", ~with_cot[first])):
        if chosen.any():
            metrics[name] = means[chosen].mean()
    return {name: float(value) for name, value in metrics.items()}


def _own(batch: RolloutBatch) -> RolloutBatch:
    """The rows that the policy drew for the examples' own prompts; all rows if there are none."""
    rows = batch.by(POLICY)
    if rows.all() or not rows.any():
        return batch
    own = batch.take(rows.nonzero()[:, 0])
    return replace(own, group_of=own.group_of.unique(return_inverse=True)[1])


def _invalid(batch: RolloutBatch) -> dict[str, float]:
    """The shares of answers that do not have the right form, and of answers that name an item not listed."""
    malformed = unlisted = 0
    for row, parsed in enumerate(batch.answers):
        asked = batch.question(row)
        if not asked.well_formed(parsed):
            malformed += 1
        elif any(item not in asked.titles for item, _ in parsed.items):
            unlisted += 1
    rows = len(batch)
    return {
        "completions/malformed_ratio": malformed / rows,
        "completions/unlisted_ratio": unlisted / rows,
    }
