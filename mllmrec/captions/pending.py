"""Estimates what captions would cost without making any, for a dry run."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from mllmrec.captions.base import Captioner
from mllmrec.captions.cache import CaptionStore


class Pending(Captioner):
    """Stands in for a captioner that is slow or paid. It finds captions made before and makes none.

    For a caption that is not there yet it gives a text as long as the caption may become, so estimates made from it
    are upper bounds too. Such captions are counted as ``pending``.

    Args:
        captioner: the captioner to stand in for.
        cache_dir: the folder where that captioner's captions are kept.
    """

    # The texts it gives in place of captions must not be stored as captions.
    reads_images = False

    def __init__(self, captioner: Captioner, cache_dir: str) -> None:
        self.captioner, self.cache_dir = captioner, Path(cache_dir)
        self.missing = 0

    def identity(self) -> dict[str, object]:
        """Nothing is made, so this is never called."""
        return {"captioner": "pending", "of": self.captioner.identity()}

    def counts(self, catalogue: Collection[str]) -> dict[str, int]:
        """``pending``: captions that are still to be made."""
        return {"pending": self.missing}

    def caption_images(self, images: Iterable[tuple[str, Path | None]]) -> Iterator[tuple[str, str | None]]:
        """Yield known captions, and texts in place of the others; None for an item without a readable image."""
        store = CaptionStore(self.cache_dir, self.captioner.identity())
        cost = self.captioner.estimate(1)
        # Four characters per token, as in `mllmrec.endpoint.budget.tokens_in`.
        stand_in = "x" * max(1, 4 * cost.completion_tokens if cost else 0)
        for item, path in images:
            if path is None:
                yield item, None
                continue
            ((_, _, image, caption),) = store.split([(item, path)])
            if image is not None and caption is None:
                self.missing += 1
                caption = stand_in
            yield item, caption
