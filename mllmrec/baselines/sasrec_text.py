"""SASRec that also reads the text about each item: title, details and caption."""

from __future__ import annotations

import numpy as np

from mllmrec.baselines.base import FitInputs
from mllmrec.baselines.next_item_loss import NextItemLoss
from mllmrec.baselines.sasrec import SasRec
from mllmrec.baselines.settings import AttentionSettings, TrainingSettings
from mllmrec.flat import flat_settings
from mllmrec.text_encoders.base import TextEncoder, require_encoder
from mllmrec.text_encoders.described import text_vectors
from mllmrec.text_encoders.tfidf import Tfidf


class SasRecText(SasRec):
    """SASRec that adds a linear image of an item's text vector to its learnt vector.

    The sum stands for the item in the history and among the candidates.

    Args:
        encoder: turns the items' texts into vectors; None: counts words, as `Tfidf` does by default.
        attention: the sizes of the transformer.
        next_item_loss: what is learnt from the items that come next.
        training: how the network is trained.

    Raises:
        UserError: a value is out of range, or the encoder is none.
    """

    kind = "sasrec_text"

    @flat_settings
    def __init__(
        self,
        encoder: TextEncoder | None = None,
        attention: AttentionSettings = AttentionSettings(),
        next_item_loss: NextItemLoss = NextItemLoss(),
        training: TrainingSettings = TrainingSettings(),
    ) -> None:
        super().__init__(attention, next_item_loss, training)
        self.encoder = Tfidf() if encoder is None else encoder
        require_encoder(self.encoder, "method.recommender.encoder")

    def features(self, inputs: FitInputs) -> np.ndarray:
        """(I, F) text vectors.

        Raises:
            UserError: the encoder cannot be loaded, or no text has a word.
        """
        return text_vectors(self.encoder, inputs.texts, inputs.seed, inputs.cache_dir)
