"""Shared by GRU4Rec, SASRec and BERT4Rec: training with Lightning, scoring, and the weights file.

B sequences, L places, D numbers in a vector, I items, F features of an item.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from mllmrec.baselines.base import FitInputs, Recommender
from mllmrec.baselines.item_sequences import LengthBatches, in_sequence, padded
from mllmrec.baselines.keep_best import KeepBest
from mllmrec.baselines.next_item_loss import NextItemLoss
from mllmrec.baselines.settings import TrainingSettings
from mllmrec.baselines.weights_file import read_weights, write_weights
from mllmrec.data.parts import Parts
from mllmrec.errors import UserError
from mllmrec.randomness import seeded_globals
from mllmrec.run.progress import Epochs

_SCORED_AT_ONCE = 256


class ItemVectors(nn.Module):
    """A learnt vector for every item, plus a linear image of the item's features if it has any."""

    features: Tensor | None

    def __init__(self, num_items: int, size: int, features: np.ndarray | None = None) -> None:
        super().__init__()
        self.own = nn.Embedding(num_items, size)
        self.register_buffer("features", None if features is None else torch.as_tensor(features))
        self.project = None if features is None else nn.Linear(features.shape[1], size)

    def forward(self) -> Tensor:
        """(I, D)."""
        if self.project is None:
            return self.own.weight
        return self.own.weight + self.project(self.features)


class SequenceNetwork(nn.Module, ABC):
    """A network that predicts the next item by the inner product of a query with the items' vectors."""

    items: ItemVectors

    @abstractmethod
    def query(self, items: Tensor, lengths: Tensor, vectors: Tensor) -> Tensor:
        """(B, D): what comes after these histories.

        Args:
            items: (B, L) codes, padded at the end.
            lengths: (B,).
            vectors: (I, D) of all items.
        """

    @abstractmethod
    def loss(self, items: Tensor, lengths: Tensor) -> Tensor:
        """The mean loss of a batch of training sequences, padded at the end."""


class NextItemNetwork(SequenceNetwork):
    """A network that reads from the left, so that all next items of a sequence are learnt at once."""

    next_item_loss: NextItemLoss

    @abstractmethod
    def states(self, items: Tensor, lengths: Tensor, vectors: Tensor) -> Tensor:
        """(B, L, D): what the network knows at each place from the items up to that place."""

    def query(self, items: Tensor, lengths: Tensor, vectors: Tensor) -> Tensor:
        """The state at the latest item."""
        rows = torch.arange(len(items), device=items.device)
        return self.states(items, lengths, vectors)[rows, (lengths - 1).clamp(min=0)]

    def loss(self, items: Tensor, lengths: Tensor) -> Tensor:
        """The mean loss over all items that have an item before them."""
        vectors = self.items()
        known, following = items[:, :-1], items[:, 1:]
        real = in_sequence(lengths - 1, known.shape[1])
        states = self.states(known, lengths - 1, vectors)[real]
        return self.next_item_loss(states, vectors, following[real])


def small_weights(network: nn.Module) -> None:
    """Draw all matrices from a normal distribution with deviation 0.02, as BERT4Rec and S3-Rec's SASRec do."""
    for weight in network.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=0.02)


