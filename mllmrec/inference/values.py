"""A value model: the expected reward of an unfinished answer, from the policy's own last hidden state.

ReST-RL fine-tunes a language model for it. Here it is a ridge regression on the states of the frozen policy, fitted in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from mllmrec.engine.base import positions_of
from mllmrec.engine.batches import pad
from mllmrec.models.policy import Policy

_PENALTIES = tuple(10.0**power for power in range(-2, 5))  # among which cross-validation chooses


class ValueModel:
    """Predicts rewards of prefixes."""

    def __init__(self, states: np.ndarray, returns: np.ndarray, groups: np.ndarray) -> None:
        """Fit.

        Args:
            states: (n, h) of prefixes.
            returns: (n,) the mean reward of the answers that begin with each.
            groups: (n,) the prompt of each, so that no prompt is on both sides of the cross-validation.
        """
        from sklearn.linear_model import RidgeCV
        from sklearn.model_selection import GroupKFold, cross_val_predict
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        self._model = make_pipeline(StandardScaler(), RidgeCV(_PENALTIES))
        folds = GroupKFold(min(5, len(np.unique(groups))))
        guessed = cross_val_predict(self._model, states, returns, groups=groups, cv=folds)
        # The share of the variance that it explains for other prompts; 0 where all rewards are equal, which their mean may
        # not be to the last digit.
        self.explained = 0.0
        if np.ptp(returns) > 0:
            spread = float(np.square(returns - returns.mean()).sum())
            self.explained = 1 - float(np.square(returns - guessed).sum()) / spread
        self._model.fit(states, returns)

    def __call__(self, states: np.ndarray) -> np.ndarray:
        """(n, h) → (n,) expected rewards."""
        return np.asarray(self._model.predict(states), dtype=np.float64)


@torch.no_grad()
def last_states(policy: Policy, rows: Sequence[Sequence[int]], at_once: int) -> np.ndarray:
    """(n, h) float32, the last layer's state at the last token of each row of token ids.

    Args:
        policy: in evaluation mode.
        rows: n rows.
        at_once: rows through the model at once.
    """
    found = []
    for start in range(0, len(rows), at_once):
        part = [list(row) for row in rows[start : start + at_once]]
        ids, mask = pad(part, policy.padding_token, side="left").to(policy.device)
        output = policy.model(
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=positions_of(policy.model, ids, mask),
            use_cache=False,
            logits_to_keep=1,
            output_hidden_states=True,
        )
        found.append(output.hidden_states[-1][:, -1].float().cpu().numpy())
    return np.concatenate(found)


def prefix_returns(lists: Sequence[Sequence[int]], rewards: Sequence[float]) -> dict[tuple[int, ...], float]:
    """For each prefix of one or more items of a prompt's lists, the mean reward of the lists that begin with it."""
    found: dict[tuple[int, ...], list[float]] = {}
    for named, reward in zip(lists, rewards, strict=True):
        for length in range(1, len(named) + 1):
            found.setdefault(tuple(named[:length]), []).append(reward)
    return {prefix: float(np.mean(values)) for prefix, values in found.items()}
