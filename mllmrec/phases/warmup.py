"""Warm-up: next-item language modelling over sequences of item labels; it brings in the collaborative signal."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mllmrec.data.splits import Samples
from mllmrec.engine.packed import last_hidden_states, packs
from mllmrec.engine.products import linear, recurring
from mllmrec.phases.base import OptimizerSettings, PhaseModule
from mllmrec.ranks import the_ranks


def training_sequences(train: Samples, length: int) -> list[np.ndarray]:
    """Item codes that training may see, oldest first, one array per user and chunk of ``length`` + 1 items.

    A user's sequence ends with the latest training target. Chunks overlap by one item, so every item but the first is
    predicted once.
    """
    sequences = []
    for sequence in train.parts():
        for stop in range(len(sequence), 1, -length):
            sequences.append(sequence[max(0, stop - length - 1) : stop])
    return sequences


class Warmup(PhaseModule):
    """Predicts every next item among all I, by a softmax over the label tokens' output weights."""

    name = section = "warmup"
    divides_steps = True

    def __init__(
        self,
        model: Any,
        label_tokens: np.ndarray,
        optimizer: OptimizerSettings,
        updates: int,
        dropout: float = 0.3,
    ) -> None:
        """Hold the model.

        Args:
            model: a Hugging Face causal language model.
            label_tokens: (I,) the token of each item's label.
            optimizer: the optimiser's settings.
            updates: optimiser steps in the whole phase.
            dropout: dropout rate on the last hidden state.
        """
        super().__init__(model, optimizer, updates)
        self.register_buffer(
            "label_tokens", torch.as_tensor(label_tokens, dtype=torch.long), persistent=False
        )
        self.dropout = torch.nn.Dropout(dropout)

    def training_step(self, batch: list[np.ndarray], batch_idx: int) -> None:
        """One update from a batch of item sequences."""
        self.log_step(self.update([self.loss(batch)]))

    def in_tokens(self, batch: list[np.ndarray], step: int) -> dict[str, Any]:
        """The labels of each sequence."""
        labels: Any = self.label_tokens
        return {"sequences": [labels[torch.from_numpy(items.astype(np.int64))] for items in batch]}

    def loss(self, batch: list[np.ndarray]) -> Tensor:
        """Mean cross-entropy of every next item, in nats; of several processes each returns its sequences' share of it."""
        labels: Any = self.label_tokens
        codes = [torch.from_numpy(items.astype(np.int64)).to(self.device) for items in batch]
        weights = self.model.get_output_embeddings().weight[labels]
        if not the_ranks().several:
            logits = self._logits(self.dropout(self._hidden(codes)), weights)
            return torch.nn.functional.cross_entropy(logits, torch.cat([items[1:] for items in codes]))
        own = the_ranks().share(len(batch))
        count = sum(len(items) - 1 for items in batch)
        before = sum(len(items) - 1 for items in batch[: own.start])
        # Drawn for all sequences, so that it is the same for any number of processes.
        kept = self.dropout(torch.ones(count, weights.shape[1], dtype=weights.dtype, device=weights.device))
        if own.stop == own.start:
            return weights.sum() * 0.0
        codes = codes[own]
        hidden = self._hidden(codes)
        logits = self._logits(hidden * kept[before : before + len(hidden)], weights)
        targets = torch.cat([items[1:] for items in codes])
        return torch.nn.functional.cross_entropy(logits, targets, reduction="sum") / count

    def _logits(self, hidden: Tensor, weights: Tensor) -> Tensor:
        """(N, h) → (N, I), by a product of a recurring number of rows."""
        spare = recurring(len(hidden)) - len(hidden)
        return linear(torch.nn.functional.pad(hidden, (0, 0, 0, spare)), weights)[: len(hidden)].float()

    def _hidden(self, codes: list[Tensor]) -> Tensor:
        """B sequences of items → (N, h) last hidden states, from which all items but the first are predicted."""
        labels: Any = self.label_tokens
        rows = [labels[items[:-1]] for items in codes]
        if self.division is None and packs(self.model):
            return last_hidden_states(self.model, rows)
        return self._padded(rows)

    def _padded(self, rows: list[Tensor]) -> Tensor:
        """`last_hidden_states` with padding, for models that cannot do without."""
        tokens = pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows], device=tokens.device)
        mask = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        return self.model.model(
            input_ids=tokens, attention_mask=mask.long(), use_cache=False
        ).last_hidden_state[mask]
