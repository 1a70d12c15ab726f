"""What captions would cost, with none made: for a dry run."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from mllmrec.captions.base import Captioner
from mllmrec.captions.cache import CaptionStore


class Pending(Captioner):
    """Stands in for a captioner that is slow or paid: it finds the captions made before and makes none.

    A caption that is not there yet is stood for by a text as long as it may become, so that what is estimated from
    it is an upper bound too; these are counted as ``pending``.

    Args:
        captioner: whose captions are meant.
        cache_dir: where its captions are kept.
    """

    # Its stand-ins must not be kept as captions.
    reads_images = False

    def __init__(self, captioner: Captioner, cache_dir: str) -> None:
        self.captioner, self.cache_dir = captioner, Path(cache_dir)
        self.missing = 0

    def identity(self) -> dict[str, object]:
        """Never asked for: nothing is made."""
        return {"captioner": "pending", "of": self.captioner.identity()}

    def counts(self, catalogue: Collection[str]) -> dict[str, int]:
        """``pending``: captions that are still to be made."""
        return {"pending": self.missing}

    def caption_images(self, images: Iterable[tuple[str, Path | None]]) -> Iterator[tuple[str, str | None]]:
        """Yield known captions, and stand-ins for the others; None where there is no image that can be read."""
        store = CaptionStore(self.cache_dir, self.captioner.identity())
        cost = self.captioner.estimate(1)
        # Four characters a token, as in `mllmrec.endpoint.budget.tokens_in`.
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
