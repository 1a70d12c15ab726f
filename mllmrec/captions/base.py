"""What every captioner does: item images in, short texts out, one at a time and keyed by item id."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from mllmrec.reasoners.base import Estimate


class Captioner(ABC):
    """Turns item images into text, offline, so that no visual token reaches a prompt."""

    reads_images: bool = (
        True  # False: captions are found by item id, and items without an image have them too
    )

    # Why images that could be read have no caption, where that is known: reason -> images.
    problems: Mapping[str, int] = MappingProxyType({})

    @property
    def spent(self) -> Estimate | None:
        """What was paid for so far; None where nothing is."""
        return None

    def estimate(self, images: int) -> Estimate | None:
        """What captions of so many images cost at most; None where a caption costs neither money nor a model's time."""
        return None

    def counts(self, catalogue: Collection[str]) -> dict[str, int]:
        """What else is to be counted, once the items of a catalogue have been asked for."""
        return {}

    @abstractmethod
    def caption_images(self, images: Iterable[tuple[str, Path | None]]) -> Iterator[tuple[str, str | None]]:
        """Yield ``(item id, caption)`` for each ``(item id, image path)``, in any order, as they are made.

        The path is None only where ``reads_images`` is False. A caption is None when the image cannot be read or
        nothing is known of the item: the caller counts it and goes on.
        """

    @abstractmethod
    def identity(self) -> dict[str, object]:
        """What determines a caption besides the image's bytes, as JSON values."""
