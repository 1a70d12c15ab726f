"""SASRec (Kang and McAuley, 2018, "Self-attentive sequential recommendation")."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mllmrec.baselines.neural import ItemVectors, NeuralRecommender, NextItemNetwork, small_weights
from mllmrec.baselines.next_item_loss import NextItemLoss
from mllmrec.baselines.settings import AttentionSettings, TrainingSettings
from mllmrec.flat import flat_settings


class SasRec(NeuralRecommender):
    """Self-attention over the history. Each item sees itself and the items before it.

    Args:
        attention: the sizes of the transformer.
        next_item_loss: what is learnt from the items that come next.
        training: how the network is trained.

    Raises:
        UserError: a value is out of range.
    """

    kind = "sasrec"

    @flat_settings
    def __init__(
        self,
        attention: AttentionSettings = AttentionSettings(),
        next_item_loss: NextItemLoss = NextItemLoss(),
        training: TrainingSettings = TrainingSettings(),
    ) -> None:
        super().__init__(training)
        self.attention, self.next_item_loss = attention, next_item_loss

    def build(self, num_items: int, features: np.ndarray | None) -> NextItemNetwork:
        """The untrained network."""
        encoder = transformer(self.attention)
        vectors = ItemVectors(num_items, self.attention.hidden_size, features)
        return SasRecNetwork(
            vectors, encoder, self.training.max_length, self.attention.dropout, self.next_item_loss
        )


class SasRecNetwork(NextItemNetwork):
    """Item and place vectors, then a causal transformer. Places are counted back from the latest item."""

    def __init__(
        self,
        items: ItemVectors,
        encoder: nn.TransformerEncoder,
        max_length: int,
        dropout: float,
        loss: NextItemLoss,
    ) -> None:
        super().__init__()
        self.items, self.encoder, self.next_item_loss = items, encoder, loss
        self.places = nn.Embedding(max_length, items.own.embedding_dim)
        self.dropout = nn.Dropout(dropout)
        small_weights(self)

    def states(self, items: Tensor, lengths: Tensor, vectors: Tensor) -> Tensor:
        """(B, L, D). No real item sees the padding."""
        hidden = functional.embedding(items, vectors) + self.places(places_back(lengths, items.shape[1]))
        causal = nn.Transformer.generate_square_subsequent_mask(items.shape[1], items.device, hidden.dtype)
        return self.encoder(self.dropout(hidden), mask=causal, is_causal=True)


def transformer(settings: AttentionSettings) -> nn.TransformerEncoder:
    """Pre-norm layers with GELU and a norm at the end."""
    layer = nn.TransformerEncoderLayer(
        settings.hidden_size,
        settings.num_heads,
        settings.feedforward_size,
        settings.dropout,
        activation="gelu",
        batch_first=True,
        norm_first=True,
    )
    norm = nn.LayerNorm(settings.hidden_size)
    return nn.TransformerEncoder(layer, settings.num_layers, norm, enable_nested_tensor=False)


def places_back(lengths: Tensor, places: int) -> Tensor:
    """(B, L) int64: 0 at a sequence's last item, 1 at the item before; 0 in the padding."""
    return (lengths[:, None] - 1 - torch.arange(places, device=lengths.device)).clamp(min=0)
