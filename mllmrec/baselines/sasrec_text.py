"""SASRec that reads what the items are called and what is said of them."""

from __future__ import annotations

import numpy as np

from mllmrec.baselines.base import FitInputs
from mllmrec.baselines.neural import require_positive
from mllmrec.baselines.sasrec import SasRec
from mllmrec.baselines.text_features import sentence_features, word_features


class SasRecText(SasRec):
    """SASRec in which a linear image of an item's text vector is added to its learnt vector.

    The sum stands for the item in the history and among the candidates. The other parameters are `SasRec`'s.

    Args:
        encoder: a transformer whose mean state is the text's vector: hub name, or folder; None for TF-IDF of words,
            reduced to `text_size` numbers.
        revision: of the encoder on the hub; None for main.
        text_size: numbers of a word vector; plays no part with an encoder.
        hidden_size: D.
        num_layers: transformer layers.
        num_heads: attention heads; they divide D.
        feedforward_size: width of the feed-forward part.
        dropout: of embeddings, attention and layers.
        loss: ``cross_entropy`` over all items, or ``bce`` against sampled ones.
        negatives: for bce, sampled for every positive.
        calibration: for bce, t of gBCE, 0 to 1; 0 is plain.
        max_length: latest items of a history that are read.
        learning_rate: of Adam.
        batch_size: sequences at once.
        max_epochs: passes over the sequences at most.
        every: epochs between two held-out measures.
        patience: measures without a new best before training stops.

    Raises:
        UserError: a value out of range.
    """

    kind = "sasrec_text"

    def __init__(
        self,
        encoder: str | None = None,
        revision: str | None = None,
        text_size: int = 256,
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
            hidden_size=hidden_size,
            num_layers=num_layers,
            num_heads=num_heads,
            feedforward_size=feedforward_size,
            dropout=dropout,
            loss=loss,
            negatives=negatives,
            calibration=calibration,
            max_length=max_length,
            learning_rate=learning_rate,
            batch_size=batch_size,
            max_epochs=max_epochs,
            every=every,
            patience=patience,
        )
        require_positive(text_size=text_size)
        self.encoder, self.revision, self.text_size = encoder, revision, text_size

    def features(self, inputs: FitInputs) -> np.ndarray:
        """(I, F) text vectors.

        Raises:
            UserError: the encoder cannot be loaded, or no text has a word.
        """
        if self.encoder is None:
            return word_features(inputs.texts, self.text_size, inputs.seed)
        return sentence_features(inputs.texts, self.encoder, self.revision)
