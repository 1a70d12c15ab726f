"""A reasoner that runs a Hugging Face model on this machine, in batches, with or without images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path

import torch

from mllmrec.cache import files_fingerprint
from mllmrec.errors import UserError, choices
from mllmrec.reasoners.base import Reasoner, Request, Written
from mllmrec.reasoners.hf_model import HfModel, HfSettings

_BATCHES_AHEAD = 16  # requests are read this many batches ahead and sorted by length
_CHOICES = {"dtype": ("bfloat16", "float16", "float32"), "device": ("auto", "cpu", "cuda")}


class HfReasoner(Reasoner):
    """Any chat model, by hub name or local folder. Code that comes with a checkpoint is never run.

    The model is loaded for the first request of a `write` and released after the last. ``temperature`` 0 is greedy.
    Otherwise each request draws from its own generator, named by ``seed`` and the sample id, so its text does not
    depend on its neighbours in the batch. ``max_side`` limits an image's longer side in pixels (0: no limit).
    ``enable_thinking`` is passed to the chat template; None leaves the template's own default.

    Raises:
        UserError: a parameter has no meaning.
    """

    def __init__(
        self,
        path: str,
        sees_images: bool = False,
        revision: str | None = None,
        dtype: str = "bfloat16",
        device: str = "auto",
        attn_implementation: str = "sdpa",
        batch_size: int = 8,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        enable_thinking: bool | None = None,
        max_side: int = 0,
    ) -> None:
        for name, value, lowest in (
            ("batch_size", batch_size, 1),
            ("max_new_tokens", max_new_tokens, 1),
            ("max_side", max_side, 0),
            ("temperature", temperature, 0),
        ):
            if value < lowest:
                raise UserError(f"{name}={value}: must be at least {lowest}")
        if not 0 < top_p <= 1:
            raise UserError(f"top_p={top_p}: must be above 0 and at most 1")
        for name, word in (("dtype", dtype), ("device", device)):
            if word not in _CHOICES[name]:
                raise UserError(f"{name}={word}: must be {choices(_CHOICES[name])}")
        self.sees_images = sees_images
        self.settings = HfSettings(
            path=path,
            sees_images=sees_images,
            revision=revision or "main",
            dtype=dtype,
            device=device,
            attn_implementation=attn_implementation,
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            enable_thinking=enable_thinking,
            max_side=max_side,
        )

    def identity(self) -> dict[str, object]:
        """The model and the settings that affect the text: no seed, for example, if nothing is drawn.

        Batch size, device and attention implementation change results only by rounding and are left out. A local
        folder is identified by the content of its files, not by its path.
        """
        settings = self.settings
        return {
            "reasoner": "hf",
            "version": 1,
            "model": self._model,
            "dtype": settings.dtype,
            "sees_images": settings.sees_images,
            "max_new_tokens": settings.max_new_tokens,
            "temperature": settings.temperature,
            "enable_thinking": settings.enable_thinking,
            **({"top_p": settings.top_p, "seed": settings.seed} if settings.temperature else {}),
            **({"max_side": settings.max_side} if settings.sees_images else {}),
        }

    @cached_property
    def _model(self) -> dict[str, object]:
        folder = Path(self.settings.path).expanduser()
        if not folder.is_dir():
            return {"path": self.settings.path, "revision": self.settings.revision}
        return {"files": files_fingerprint({file.name: file for file in folder.iterdir() if file.is_file()})}

    def write(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Written]]:
        """Serve the requests in batches of similar length; see `Reasoner.write`.

        Problems: ``empty``, ``cut off while thinking``, ``prompt too long`` (prompt and answer would exceed the
        model's limit), ``unreadable image``, ``refused by the processor``, ``out of memory`` (even alone in a batch).
        """
        stream = iter(requests)
        model = None
        while window := list(islice(stream, self.settings.batch_size * _BATCHES_AHEAD)):
            model = model or HfModel(self.settings)
            yield from model.write(window)
        del model
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
