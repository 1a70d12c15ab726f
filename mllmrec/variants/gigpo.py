"""GiGPO (Feng et al. 2025, arXiv 2505.10978): steps from the same state are compared, beside whole answers.

The authors' episodes are talks with an environment. Here a ranked list is an episode, and a place of it is a step. Its
state is the set of items that are listed before it, in any order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mllmrec.rl.advantages import Advantage, group_relative
from mllmrec.rl.batch import RolloutBatch
from mllmrec.rl.groups import Groups


class GroupInGroup(Advantage):
    """``A_E + omega * A_S`` for the tokens of a place.

    A_E compares the reward of the list within the group, A_S that of the place among the group's places in the same
    state; a place whose state is found once has none. Unless ``scale``, no deviation divides. A place's reward counts as
    what it earns with all later ones (``reward=rank_list reward.credit=log_decay``), so nothing is discounted here.
    """

    varies = "segment"
    needs_places = True

    def __init__(self, omega: float = 1.0, scale: bool = True, epsilon: float = 1e-6) -> None:
        self.omega, self.scale, self.epsilon = omega, "group" if scale else "none", epsilon

    def __call__(self, batch: RolloutBatch) -> Tensor:
        """(R, T); tokens that belong to no place have A_E alone.

        Raises:
            ValueError: no reward has paid places, or tokens belong to no places.
        """
        if batch.place_rewards is None or batch.segments is None:
            raise ValueError(
                "gigpo goes with a reward of places and a rollout of lists: choose variant=gigpo"
            )
        places = batch.place_rewards
        states = states_of(batch, places.shape[1])
        of_places = within_states(places, states, batch.weights, self.scale, self.epsilon)
        segments = batch.segments.cpu()
        inside = (segments >= 0) & (segments < places.shape[1])
        of_tokens = torch.where(inside, of_places.gather(1, segments.clamp(0, places.shape[1] - 1)), 0.0)
        return (
            group_relative(batch.judged(), batch.groups, self.scale, self.epsilon)[:, None]
            + self.omega * of_tokens
        )


def states_of(batch: RolloutBatch, places: int) -> Tensor:
    """(R, K) the state in which each row names its k-th item, the same number for the same state of a group; -1: no item."""
    numbers: dict[tuple[int, frozenset[str]], int] = {}
    states = torch.full((len(batch), places), -1)
    for row, (answer, group) in enumerate(zip(batch.answers, batch.group_of.tolist(), strict=True)):
        items = [item for item, _ in answer.items]
        for place in range(min(places, len(items))):
            state = (group, frozenset(items[:place]))
            states[row, place] = numbers.setdefault(state, len(numbers))
    return states


def within_states(
    rewards: Tensor,
    states: Tensor,
    weights: Tensor | None = None,
    scale: str = "group",
    epsilon: float = 1e-6,
) -> Tensor:
    """(R, K) rewards of places → (R, K) advantages among places in the same state; zeros where there is no item.

    Args:
        rewards: of all places.
        states: (R, K), -1 where there is no item.
        weights: (R,) probabilities of rows.
        scale: ``group`` divides by the deviation of a state's rewards, ``none`` by nothing.
        epsilon: added to that deviation.
    """
    named = states >= 0
    if not bool(named.any()):
        return torch.zeros_like(rewards)
    state_of = states[named].unique(return_inverse=True)[1]
    chances = None if weights is None else weights.cpu()[:, None].expand(named.shape)[named]
    given = group_relative(rewards[named], Groups(state_of, chances), scale, epsilon)
    return torch.zeros_like(rewards).masked_scatter(named, given)
