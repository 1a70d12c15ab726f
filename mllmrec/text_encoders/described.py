"""The texts about all items, and their vectors, which are kept for later jobs."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mllmrec.cache import Digest, atomic_path, fingerprint
from mllmrec.text_encoders.base import TextEncoder

log = logging.getLogger(__name__)

_VECTORS, _MADE_FROM = "vectors", "made_from"


@dataclass(frozen=True)
class DescribedItems:
    """The items that a job knows; I items, D numbers in a vector."""

    ids: Sequence[str]  # I
    texts: Sequence[str]  # I: title, details and caption of an item
    seed: int
    cache_dir: Path | None = None  # where vectors are kept; None: they are not

    def vectors(self, encoder: TextEncoder) -> np.ndarray:
        """(I, D) float32 of the texts.

        Raises:
            UserError: the texts cannot be encoded.
        """
        return text_vectors(encoder, self.texts, self.seed, self.cache_dir)


def text_vectors(
    encoder: TextEncoder, texts: Sequence[str], seed: int, cache_dir: Path | None = None
) -> np.ndarray:
    """Vectors of texts, taken from an earlier job if it encoded the same texts in the same way.

    Args:
        encoder: encodes them; if it has no identity, nothing is kept.
        texts: N texts.
        seed: of whatever is random in the encoder.
        cache_dir: the folder of everything that is kept; None: nothing is.

    Returns:
        (N, D) float32.

    Raises:
        UserError: the texts cannot be encoded.
    """
    identity = None if cache_dir is None else encoder.identity()
    if cache_dir is None or identity is None:
        return encoder.encode(texts, seed)
    made_from = json.loads(json.dumps({"encoder": identity, "texts": _of(texts), "seed": seed}))
    path = cache_dir / "text_vectors" / f"{fingerprint(made_from)}.safetensors"
    kept = _read(path, made_from, len(texts))
    if kept is not None:
        return kept
    vectors = np.ascontiguousarray(encoder.encode(texts, seed), dtype=np.float32)
    with atomic_path(path) as temporary:
        save_file(
            {_VECTORS: vectors}, temporary, metadata={_MADE_FROM: json.dumps(made_from, sort_keys=True)}
        )
    return vectors


def _read(path: Path, made_from: Any, count: int) -> np.ndarray | None:
    """The vectors in a file; None if it is not there, is damaged, or was made from something else."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="numpy") as stored:
            said = json.loads((stored.metadata() or {}).get(_MADE_FROM, "null"))
            vectors = stored.get_tensor(_VECTORS)
    except (OSError, SafetensorError, ValueError) as error:
        log.warning("%s cannot be read (%s); the texts are encoded again", path, error)
        return None
    if said != made_from or len(vectors) != count:
        log.warning("%s was made from something else; the texts are encoded again", path)
        return None
    return vectors


def _of(texts: Sequence[str]) -> str:
    """A hash of texts, in their order (16 hexadecimal digits)."""
    digest = Digest()
    for text in texts:
        digest.add("text", text.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
