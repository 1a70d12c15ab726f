"""Text vectors from word counts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mllmrec.errors import UserError
from mllmrec.randomness import derive_seed
from mllmrec.text_encoders.base import TextEncoder, unit_rows


class Tfidf(TextEncoder):
    """Latent semantic analysis: TF-IDF of words, then a truncated singular value decomposition.

    Args:
        size: numbers in a vector; there are fewer if the texts have fewer words or are fewer.

    Raises:
        UserError: the size is not above 0.
    """

    needs_package = ("sklearn", "'mllmrec[text]'")

    def __init__(self, size: int = 256) -> None:
        if size < 1:
            raise UserError(f"text_encoder.size={size} must be above 0")
        self.size = size

    def encode(self, texts: Sequence[str], seed: int = 0) -> np.ndarray:
        """(N, D); a text without words has a row of 0. Counting is as quick as reading, so nothing is kept.

        Raises:
            UserError: no text has a word.
        """
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        try:
            weights = TfidfVectorizer(sublinear_tf=True).fit_transform(texts)
        except ValueError as error:
            raise UserError(f"text_encoder=tfidf finds no words in the items' texts: {error}") from error
        size = min(self.size, *weights.shape)
        decomposition = TruncatedSVD(size, random_state=derive_seed(seed, "text features") % 2**32)
        return unit_rows(decomposition.fit_transform(weights))
