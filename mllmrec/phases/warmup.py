"""Warm-up: next-item language modelling over sequences of item labels; it brings in the collaborative signal."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mllmrec.data.splits import Samples
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
        width = max(map(len, batch))
        items = torch.full((len(batch), width), -1, dtype=torch.long)
        for row, sequence in enumerate(batch):
            items[row, : len(sequence)] = torch.from_numpy(sequence.astype(np.int64))
        items = items.to(self.device)
        mask = items >= 0
        label_tokens: Any = self.label_tokens
        tokens = label_tokens[items.clamp_min(0)]
        targets = items[:, 1:]
        wanted = targets >= 0
        weights = self.model.get_output_embeddings().weight[label_tokens]
        if not the_ranks().several:
            logits = self.dropout(self._hidden(tokens, mask)[wanted]) @ weights.T
            return torch.nn.functional.cross_entropy(logits.float(), targets[wanted])
        own = the_ranks().share(len(batch))
        count, before = int(wanted.sum()), int(wanted[: own.start].sum())
        # Drawn for all sequences, so that it is the same for any number of processes.
        kept = self.dropout(torch.ones(count, weights.shape[1], dtype=weights.dtype, device=weights.device))
        if own.stop == own.start:
            return weights.sum() * 0.0
        hidden = self._hidden(tokens[own], mask[own])[wanted[own]]
        logits = (hidden * kept[before : before + len(hidden)]) @ weights.T
        return (
            torch.nn.functional.cross_entropy(logits.float(), targets[own][wanted[own]], reduction="sum")
            / count
        )

    def _hidden(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(B, L) item tokens → (B, L - 1, h) last hidden states, from which the next items are predicted."""
        return self.model.model(
            input_ids=tokens[:, :-1], attention_mask=mask[:, :-1].long(), use_cache=False
        ).last_hidden_state
