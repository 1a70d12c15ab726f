from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from mllmrec.captions import Captioner, caption_items
from mllmrec.captions.pending import Pending
from mllmrec.data.base import Items
from mllmrec.reasoners.base import Estimate


class Paid(Captioner):
    """Costs three tokens per caption, and must not be called in a dry run."""

    def __init__(self, refuses: bool = False) -> None:
        self.refuses = refuses

    def identity(self):
        return {"captioner": "paid"}

    def estimate(self, images):
        return Estimate(images, 10 * images, 3 * images, 0.5 * images)

    def caption_images(self, images):
        for item, _ in images:
            assert not self.refuses, "asked in a dry run"
            yield item, f"caption of {item}"


def catalogue(folder: Path, with_image: int) -> Items:
    """Items 1 to 4; the first few have an image of their own."""
    images = {}
    for number in range(1, with_image + 1):
        images[str(number)] = folder / f"{number}.png"
        Image.new("RGB", (number, 1)).save(images[str(number)])
    ids = np.array(list("1234"), dtype=object)
    return Items(ids, np.full(4, "title", object), np.full(4, "", object), images)


def test_a_dry_run_finds_captions_stands_in_for_others_and_makes_none(tmp_path: Path) -> None:
    caption_items(Paid(), catalogue(tmp_path, 1), tmp_path / "cache")
    files = {path: path.read_bytes() for path in (tmp_path / "cache").iterdir()}
    items = catalogue(tmp_path, 3)
    captions, counts = caption_items(
        Pending(Paid(refuses=True), str(tmp_path / "cache")), items, tmp_path / "cache"
    )
    # Three tokens of four characters each; item 4 has no image.
    assert captions == {"1": "caption of 1", "2": "x" * 12, "3": "x" * 12}
    assert counts == {"captioned": 3, "pending": 2, "no_caption": 1}
    # No text in place of a caption is stored as a caption.
    assert {path: path.read_bytes() for path in (tmp_path / "cache").iterdir()} == files
