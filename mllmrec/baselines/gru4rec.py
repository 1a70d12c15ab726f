"""GRU4Rec (Hidasi et al., 2016, "Session-based recommendations with recurrent neural networks")."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from mllmrec.baselines.neural import ItemVectors, NeuralRecommender, NextItemNetwork, small_weights
from mllmrec.baselines.next_item_loss import NextItemLoss
from mllmrec.baselines.settings import TrainingSettings, require_positive, require_share
from mllmrec.flat import flat_settings


class Gru4Rec(NeuralRecommender):
    """A recurrent network over the history.

    Whole sequences are trained at once, as in RecBole's GRU4Rec, instead of session-parallel steps.

    Args:
        hidden_size: size D of the item vectors.
        state_size: width of the recurrent state.
        num_layers: number of recurrent layers.
        dropout: dropout of the item vectors, and between layers.
        next_item_loss: what is learnt from the items that come next.
        training: how the network is trained.

    Raises:
        UserError: a value is out of range.
    """

    kind = "gru4rec"

    @flat_settings
    def __init__(
        self,
        hidden_size: int = 64,
        state_size: int = 128,
        num_layers: int = 1,
        dropout: float = 0.3,
        next_item_loss: NextItemLoss = NextItemLoss(),
        training: TrainingSettings = TrainingSettings(),
    ) -> None:
        super().__init__(training)
        require_positive(hidden_size=hidden_size, state_size=state_size, num_layers=num_layers)
        require_share(dropout=dropout)
        self.hidden_size, self.state_size, self.num_layers = hidden_size, state_size, num_layers
        self.dropout, self.next_item_loss = dropout, next_item_loss

    def build(self, num_items: int, features: np.ndarray | None) -> NextItemNetwork:
        """The untrained network."""
        recurrent = nn.GRU(
            self.hidden_size,
            self.state_size,
            self.num_layers,
            batch_first=True,
            dropout=self.dropout if self.num_layers > 1 else 0.0,
        )
        vectors = ItemVectors(num_items, self.hidden_size, features)
        return Gru4RecNetwork(vectors, recurrent, self.dropout, self.next_item_loss)


class Gru4RecNetwork(NextItemNetwork):
    """Item vectors, recurrent layers, and a linear layer back to the items' space."""

    def __init__(self, items: ItemVectors, recurrent: nn.GRU, dropout: float, loss: NextItemLoss) -> None:
        super().__init__()
        self.items, self.recurrent, self.next_item_loss = items, recurrent, loss
        self.output = nn.Linear(recurrent.hidden_size, items.own.embedding_dim)
        self.dropout = nn.Dropout(dropout)
        small_weights(self.items)

    def states(self, items: Tensor, lengths: Tensor, vectors: Tensor) -> Tensor:
        """(B, L, D); the padding comes after all real items."""
        hidden, _ = self.recurrent(self.dropout(functional.embedding(items, vectors)))
        return self.output(hidden)
