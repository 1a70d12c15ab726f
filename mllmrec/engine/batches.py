"""Ragged token lists as padded tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class TokenBatch(NamedTuple):
    """Token ids and the mask of real tokens, both (rows, length)."""

    ids: Tensor  # int64
    mask: Tensor  # bool

    def to(self, device: torch.device | str) -> TokenBatch:
        """The same batch on another device."""
        return TokenBatch(self.ids.to(device), self.mask.to(device))


def pad(rows: Sequence[Sequence[int]], padding: int, *, side: str) -> TokenBatch:
    """Pad token lists to one length on the ``left`` or ``right``.

    >>> pad([[5, 6], [7]], 0, side="left").ids.tolist()
    [[5, 6], [0, 7]]
    """
    width = max((len(row) for row in rows), default=0)
    ids = torch.full((len(rows), width), padding, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for index, row in enumerate(rows):
        if not row:
            continue
        span = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[index, span] = torch.tensor(row, dtype=torch.long)
        mask[index, span] = True
    return TokenBatch(ids, mask)
