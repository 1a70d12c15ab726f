"""RepExp (Tuyls et al. 2025, arXiv 2510.11686): where a group has a right answer, answers unlike the others earn a bonus."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mllmrec.rewards.base import Reward, Rewards
from mllmrec.rl.batch import RolloutBatch
from mllmrec.text_encoders.base import TextEncoder, require_encoder
from mllmrec.text_encoders.described import DescribedItems


class RepExp(Reward):
    """Another reward plus ``weight`` times how little a row's representation is explained by those of its group.

    The representations ``h``, minus their mean in the group, have the matrix ``S = ridge * I + sum of h h'``. The bonus is
    ``b = h' S^-1 h``, or ``b / (1 - b)`` without the row's own share of S. It is at most G - 1 in a group of G. Groups
    without a right answer get none.

    The authors represent an answer by the policy's hidden states, projected at random. Here it is the text of the item that
    it names, or the mean of a list's texts. Answers that name no item that the job knows take no part. Rows count alike,
    whatever their probabilities, so the bonus is of use only where rows are drawn.

    Args:
        inner: the reward.
        encoder: turns the items' texts into vectors.
        weight: of the bonus.
        ridge: what is added to the diagonal of S.
        leave_one_out: whether a row's own share is left out of S.
        cap: the bonus is held below this; a group of up to ``cap + 1`` rows never reaches it.
        accuracy: the inner reward's part, or its total if it has no such part, that is above 0 for right answers.

    Raises:
        UserError: the encoder is none.
        ValueError: ``ridge`` is not above 0.
    """

    def __init__(
        self,
        inner: Reward,
        encoder: TextEncoder,
        weight: float = 0.01,
        ridge: float = 0.01,
        leave_one_out: bool = True,
        cap: float = 31.0,
        accuracy: str = "hit",
    ) -> None:
        require_encoder(encoder, "reward.encoder")
        if ridge <= 0:
            raise ValueError(f"ridge={ridge}: must be above 0")
        self.inner, self.encoder, self.weight, self.ridge = inner, encoder, weight, ridge
        self.leave_one_out, self.cap, self.accuracy = leave_one_out, cap, accuracy
        self.needs_title, self.pays_places = inner.needs_title, inner.pays_places
        self.needs_ids = inner.needs_ids
        self._vectors: dict[str, np.ndarray] = {}  # item id → (D,)

    @property
    def parts(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those of the inner reward, and the bonus before its weight."""
        return (*self.inner.parts, "novelty")

    @property
    def bounds(self) -> tuple[float, float]:
        """Those of the inner reward, moved by the largest bonus."""
        low, high = self.inner.bounds
        most = self.weight * (self.cap if self.leave_one_out else 1.0)
        return low + min(most, 0.0), high + max(most, 0.0)

    def meet_items(self, items: DescribedItems) -> None:
        """Encode the texts.

        Raises:
            UserError: they cannot be encoded.
        """
        self.inner.meet_items(items)
        self._vectors = dict(zip(items.ids, items.vectors(self.encoder), strict=True))

    def __call__(self, batch: RolloutBatch) -> Rewards:
        """See `Reward`; the part ``novelty`` is the bonus before its weight."""
        if not self._vectors:
            raise ValueError("meet_items has to be called before anything is judged")
        given = self.inner(batch)
        right = given.parts.get(self.accuracy, given.total) > 0
        solved = batch.groups.rows(batch.groups.any(right))
        known = [
            [self._vectors[item] for item, _ in answer.items if item in self._vectors]
            for answer in batch.answers
        ]
        novelty = torch.zeros(len(batch))
        for group in range(batch.groups.count):
            rows = [row for row in (batch.group_of == group).nonzero()[:, 0].tolist() if known[row]]
            if rows and bool(solved[rows[0]]):
                table = torch.tensor(np.stack([np.mean(known[row], axis=0) for row in rows])).double()
                bonus = leverages(table - table.mean(0), self.ridge, self.leave_one_out)
                novelty[rows] = bonus.clamp_max(self.cap).float()
        return Rewards(given.total + self.weight * novelty, {**given.parts, "novelty": novelty}, given.places)


def leverages(rows: Tensor, ridge: float, leave_one_out: bool) -> Tensor:
    """``h' S^-1 h`` of each row h, with ``S = ridge * I + sum of h h'`` over all rows, or over the others.

    Args:
        rows: (G, D) float64.
        ridge: above 0.
        leave_one_out: whether the sum leaves out the row itself.

    Returns:
        (G,), at least 0.
    """
    products = rows @ rows.T
    # The same by products of rows, a matrix of G by G: h' (ridge I + H'H)^-1 h for all h is diag(K (ridge I + K)^-1).
    eye = torch.eye(len(rows), dtype=rows.dtype)
    left = torch.linalg.inv(ridge * eye + products).diagonal() * ridge  # one minus the leverage
    return (1 / left - 1 if leave_one_out else 1 - left).clamp_min(0)
