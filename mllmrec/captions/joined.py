"""One caption made of the captions of several captioners, such as colours and then the words of a classifier."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from mllmrec.captions.base import Captioner
from mllmrec.errors import UserError
from mllmrec.reasoners.base import Estimate


class Joined(Captioner):
    """An item's captions one after the other, in the order of ``parts``. A part that says nothing is left out.

    `mllmrec.captions.caption_items` keeps the captions of each part under that part's own identity. So a change of one
    part makes only its own captions anew.

    Args:
        parts: captioners by a name of yours.
        separator: between two captions.

    Raises:
        UserError: there is no part, a part is no captioner, or the parts have no names.
    """

    def __init__(self, parts: Mapping[str, Captioner], separator: str = ". ") -> None:
        self.parts: dict[str, Captioner] = {}
        if not isinstance(parts, Mapping):
            raise UserError(
                "parts: must be captioners by name; choose one with +caption@caption.parts.NAME=CHOICE"
            )
        for name, part in parts.items():
            if not isinstance(part, Captioner):
                raise UserError(f"parts.{name}: it is no captioner; choose a file of conf/caption")
            self.parts[str(name)] = part
        if not self.parts:
            raise UserError("parts: there is none to join; keep one, or set caption=none")
        self.separator = separator
        self.reads_images = any(part.reads_images for part in self.parts.values())

    def identity(self) -> dict[str, object]:
        """The identities of the parts, in order."""
        parts = [part.identity() for part in self.parts.values()]
        return {"captioner": "joined", "parts": parts, "separator": self.separator}

    @property
    def spent(self) -> Estimate | None:
        """The sum over the parts."""
        return _sum([part.spent for part in self.parts.values()])

    def estimate(self, images: int) -> Estimate | None:
        """The sum over the parts."""
        return _sum([part.estimate(images) for part in self.parts.values()])

    def caption_images(self, images: Iterable[tuple[str, Path | None]]) -> Iterator[tuple[str, str | None]]:
        """Yield joined captions, all parts made anew; None if every part's is None."""
        given = list(images)
        said = [
            dict(part.caption_images(entry for entry in given if entry[1] or not part.reads_images))
            for part in self.parts.values()
        ]
        for item, _ in given:
            yield item, self.join([captions.get(item) for captions in said])

    def join(self, captions: Sequence[str | None]) -> str | None:
        """The captions of an item, one from each part, as one caption; None if all are None."""
        if all(caption is None for caption in captions):
            return None
        return self.separator.join(caption for caption in captions if caption)


def _sum(estimates: Sequence[Estimate | None]) -> Estimate | None:
    """The sum of what is known; None if nothing costs anything."""
    known = [estimate for estimate in estimates if estimate is not None]
    if not known:
        return None
    money = [estimate.money for estimate in known if estimate.money is not None]
    return Estimate(
        sum(estimate.requests for estimate in known),
        sum(estimate.prompt_tokens for estimate in known),
        sum(estimate.completion_tokens for estimate in known),
        sum(money) if money else None,
    )
