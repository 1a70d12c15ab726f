from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mllmrec.captions import Palette
from mllmrec.captions.colours import lab_of
from mllmrec.captions.palette import describe
from mllmrec.data.synthetic import Synthetic
from mllmrec.errors import UserError

POSTERS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "movielens_posters" / "posters"


def _captions(images: dict[str, Path], **settings: int) -> dict[str, str | None]:
    return dict(Palette(**settings).caption_images(iter(images.items())))


def test_lab_of_known_colours() -> None:
    # In CIELAB under D65 white is (100, 0, 0), black (0, 0, 0) and sRGB red (53.24, 80.09, 67.20).
    lab = lab_of(np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0]], dtype=np.uint8))
    np.testing.assert_allclose(lab, [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20]], atol=0.03)


def test_pixels_reveal_the_synthetic_attributes(tmp_path: Path) -> None:
    source = Synthetic(tmp_path, num_users=1, num_items=200, seed=5)
    images = source.load().items.images
    start = time.process_time()
    captions = [(caption or "").split(", ") for caption in _captions(images).values()]
    rate = len(captions) / (time.process_time() - start)
    truth = source._attribute_names()
    right = {
        name: np.mean([words[place] == item[name] for words, item in zip(captions, truth, strict=True)])
        for name, place in (("colour", 0), ("pattern", -2), ("shape", -1))
    }
    assert min(right.values()) >= 0.95, right
    assert rate > 100


def test_a_caption_reads_the_file_and_nothing_else(tmp_path: Path) -> None:
    # Item 2 with the picture of item 1 gets the caption of item 1.
    images = Synthetic(tmp_path, num_users=1, num_items=20).load().items.images
    first = _captions({"1": images["1"]})["1"]
    images["2"].write_bytes(images["1"].read_bytes())
    assert _captions({"2": images["2"]}) == {"2": first}


def test_a_drawn_blue_disc_on_white() -> None:
    picture = Image.new("RGB", (80, 60), "white")
    ImageDraw.Draw(picture).ellipse([20, 10, 60, 50], fill=(30, 70, 200))
    assert describe(np.asarray(picture), max_colours=2) == "blue, solid, circle"


def test_a_black_object_is_named_although_black_is_neutral() -> None:
    picture = Image.new("RGB", (64, 64), (200, 200, 200))
    ImageDraw.Draw(picture).rectangle([16, 16, 47, 47], fill="black")
    assert describe(np.asarray(picture), max_colours=2) == "black, solid, square"


def test_a_photograph_like_picture_is_described_by_light_and_texture() -> None:
    # Black and dark blue columns 8 pixels wide, up to the border: no object, vertical lines, mostly dark.
    columns = np.arange(80) // 8 % 2
    picture = np.where(columns[None, :, None], np.uint8([10, 10, 12]), np.uint8([20, 30, 95]))
    words = describe(np.broadcast_to(picture, (60, 80, 3)), max_colours=2).split(", ")
    assert set(words[:2]) == {"black", "dark blue"}
    assert "dark picture" in words
    assert "vertical lines" in words


def test_max_colours_limits_the_colours_named() -> None:
    picture = np.zeros((60, 60, 3), np.uint8)
    picture[:, :30], picture[:, 30:] = (217, 33, 33), (43, 95, 217)
    assert describe(picture, max_colours=2).startswith("blue, red")
    assert "red" not in describe(picture, max_colours=1)
    with pytest.raises(UserError, match="max_colours=0"):
        Palette(max_colours=0)


def test_unreadable_images_are_reported_and_do_not_stop_the_rest(tmp_path: Path) -> None:
    whole = Synthetic(tmp_path / "cache", num_users=1, num_items=20).load().items.images["1"]
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:300])
    (tmp_path / "text.png").write_text("no image")
    images = {
        "cut": tmp_path / "cut.png",
        "text": tmp_path / "text.png",
        "absent": tmp_path / "absent.png",
        "good": whole,
    }
    captions = _captions(images)
    assert list(captions) == ["cut", "text", "absent", "good"]
    assert [name for name, caption in captions.items() if caption is None] == ["cut", "text", "absent"]


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16"])
@pytest.mark.parametrize("size", [(1, 1), (5, 300), (120, 90)])
def test_every_mode_and_size_has_a_caption(tmp_path: Path, mode: str, size: tuple[int, int]) -> None:
    path = tmp_path / "picture.tiff"
    Image.new(mode, size).save(path) if mode != "P" else Image.new("P", size).save(path.with_suffix(".png"))
    caption = _captions({"x": path if mode != "P" else path.with_suffix(".png")})["x"]
    # All zeros: black, or white if alpha is zero as well.
    assert caption is not None
    assert caption.split(", ")[0] in ("black", "white")


def test_real_posters() -> None:
    if not POSTERS.is_dir():
        pytest.skip("no ../shared/data/movielens_posters: real posters are not at hand")
    paths = sorted(POSTERS.glob("*.jpg"))[:60]
    start = time.process_time()
    captions = [caption or "" for caption in _captions({path.stem: path for path in paths}).values()]
    assert len(paths) / (time.process_time() - start) > 20
    assert all(0 < len(caption.replace(",", "").split()) <= 12 for caption in captions)
    # Posters differ, so there are many captions, and few of them claim an object with a pattern.
    assert len(set(captions)) > 30
    patterned = [
        caption for caption in captions if {"dotted", "striped", "checked"} & set(caption.split(", "))
    ]
    assert len(patterned) < 3
