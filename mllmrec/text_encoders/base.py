"""The interface of text encoders; N texts, D numbers in a vector."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from mllmrec.errors import UserError


class TextEncoder(ABC):
    """Turns texts into vectors. It takes plain parameters, and its constructor loads nothing."""

    @abstractmethod
    def encode(self, texts: Sequence[str], seed: int = 0) -> np.ndarray:
        """Encode texts together: what the others say may change a text's vector.

        Args:
            texts: N texts.
            seed: of whatever is random.

        Returns:
            (N, D) float32 with rows of length 1. A text that says nothing to the encoder may have a row of 0.

        Raises:
            UserError: the texts cannot be encoded, or something that the encoder needs cannot be loaded.
        """

    def identity(self) -> dict[str, object] | None:
        """All that the vectors depend on besides the texts, as JSON values; None: they are not kept for later jobs.

        Raises:
            UserError: something that the encoder needs cannot be loaded.
        """
        return None


def require_encoder(encoder: object, setting: str) -> None:
    """Refuse a setting that is no encoder, such as a word or a path.

    Raises:
        UserError: it is none.
    """
    if not isinstance(encoder, TextEncoder):
        raise UserError(
            f"{setting}={encoder} is no encoder of texts: set text_encoder=sentence text_encoder.path=NAME_OR_FOLDER, or "
            "text_encoder=tfidf"
        )


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """(N, D) → (N, D) float32 with rows of length 1; rows of 0 stay."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0).astype(np.float32)
