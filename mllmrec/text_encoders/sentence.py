"""Text vectors from a pretrained sentence encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError

import numpy as np

from mllmrec.cache import content_fingerprint, source_fingerprint
from mllmrec.errors import UserError
from mllmrec.screen.progress import track
from mllmrec.text_encoders.base import TextEncoder, unit_rows

_ENCODED_AT_ONCE = 64
# What a hub folder has that is read here. Weights in other formats stand beside it and are left there.
_READ, _PICKLED = ["*.json", "*.txt", "*.model", "*.safetensors"], ["*.bin"]
_OTHER_FORMATS = ["onnx/*", "openvino/*"]
# Exceptions from a folder that lacks a file, or whose files say something else than they should.
_UNREADABLE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
    ImportError,
    UnpicklingError,
)


class SentenceEncoder(TextEncoder):
    """A sentence-transformers model (Reimers and Gurevych, 2019), or the mean state of any transformer.

    The folder's own files say how states become a vector. Code in the folder is never run.

    Args:
        path: hub name, or a folder written by sentence-transformers or save_pretrained.
        revision: branch, tag or commit on the hub; None: main.
        prompt: stands before every text, as some models ask for; None: what the model's files say.
        max_tokens: texts are cut to this length, or to the model's own limit if that is lower; None: the model's own.

    Raises:
        UserError: the limit is not above 0, or the path is empty.
    """

    def __init__(
        self,
        path: str,
        revision: str | None = None,
        prompt: str | None = None,
        max_tokens: int | None = None,
    ) -> None:
        if not path:
            raise UserError("text_encoder.path is empty: give a hub name or a folder")
        if max_tokens is not None and max_tokens < 1:
            raise UserError(
                f"text_encoder.max_tokens={max_tokens} must be above 0, or null for the model's own limit"
            )
        self.path, self.revision, self.prompt, self.max_tokens = path, revision, prompt, max_tokens

    def encode(self, texts: Sequence[str], seed: int = 0) -> np.ndarray:
        """(N, D), on the GPU if there is one; an empty text has a row of 0.

        Raises:
            UserError: the model cannot be loaded or computes no numbers, or all texts are empty.
        """
        import torch
        from safetensors import SafetensorError

        from mllmrec.screen.transformers_output import without_bars
        from mllmrec.text_encoders.sentence_model import read_folder

        written = [place for place, text in enumerate(texts) if text.strip()]
        if not written:
            raise UserError("text_encoder=sentence finds no words in the items' texts")
        folder = self._folder()
        try:
            with without_bars(folder):
                model, tokenizer, reading = read_folder(folder, self.prompt, self.max_tokens)
        except (*_UNREADABLE, SafetensorError) as error:
            raise self._unloadable(error) from error
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model.to(device)
        written.sort(key=lambda place: len(texts[place]))  # so that a block has little padding
        blocks = [
            written[start : start + _ENCODED_AT_ONCE] for start in range(0, len(written), _ENCODED_AT_ONCE)
        ]
        found = []
        with torch.no_grad():
            for block in track(blocks, "encode texts", len(written), weigh=len):
                tokens = tokenizer(
                    [reading.shown(texts[place]) for place in block],
                    padding=True,
                    truncation=True,
                    max_length=reading.max_tokens,
                    return_tensors="pt",
                ).to(device)
                found.append(model(tokens).float().cpu().numpy())
        vectors = np.zeros((len(texts), found[0].shape[1]), dtype=np.float32)
        vectors[written] = np.concatenate(found)
        if not np.isfinite(vectors).all():
            raise UserError(
                f"text_encoder.path={self.path} computes values that are no numbers, so its weights are broken: fetch it "
                "again, or choose another"
            )
        return unit_rows(vectors)

    def identity(self) -> dict[str, object]:
        """The content of the model's folder, all settings, and the code that encodes.

        Raises:
            UserError: the model is not there and cannot be downloaded.
        """
        import torch

        from mllmrec.text_encoders import sentence_model

        return {
            "encoder": type(self).__name__,
            "model": content_fingerprint(self._folder()),
            "prompt": self.prompt,
            "max_tokens": self.max_tokens,
            "code": source_fingerprint(
                __file__, str(sentence_model.__file__), libraries=("torch", "transformers", "tokenizers")
            ),
            "device": "cuda" if torch.cuda.is_available() else "cpu",
        }

    def _folder(self) -> Path:
        """The model's folder; a model of the hub is downloaded."""
        if Path(self.path).is_dir():
            return Path(self.path)
        from huggingface_hub import snapshot_download

        from mllmrec.screen.transformers_output import without_bars

        def fetched(patterns: list[str]) -> Path:
            return Path(
                snapshot_download(
                    self.path,
                    revision=self.revision,
                    allow_patterns=patterns,
                    ignore_patterns=_OTHER_FORMATS,
                )
            )

        try:
            with without_bars(self.path):
                folder = fetched(_READ)
                return folder if any(folder.rglob("*.safetensors")) else fetched([*_READ, *_PICKLED])
        except (OSError, ValueError) as error:
            raise self._unloadable(error) from error

    def _unloadable(self, error: Exception) -> UserError:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        return UserError(
            f"text_encoder.path={self.path} cannot be loaded: {first} (give a hub name that this machine can reach, a "
            "folder written by sentence-transformers or save_pretrained, or text_encoder=tfidf for word counts)"
        )
