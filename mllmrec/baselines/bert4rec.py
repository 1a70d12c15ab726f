"""BERT4Rec (Sun et al., 2019, "BERT4Rec: sequential recommendation with bidirectional encoder representations")."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mllmrec.baselines.item_sequences import in_sequence
from mllmrec.baselines.neural import ItemVectors, NeuralRecommender, SequenceNetwork, small_weights
from mllmrec.baselines.next_item_loss import cross_entropy
from mllmrec.baselines.sasrec import places_back, transformer
from mllmrec.baselines.settings import AttentionSettings, TrainingSettings, require_share
from mllmrec.errors import UserError
from mllmrec.flat import flat_settings


class Bert4Rec(NeuralRecommender):
    """Self-attention in both directions, trained to guess masked items from the items around them.

    It recommends by guessing the item at a mask behind the history. The loss is cross-entropy over all items.

    Args:
        masked_share: probability of masking each item of a training sequence; at least one item is masked.
        last_share: share of the training sequences with only the last item masked, as when recommending.
        attention: the sizes of the transformer.
        training: how the network is trained; ``max_length`` counts the mask behind the history.

    Raises:
        UserError: a value is out of range.
    """

    kind = "bert4rec"

    @flat_settings
    def __init__(
        self,
        masked_share: float = 0.6,
        last_share: float = 0.1,
        attention: AttentionSettings = AttentionSettings(dropout=0.2),
        training: TrainingSettings = TrainingSettings(),
    ) -> None:
        super().__init__(training)
        if training.max_length < 2:
            raise UserError(
                f"method.recommender.max_length={training.max_length} must be at least 2: an item and the mask "
                "behind it"
            )
        require_share(masked_share=masked_share, last_share=last_share)
        self.attention = attention
        self.masked_share, self.last_share = masked_share, last_share

    @property
    def history_length(self) -> int:
        """One place is kept for the mask."""
        return self.training.max_length - 1

    def build(self, num_items: int, features: np.ndarray | None) -> SequenceNetwork:
        """The untrained network."""
        encoder = transformer(self.attention)
        vectors = ItemVectors(num_items, self.attention.hidden_size, features)
        return Bert4RecNetwork(
            vectors,
            encoder,
            self.training.max_length,
            self.attention.dropout,
            self.masked_share,
            self.last_share,
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