class NeuralRecommender(Recommender):
    """Trains a `SequenceNetwork`."""

    kind: str
    shared = True

    def __init__(self, training: TrainingSettings) -> None:
        self.training = training
        self._progress: _Progress | None = None  # None if the weights were read from a file

    @abstractmethod
    def build(self, num_items: int, features: np.ndarray | None) -> SequenceNetwork:
        """The untrained network; ``features`` are (I, F) or None."""

    def features(self, inputs: FitInputs) -> np.ndarray | None:
        """(I, F) float32 features of the items for the network, or None."""
        return None

    @property
    def history_length(self) -> int:
        """How many items of a history are read; a training sequence has one more."""
        return self.training.max_length

    def fit(self, inputs: FitInputs) -> None:
        """Train. With a held-out measure, train until the measure stops rising.

        Raises:
            UserError: no sequence has two items, or the training diverged.
        """
        every = Parts.of(inputs.sequences)
        sequences = every[np.flatnonzero(every.lengths > 1)]
        if not len(sequences):
            raise UserError(
                f"{self.kind}: no training sequence has two items; filter less or split otherwise"
            )
        training, longest = self.training, self.history_length + 1
        lengths = np.minimum(sequences.lengths, longest)
        features = self.features(inputs)
        with seeded_globals(inputs.seed, "recommender", self.kind):
            self.network = self.build(inputs.num_items, features)
            callbacks = []
            if inputs.measure is not None:
                callbacks.append(KeepBest(self.network, inputs.measure, training.every, training.patience))
            trainer = inputs.make_trainer(max_epochs=training.max_epochs, callbacks=callbacks)
            batches = LengthBatches(lengths, training.batch_size, inputs.seed)
            loader: DataLoader[Any] = DataLoader(
                sequences,  # type: ignore[arg-type]
                batch_sampler=Epochs(batches, inputs.progress),
                collate_fn=lambda batch: padded(batch, longest),
            )
            setting = f"{inputs.section}.learning_rate"
            self._progress = _Progress(self.kind, setting, training.learning_rate)
            module = _Training(self.network, self._progress)
            if inputs.progress is None:
                trainer.fit(module, loader)
            else:
                inputs.progress.fit(trainer, module, loader)

    def scores(self, histories: Sequence[np.ndarray], candidates: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Inner products of the history's query with the candidates' vectors.

        Raises:
            UserError: some scores are not finite, because the training diverged.
        """
        network = self.network
        device = network.items.own.weight.device
        training = network.training
        network.eval()
        scores: list[np.ndarray] = []
        with torch.no_grad():
            vectors = network.items()
            for start in range(0, len(histories), _SCORED_AT_ONCE):
                block = slice(start, start + _SCORED_AT_ONCE)
                items, lengths = padded(histories[block], self.history_length)
                queries = network.query(items.to(device), lengths.to(device), vectors)
                scores += _products(queries, vectors, candidates[block])
        network.train(training)
        if not all(np.isfinite(row).all() for row in scores):
            raise self._diverged()
        return scores

    def _diverged(self) -> UserError:
        if self._progress is not None:
            return self._progress.diverged("its weights give no finite scores")
        return UserError(
            f"{self.kind}: its weights give no finite scores, since its training diverged: train it again"
        )

    def item_vectors(self) -> Tensor:
        """(I, D) float32 on the CPU: a copy of the vectors that queries are multiplied with.

        Raises:
            UserError: some numbers are not finite, because the training diverged.
        """
        with torch.no_grad():
            vectors = self.network.items().detach().float().cpu().clone()
        if not vectors.square().mean().isfinite():
            raise self._diverged()
        return vectors

    def save(self, folder: Path) -> None:
        """Write the weights."""
        arrays = {
            name: part.detach().cpu().float().numpy() for name, part in self.network.state_dict().items()
        }
        write_weights(folder, self.kind, len(self.network.items.own.weight), arrays)

    def load(self, folder: Path, num_items: int) -> None:
        """Read the weights.

        Raises:
            UserError: the weights are not there, or belong to another network.
        """
        arrays = read_weights(folder, self.kind, num_items)
        network = self.build(num_items, arrays.get("items.features"))
        try:
            network.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
        except RuntimeError as error:
            raise UserError(
                f"{folder} holds {self.kind} weights of other sizes: give method.recommender the settings of the run"
            ) from error
        self.network = network


def _products(queries: Tensor, vectors: Tensor, candidates: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Scores of each query's candidates. If there are as many candidates as items, one product covers all items."""
    counts = [len(wanted) for wanted in candidates]
    if sum(counts) >= len(vectors):
        table = (queries @ vectors.T).double().cpu().numpy()
        return [row[wanted] for row, wanted in zip(table, candidates, strict=True)]
    wanted = torch.from_numpy(np.concatenate(candidates).astype(np.int64)).to(queries.device)
    repeated = queries.repeat_interleave(torch.tensor(counts, device=queries.device), dim=0)
    flat = (repeated * functional.embedding(wanted, vectors)).sum(-1).double().cpu().numpy()
    return np.split(flat, np.cumsum(counts)[:-1])


@dataclass
class _Progress:
    """How far a training has come."""

    kind: str
    setting: str  # the name of the learning rate's setting
    learning_rate: float
    step: int = 0  # the latest step that began, from 1
    epoch: int = 0  # from 1

    def diverged(self, how: str) -> UserError:
        """The error to raise when numbers are no longer finite."""
        return UserError(
            f"{self.kind} diverged at step {self.step} (epoch {self.epoch}): {how}; lower {self.setting} (now "
            f"{self.learning_rate})"
        )


class _Training(lightning.LightningModule):
    def __init__(self, network: SequenceNetwork, progress: _Progress) -> None:
        super().__init__()
        self.network, self.progress = network, progress

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.progress.step, self.progress.epoch = self.global_step + 1, self.current_epoch + 1
        loss = self.network.loss(*batch)
        if not loss.isfinite():
            raise self.progress.diverged(f"its loss is {loss.item()}")
        self.log("loss", loss, prog_bar=True, batch_size=len(batch[0]))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.progress.learning_rate, fused=True)
