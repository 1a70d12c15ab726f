"""SASRec that also reads the text about each item: title, details and caption."""

from __future__ import annotations

import numpy as np

from mllmrec.baselines.base import FitInputs
from mllmrec.baselines.neural import require_positive
from mllmrec.baselines.sasrec import SasRec
from mllmrec.baselines.text_features import sentence_features, word_features


class SasRecText(SasRec):
    """SASRec that adds a linear image of an item's text vector to its learnt vector.

    The sum stands for the item in the history and among the candidates. The other parameters are as in `SasRec`.

    Args:
        encoder: a transformer (hub name or folder); its mean state is the text's vector. None: TF-IDF of words,
            reduced to `text_size` numbers.
        revision: the encoder's revision on the hub; None: main.
        text_size: numbers in a word vector; not used with an encoder.
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
