"""The interface of captioners: item images in, short texts out, one at a time and keyed by item id."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from mllmrec.reasoners.base import Estimate


class Captioner(ABC):
    """Turns item images into text offline, so that no prompt holds visual tokens."""

    reads_images: bool = (
        True  # False: captions are found by item id, so items without an image can have one too
    )

    # Why some readable images have no caption, if that is known: reason -> images.
    problems: Mapping[str, int] = MappingProxyType({})

    @property
    def spent(self) -> Estimate | None:
        """What was paid so far; None if captions cost nothing."""
        return None

    def estimate(self, images: int) -> Estimate | None:
        """The most that captions of `images` images cost; None if a caption costs neither money nor a model's time."""
        return None

    def counts(self, catalogue: Collection[str]) -> dict[str, int]:
        """Further counts, asked for once all items of the catalogue have been captioned."""
        return {}

    @abstractmethod
    def caption_images(self, images: Iterable[tuple[str, Path | None]]) -> Iterator[tuple[str, str | None]]:
        """Yield ``(item id, caption)`` for each ``(item id, image path)``, in any order, as captions are made.

        The path can be None only if ``reads_images`` is False. A caption is None if the image cannot be read or
        nothing is known about the item. The caller counts such items and goes on. It is "" if the image was read but
        there is nothing to say; this is kept like a caption, so that the image is not read again.
        """

    @abstractmethod
    def identity(self) -> dict[str, object]:
        """Everything besides the image's bytes that determines a caption, as JSON values."""
