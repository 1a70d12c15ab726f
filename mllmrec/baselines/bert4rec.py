"""BERT4Rec (Sun et al., 2019, "BERT4Rec: sequential recommendation with bidirectional encoder representations")."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mllmrec.baselines.item_sequences import in_sequence
from mllmrec.baselines.neural import (
    ItemVectors,
    NeuralRecommender,
    SequenceNetwork,
    require_positive,
    require_share,
    small_weights,
)
from mllmrec.baselines.next_item_loss import cross_entropy
from mllmrec.baselines.sasrec import places_back, require_heads, transformer
from mllmrec.errors import UserError


class Bert4Rec(NeuralRecommender):
    """Self-attention in both directions, trained to guess masked items from the items around them.

    It recommends by guessing the item at a mask behind the history. The loss is cross-entropy over all items.

    Args:
        hidden_size: size D of the item vectors.
        num_layers: number of transformer layers.
        num_heads: number of attention heads; must divide D.
        feedforward_size: width of the feed-forward part.
        dropout: dropout of embeddings, attention and layers.
        masked_share: probability of masking each item of a training sequence; at least one item is masked.
        last_share: share of the training sequences with only the last item masked, as when recommending.
        max_length: number of places, including the mask behind the history.
        learning_rate: learning rate of Adam.
        batch_size: sequences per batch.
        max_epochs: most passes over the sequences.
        every: epochs between two held-out measures.
        patience: training stops after this many measures without a new best.

    Raises:
        UserError: a value is out of range.
    """

    kind = "bert4rec"

    def __init__(
        self,
        hidden_size: int = 64,
        num_layers: int = 2,
        num_heads: int = 2,
        feedforward_size: int = 256,
        dropout: float = 0.2,
        masked_share: float = 0.6,
        last_share: float = 0.1,
        max_length: int = 50,
        learning_rate: float = 1e-3,
        batch_size: int = 256,
        max_epochs: int = 200,
        every: int = 1,
        patience: int = 10,
    ) -> None:
        super().__init__(
            max_length=max_length,
            learning_rate=learning_rate,
            batch_size=batch_size,
            max_epochs=max_epochs,
            every=every,
            patience=patience,
        )
        require_heads(hidden_size, num_heads)
        require_positive(num_layers=num_layers, feedforward_size=feedforward_size)
        if max_length < 2:
            raise UserError(
                f"method.recommender.max_length={max_length} must be at least 2: an item and the mask behind it"
            )
        require_share(dropout=dropout, masked_share=masked_share, last_share=last_share)
        self.hidden_size, self.num_layers, self.num_heads = hidden_size, num_layers, num_heads
        self.feedforward_size, self.dropout = feedforward_size, dropout
        self.masked_share, self.last_share = masked_share, last_share

    @property
    def history_length(self) -> int:
        """One place is kept for the mask."""
        return self.max_length - 1

    def build(self, num_items: int, features: np.ndarray | None) -> SequenceNetwork:
        """The untrained network."""
        encoder = transformer(
            self.hidden_size, self.num_layers, self.num_heads, self.feedforward_size, self.dropout
        )
        vectors = ItemVectors(num_items, self.hidden_size, features)
        return Bert4RecNetwork(
            vectors, encoder, self.max_length, self.dropout, self.masked_share, self.last_share
        )


class Bert4RecNetwork(SequenceNetwork):
    """Item, mask and place vectors, a transformer, and a layer back to the items' space."""

    def __init__(
        self,
        items: ItemVectors,
        encoder: nn.TransformerEncoder,
        max_length: int,
        dropout: float,
        masked_share: float,
        last_share: float,
    ) -> None:
        super().__init__()
        size = items.own.embedding_dim
        self.items, self.encoder = items, encoder
        self.masked_share, self.last_share = masked_share, last_share
        self.mask = nn.Parameter(torch.zeros(1, size))
        self.places = nn.Embedding(max_length, size)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Sequential(nn.Linear(size, size), nn.GELU(), nn.LayerNorm(size))
        small_weights(self)

    def states(self, items: Tensor, lengths: Tensor, masked: Tensor, vectors: Tensor) -> Tensor:
        """(B, L, D); `masked` (B, L) bool says where an item is hidden; `lengths` includes the masks."""
        seen = torch.where(masked[..., None], self.mask, functional.embedding(items, vectors))
        hidden = self.dropout(seen + self.places(places_back(lengths, items.shape[1])))
        padding = ~in_sequence(lengths, items.shape[1])
        return self.output(self.encoder(hidden, src_key_padding_mask=padding))

    def query(self, items: Tensor, lengths: Tensor, vectors: Tensor) -> Tensor:
        """The state at a mask behind the history."""
        longer = functional.pad(items, (0, 1))
        masked = last_place(lengths + 1, longer.shape[1])
        return self.states(longer, lengths + 1, masked, vectors)[masked]

    def loss(self, items: Tensor, lengths: Tensor) -> Tensor:
        """The mean loss over masked items."""
        masked = self.draw_masks(lengths, items.shape[1])
        vectors = self.items()
        states = self.states(items, lengths, masked, vectors)[masked]
        return cross_entropy(states, vectors, items[masked])

    def draw_masks(self, lengths: Tensor, places: int) -> Tensor:
        """(B, L) bool: the items to hide. Every sequence has at least one, the padding none."""
        real = in_sequence(lengths, places)
        draws = torch.rand(real.shape, device=lengths.device)
        masked = (draws < self.masked_share) & real
        # If no draw was small enough, hide the item with the smallest draw.
        least = functional.one_hot(draws.masked_fill(~real, 2.0).argmin(dim=1), places).bool()
        masked = torch.where(masked.any(dim=1, keepdim=True), masked, least)
        only_last = torch.rand(len(lengths), 1, device=lengths.device) < self.last_share
        return torch.where(only_last, last_place(lengths, places), masked)


def last_place(lengths: Tensor, places: int) -> Tensor:
    """(B, L) bool: True only at each sequence's last item."""
    return torch.arange(places, device=lengths.device) == lengths[:, None] - 1
