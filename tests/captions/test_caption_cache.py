from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mllmrec.captions import Captioner, Palette, Precomputed, caption_items
from mllmrec.data.base import Items
from mllmrec.errors import UserError


class Counting(Captioner):
    """Captions an image by its width, records which images it was given, and can be stopped on the way."""

    def __init__(self, stop_after: int | None = None, version: int = 1) -> None:
        self.asked: list[str] = []
        self.stop_after = stop_after
        self.version = version

    def identity(self) -> dict[str, object]:
        return {"captioner": "counting", "version": self.version}

    def caption_images(self, images: Iterable[tuple[str, Path | None]]) -> Iterator[tuple[str, str | None]]:
        for item, path in images:
            if len(self.asked) == self.stop_after:
                raise KeyboardInterrupt
            self.asked.append(item)
            assert path is not None
            with Image.open(path) as image:
                yield item, f"width {image.width}"


def _catalogue(folder: Path, without_image: int = 0) -> Items:
    """Items 1, 2, 3 with images 1, 2, 3 pixels wide, then some items without an image."""
    images = {}
    for width in (1, 2, 3):
        images[str(width)] = folder / f"{width}.png"
        Image.new("RGB", (width, 1)).save(images[str(width)])
    ids = np.arange(1, 4 + without_image).astype(str).astype(object)
    return Items(ids, np.full(len(ids), "title", object), np.full(len(ids), "", object), images)


def test_every_item_is_captioned_by_id_and_counted(tmp_path: Path) -> None:
    settled: list[int] = []
    captions, counts = caption_items(
        Counting(), _catalogue(tmp_path, 2), tmp_path / "cache", lambda done, note: settled.append(done)
    )
    assert captions == {"1": "width 1", "2": "width 2", "3": "width 3"}
    assert counts == {"captioned": 3, "no_image": 2}
    assert sum(settled) == 3


def test_an_interrupted_run_makes_the_missing_ones_only(tmp_path: Path) -> None:
    items = _catalogue(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        caption_items(Counting(stop_after=2), items, tmp_path / "cache")
    again = Counting()
    captions, counts = caption_items(again, items, tmp_path / "cache")
    assert again.asked == ["3"]
    assert captions == {"1": "width 1", "2": "width 2", "3": "width 3"}
    assert counts == {"captioned": 3, "from_cache": 2}


def test_a_torn_last_line_is_passed_over_and_does_not_spoil_the_next(tmp_path: Path) -> None:
    items = _catalogue(tmp_path)
    caption_items(Counting(), items, tmp_path / "cache")
    (path,) = (tmp_path / "cache").iterdir()
    path.write_bytes(path.read_bytes()[:-12])
    again = Counting()
    assert caption_items(again, items, tmp_path / "cache")[0]["3"] == "width 3"
    assert again.asked == ["3"]
    third = Counting()
    caption_items(third, items, tmp_path / "cache")
    assert third.asked == []


def test_a_caption_belongs_to_the_image_and_the_captioner(tmp_path: Path) -> None:
    items = _catalogue(tmp_path)
    caption_items(Counting(), items, tmp_path / "cache")
    Image.new("RGB", (7, 1)).save(items.images["2"])
    changed = Counting()
    captions, _ = caption_items(changed, items, tmp_path / "cache")
    assert (changed.asked, captions["2"]) == (["2"], "width 7")
    other = Counting(version=2)
    caption_items(other, items, tmp_path / "cache")
    assert other.asked == ["1", "2", "3"]
    heads = [json.loads(path.read_text().splitlines()[0]) for path in (tmp_path / "cache").iterdir()]
    assert sorted(head["identity"]["version"] for head in heads) == [1, 2]


def test_unreadable_images_are_counted_and_tried_again(tmp_path: Path) -> None:
    items = _catalogue(tmp_path)
    whole = items.images["2"].read_bytes()
    items.images["2"].write_bytes(whole[:20])
    items.images["3"].unlink()
    captions, counts = caption_items(Palette(), items, tmp_path / "cache")
    assert list(captions) == ["1"]
    assert counts == {"captioned": 1, "unreadable_image": 2}
    items.images["2"].write_bytes(whole)
    assert list(caption_items(Palette(), items, tmp_path / "cache")[0]) == ["1", "2"]


def test_captions_from_a_file_need_no_image_and_write_no_cache(tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    path.write_text(
        json.dumps({"4": {"title": "t", "caption": "four"}, "9": {"title": "t", "caption": "nine"}})
    )
    captions, counts = caption_items(Precomputed(path), _catalogue(tmp_path, 1), tmp_path / "cache")
    assert captions == {"4": "four"}
    # Items 1, 2, 3 are not in the file; item 9 of the file is not in the catalogue.
    assert counts == {"captioned": 1, "no_caption": 3, "unknown_item": 1}
    assert not (tmp_path / "cache").exists()


class Yields(Counting):
    def __init__(self, *results: object, reads_images: bool = True) -> None:
        super().__init__()
        self.results, self.reads_images = results, reads_images

    def caption_images(self, images):
        yield from self.results


@pytest.mark.parametrize("reads_images", [True, False])
@pytest.mark.parametrize(
    "results", [["red"], [("1", 5)], [("9", "red")], [("1", "red"), ("1", "blue")], [("1",)]]
)
def test_a_captioner_that_yields_something_else_is_named(
    tmp_path: Path, results: list[object], reads_images: bool
) -> None:
    captioner = Yields(*results, reads_images=reads_images)
    with pytest.raises(
        UserError, match=r"\.Yields: it yields .*; a captioner yields \(item id, caption or None\)"
    ):
        caption_items(captioner, _catalogue(tmp_path), tmp_path / "cache")
