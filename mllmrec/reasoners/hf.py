"""A reasoner that runs a Hugging Face model on this machine, in batches, with or without images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path

import torch

from mllmrec.cache import files_fingerprint
from mllmrec.flat import flat_settings
from mllmrec.reasoners.base import Reasoner, Request, Written
from mllmrec.reasoners.hf_model import HfModel
from mllmrec.reasoners.hf_settings import HfSettings, LoadingSettings, WritingSettings

_BATCHES_AHEAD = 16  # requests are read this many batches ahead and sorted by length


class HfReasoner(Reasoner):
    """Any chat model, by hub name or local folder. Code that comes with a checkpoint is never run.

    The model is loaded for the first request of a `write` and released after the last. ``temperature`` 0 is greedy.
    Otherwise each request draws from its own generator, named by ``seed`` and the sample id, so its text does not
    depend on its neighbours in the batch.

    Raises:
        UserError: a parameter has no meaning.
    """

    @flat_settings
    def __init__(
        self,
        path: str,
        sees_images: bool = False,
        loading: LoadingSettings = LoadingSettings(),
        writing: WritingSettings = WritingSettings(),
    ) -> None:
        self.sees_images = sees_images
        self.settings = HfSettings(path, sees_images, loading, writing)

    def identity(self) -> dict[str, object]:
        """The model and the settings that affect the text: no seed, for example, if nothing is drawn.

        Batch size, device and attention implementation change results only by rounding and are left out. A local
        folder is identified by the content of its files, not by its path.
        """
        settings, writing = self.settings, self.settings.writing
        return {
            "reasoner": "hf",
            "version": 1,
            "model": self._model,
            "dtype": settings.loading.dtype,
            "sees_images": settings.sees_images,
            "max_new_tokens": writing.max_new_tokens,
            "temperature": writing.temperature,
            "enable_thinking": writing.enable_thinking,
            **({"top_p": writing.top_p, "seed": writing.seed} if writing.temperature else {}),
            **({"max_side": writing.max_side} if settings.sees_images else {}),
        }

    @cached_property
    def _model(self) -> dict[str, object]:
        folder = Path(self.settings.path).expanduser()
        if not folder.is_dir():
            return {"path": self.settings.path, "revision": self.settings.loading.revision or "main"}
        return {"files": files_fingerprint({file.name: file for file in folder.iterdir() if file.is_file()})}

    def write(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Written]]:
        """Serve the requests in batches of similar length; see `Reasoner.write`.

        Problems: ``empty``, ``cut off while thinking``, ``prompt too long`` (prompt and answer would exceed the
        model's limit), ``unreadable image``, ``refused by the processor``, ``out of memory`` (even alone in a batch).
        """
        stream = iter(requests)
        model = None
        while window := list(islice(stream, self.settings.loading.batch_size * _BATCHES_AHEAD)):
            model = model or HfModel(self.settings)
            yield from model.write(window)
        del model
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
