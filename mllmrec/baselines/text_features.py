"""Item texts as vectors, from a sentence encoder or from word counts; I items, F numbers in a vector."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from mllmrec.errors import UserError
from mllmrec.randomness import derive_seed
from mllmrec.screen.progress import track

_ENCODED_AT_ONCE = 64
_LONGEST_TEXT = 256  # tokens; sentence encoders are not trained on more


def word_features(texts: Sequence[str], size: int, seed: int) -> np.ndarray:
    """Latent semantic analysis: TF-IDF of words, then a truncated singular value decomposition.

    Returns:
        (I, F) float32 with rows of length 1 (0 if a text has no word). F is `size`, or less if the texts have fewer
        words or items.

    Raises:
        UserError: no text has a word.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    try:
        weights = TfidfVectorizer(sublinear_tf=True).fit_transform(texts)
    except ValueError as error:
        raise UserError(f"method=sasrec_text finds no words in the items' texts: {error}") from error
    size = min(size, *weights.shape)
    decomposition = TruncatedSVD(size, random_state=derive_seed(seed, "text features") % 2**32)
    return _unit_rows(decomposition.fit_transform(weights))


def sentence_features(texts: Sequence[str], encoder: str, revision: str | None = None) -> np.ndarray:
    """The mean of a transformer's last states over the tokens of each text (Reimers and Gurevych, 2019).

    Args:
        texts: I texts.
        encoder: hub name, or a folder written by save_pretrained.
        revision: branch, tag or commit on the hub.

    Returns:
        (I, F) float32 with rows of length 1; F is the encoder's hidden size.

    Raises:
        UserError: the encoder cannot be loaded.
    """
    from transformers import AutoModel, AutoTokenizer

    from mllmrec.screen.transformers_output import without_bars

    try:
        tokenizer = AutoTokenizer.from_pretrained(encoder, revision=revision or "main")
        with without_bars(encoder):
            model = AutoModel.from_pretrained(encoder, revision=revision or "main", dtype=torch.float32)
    except (OSError, ValueError, ImportError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(
            f"method.recommender.encoder={encoder} cannot be loaded: {first} (give a hub name that this machine can "
            "reach, a folder written by save_pretrained, or null for word counts)"
        ) from error
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tokenizer.padding_side = "right"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).eval()
    order = np.argsort([len(text) for text in texts], kind="stable")
    features = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
    blocks = [order[start : start + _ENCODED_AT_ONCE] for start in range(0, len(order), _ENCODED_AT_ONCE)]
    with torch.no_grad():
        for block in track(blocks, "encode texts", len(texts), weigh=len):
            tokens = tokenizer(
                [texts[item] for item in block],
                padding=True,
                truncation=True,
                max_length=min(_LONGEST_TEXT, tokenizer.model_max_length),
                return_tensors="pt",
            ).to(device)
            states = model(**tokens).last_hidden_state
            real = tokens["attention_mask"][..., None].to(states.dtype)
            means = (states * real).sum(1) / real.sum(1).clamp(min=1)
            features[block] = means.float().cpu().numpy()
    return _unit_rows(features)


def _unit_rows(rows: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0).astype(np.float32)
