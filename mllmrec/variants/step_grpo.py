"""Step-GRPO (WebGen-Agent, Lu et al. 2025, arXiv 2509.22644): the steps of all answers of a prompt are compared with each other.

The authors' steps are rounds in which an agent builds a website, each with a score of the site so far. Here a ranked list is
built, and a place of it is a step.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mllmrec.rl.advantages import Advantage, group_relative
from mllmrec.rl.batch import RolloutBatch
from mllmrec.rl.groups import Groups

LATER = ("none", "sum", "max")


class StepRelative(Advantage):
    """``(r - mean) / (std + epsilon)`` over all places of all lists of the group, for the tokens of the place.

    ``later`` says what a place gets of the places after it: nothing (``none``), their advantages on top of its own
    (``sum``), or the largest of theirs and its own (``max``). Unless ``scale``, no deviation divides. Tokens that belong to
    no place get 0.
    """

    varies = "segment"
    needs_places = True

    def __init__(
        self, later: Literal["none", "sum", "max"] = "none", scale: bool = True, epsilon: float = 1e-6
    ) -> None:
        if later not in LATER:
            raise ValueError(f"later={later}: is none of {', '.join(LATER)}")
        self.later, self.scale, self.epsilon = later, "group" if scale else "none", epsilon

    def __call__(self, batch: RolloutBatch) -> Tensor:
        """(R, T).

        Raises:
            ValueError: no reward has paid places, or tokens belong to no places.
        """
        if batch.place_rewards is None or batch.segments is None:
            raise ValueError(
                "step_grpo goes with a reward of places and a rollout of lists: choose variant=step_grpo"
            )
        places, segments = batch.place_rewards, batch.segments.cpu()
        inside = (segments >= 0) & (segments < places.shape[1])
        column = segments.clamp(0, places.shape[1] - 1)
        there = torch.zeros(places.shape).scatter_add(1, column, inside.float()) > 0
        given = pooled(places, there, batch.groups, self.scale, self.epsilon)
        given = with_later(given, there, self.later)
        return torch.where(inside, given.gather(1, column), 0.0)


def pooled(
    rewards: Tensor, there: Tensor, groups: Groups, scale: str = "group", epsilon: float = 1e-6
) -> Tensor:
    """(R, K) rewards of steps, (R, K) bool whether a row has the step → (R, K) advantages; zeros for steps that are not there.

    ``scale`` is as in `GroupRelative`; rows' weights count for each of their steps.
    """
    if not bool(there.any()):
        return torch.zeros_like(rewards)
    # A group may be without any step.
    group_of = groups.group_of[:, None].expand_as(there)[there].unique(return_inverse=True)[1]
    weights = None if groups.weights is None else groups.weights[:, None].expand_as(there)[there]
    given = group_relative(rewards[there], Groups(group_of, weights), scale, epsilon)
    return torch.zeros_like(rewards).masked_scatter(there, given)


def with_later(given: Tensor, there: Tensor, later: str) -> Tensor:
    """(R, K) advantages of steps → (R, K) with what later steps of the row add; see `StepRelative`."""
    if later == "sum":
        return given.flip(1).cumsum(1).flip(1)
    if later == "max":
        largest = given.masked_fill(~there, -float("inf")).flip(1).cummax(1).values.flip(1)
        return torch.where(there, largest, 0.0)
    return given
