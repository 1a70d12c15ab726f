"""Batches of item sequences of different lengths; B sequences, L places."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mllmrec.randomness import numpy_generator

_BATCHES_SORTED_TOGETHER = 16


def padded(sequences: Sequence[np.ndarray], longest: int) -> tuple[Tensor, Tensor]:
    """The latest `longest` items of each sequence, padded at the end to the longest of the batch.

    Returns:
        (B, L) int64 item codes, 0 in the padding, and (B,) int64 lengths; L is at least 1.
    """
    kept = [sequence[-longest:] for sequence in sequences]
    lengths = np.array([len(sequence) for sequence in kept], dtype=np.int64)
    items = np.zeros((len(kept), max(1, int(lengths.max(initial=0)))), dtype=np.int64)
    for row, sequence in zip(items, kept, strict=True):
        row[: len(sequence)] = sequence
    return torch.from_numpy(items), torch.from_numpy(lengths)


def in_sequence(lengths: Tensor, places: int) -> Tensor:
    """(B, L) bool: False in the padding."""
    return torch.arange(places, device=lengths.device) < lengths[:, None]


class LengthBatches:
    """A batch sampler. Each epoch has every sequence once, in batches of similar length and in a new random order.

    Sequences are shuffled, then sorted by length within every 16 batches only, so that batches differ between epochs.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed = lengths, batch_size, seed

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return -(-len(self.lengths) // self.batch_size)

    def of_epoch(self, epoch: int) -> list[list[int]]:
        """The batches of an epoch, from 0 on, as positions of sequences."""
        generator = numpy_generator(self.seed, "recommender batches", epoch)
        order = generator.permutation(len(self.lengths))
        together = self.batch_size * _BATCHES_SORTED_TOGETHER
        batches = []
        for start in range(0, len(order), together):
            part = order[start : start + together]
            part = part[np.argsort(self.lengths[part], kind="stable")]
            batches += [
                part[at : at + self.batch_size].tolist() for at in range(0, len(part), self.batch_size)
            ]
        return [batches[place] for place in generator.permutation(len(batches))]
