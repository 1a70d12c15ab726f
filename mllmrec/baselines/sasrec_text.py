"""SASRec that also reads the text about each item: title, details and caption."""

from __future__ import annotations

import numpy as np

from mllmrec.baselines.base import FitInputs
from mllmrec.baselines.next_item_loss import NextItemLoss
from mllmrec.baselines.sasrec import SasRec
from mllmrec.baselines.settings import AttentionSettings, TrainingSettings, require_positive
from mllmrec.baselines.text_features import sentence_features, word_features
from mllmrec.flat import flat_settings


class SasRecText(SasRec):
    """SASRec that adds a linear image of an item's text vector to its learnt vector.

    The sum stands for the item in the history and among the candidates.

    Args:
        encoder: a transformer (hub name or folder); its mean state is the text's vector. None: TF-IDF of words,
            reduced to `text_size` numbers.
        revision: the encoder's revision on the hub; None: main.
        text_size: numbers in a word vector; not used with an encoder.
        attention: the sizes of the transformer.
        next_item_loss: what is learnt from the items that come next.
        training: how the network is trained.

    Raises:
        UserError: a value is out of range.
    """

    kind = "sasrec_text"

    @flat_settings
    def __init__(
        self,
        encoder: str | None = None,
        revision: str | None = None,
        text_size: int = 256,
        attention: AttentionSettings = AttentionSettings(),
        next_item_loss: NextItemLoss = NextItemLoss(),
        training: TrainingSettings = TrainingSettings(),
    ) -> None:
        super().__init__(attention, next_item_loss, training)
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
