"""SASRec (Kang and McAuley, 2018, "Self-attentive sequential recommendation")."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mllmrec.baselines.neural import (
    ItemVectors,
    NeuralRecommender,
    NextItemNetwork,
    require_positive,
    require_share,
    small_weights,
)
from mllmrec.baselines.next_item_loss import NextItemLoss
from mllmrec.errors import UserError


class SasRec(NeuralRecommender):
    """Self-attention over the history. Each item sees itself and the items before it.

    Args:
        hidden_size: size D of the item vectors.
        num_layers: number of transformer layers.
        num_heads: number of attention heads; must divide D.
        feedforward_size: width of the feed-forward part.
        dropout: dropout of embeddings, attention and layers.
        loss: ``cross_entropy`` over all items, or ``bce`` against sampled negatives.
        negatives: for bce, negatives sampled per positive.
        calibration: for bce, t of gBCE, 0 to 1; 0 is plain bce.
        max_length: how many latest items of a history are read.
        learning_rate: learning rate of Adam.
        batch_size: sequences per batch.
        max_epochs: most passes over the sequences.
        every: epochs between two held-out measures.
        patience: training stops after this many measures without a new best.

    Raises:
        UserError: a value is out of range.
    """

    kind = "sasrec"

    def __init__(
        self,
        hidden_size: int = 64,
        num_layers: int = 2,
        num_heads: int = 2,
        feedforward_size: int = 256,
        dropout: float = 0.5,
        loss: str = "cross_entropy",
        negatives: int = 1,
        calibration: float = 0.0,
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
        require_share(dropout=dropout)
        self.hidden_size, self.num_layers, self.num_heads = hidden_size, num_layers, num_heads
        self.feedforward_size, self.dropout = feedforward_size, dropout
        self.loss = NextItemLoss(loss, negatives, calibration)

    def build(self, num_items: int, features: np.ndarray | None) -> NextItemNetwork:
        """The untrained network."""
        encoder = transformer(
            self.hidden_size, self.num_layers, self.num_heads, self.feedforward_size, self.dropout
        )
        vectors = ItemVectors(num_items, self.hidden_size, features)
        return SasRecNetwork(vectors, encoder, self.max_length, self.dropout, self.loss)


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


def transformer(
    hidden_size: int, num_layers: int, num_heads: int, feedforward_size: int, dropout: float
) -> nn.TransformerEncoder:
    """Pre-norm layers with GELU and a norm at the end."""
    layer = nn.TransformerEncoderLayer(
        hidden_size,
        num_heads,
        feedforward_size,
        dropout,
        activation="gelu",
        batch_first=True,
        norm_first=True,
    )
    norm = nn.LayerNorm(hidden_size)
    return nn.TransformerEncoder(layer, num_layers, norm, enable_nested_tensor=False)


def places_back(lengths: Tensor, places: int) -> Tensor:
    """(B, L) int64: 0 at a sequence's last item, 1 at the item before; 0 in the padding."""
    return (lengths[:, None] - 1 - torch.arange(places, device=lengths.device)).clamp(min=0)


def require_heads(hidden_size: int, num_heads: int) -> None:
    """Refuse a number of heads that does not divide the hidden size.

    Raises:
        UserError: the heads do not divide the hidden size.
    """
    require_positive(hidden_size=hidden_size, num_heads=num_heads)
    if hidden_size % num_heads:
        raise UserError(
            f"method.recommender.hidden_size={hidden_size} must be a multiple of num_heads={num_heads}"
        )
