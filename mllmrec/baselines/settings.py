"""Settings that several neural recommenders have, and the checks of their bounds."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from mllmrec.errors import UserError


@dataclass(frozen=True)
class TrainingSettings:
    """How much of a history is read, and how the network is trained.

    Args:
        max_length: how many latest items of a history are read.
        learning_rate: the constant learning rate of Adam.
        batch_size: sequences per batch.
        max_epochs: most passes over the sequences.
        every: epochs between two held-out measures.
        patience: training stops after this many measures without a new best.

    Raises:
        UserError: a value is not above 0.
    """

    max_length: int = 50
    learning_rate: float = 1e-3
    batch_size: int = 256
    max_epochs: int = 200
    every: int = 1
    patience: int = 10

    def __post_init__(self) -> None:
        require_positive(**asdict(self))


@dataclass(frozen=True)
class AttentionSettings:
    """The sizes of a transformer.

    Args:
        hidden_size: size D of the item vectors.
        num_layers: number of transformer layers.
        num_heads: number of attention heads; must divide D.
        feedforward_size: width of the feed-forward part.
        dropout: dropout of embeddings, attention and layers.

    Raises:
        UserError: a value is out of range, or the heads do not divide the hidden size.
    """

    hidden_size: int = 64
    num_layers: int = 2
    num_heads: int = 2
    feedforward_size: int = 256
    dropout: float = 0.5

    def __post_init__(self) -> None:
        require_positive(
            hidden_size=self.hidden_size,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            feedforward_size=self.feedforward_size,
        )
        if self.hidden_size % self.num_heads:
            raise UserError(
                f"method.recommender.hidden_size={self.hidden_size} must be a multiple of num_heads={self.num_heads}"
            )
        require_share(dropout=self.dropout)


def require_positive(**values: float) -> None:
    """Refuse settings of a recommender that are not above 0.

    Raises:
        UserError: a setting is not; the message names the first.
    """
    for name, value in values.items():
        if value <= 0:
            raise UserError(f"method.recommender.{name}={value} must be above 0")


def require_share(**values: float) -> None:
    """Refuse settings of a recommender that do not lie in [0, 1).

    Raises:
        UserError: a setting does not; the message names the first.
    """
    for name, value in values.items():
        if not 0 <= value < 1:
            raise UserError(f"method.recommender.{name}={value} must be at least 0 and below 1")
