from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from mllmrec.endpoint.images import data_url


def decode(url: str) -> Image.Image:
    head, _, data = url.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data, validate=True)))


def test_picture_is_shrunk_and_keeps_its_sides(tmp_path):
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[:, :100] = (250, 10, 10)
    pixels[:, 100:] = (10, 10, 250)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    sent = decode(data_url(tmp_path / "a.png", 50))
    assert (sent.size, sent.mode) == ((50, 25), "RGB")
    # JPEG changes pixel values slightly.
    assert np.abs(np.asarray(sent)[12, 5].astype(int) - (250, 10, 10)).max() < 12
    assert np.abs(np.asarray(sent)[12, 45].astype(int) - (10, 10, 250)).max() < 12


def test_small_picture_keeps_its_size(tmp_path):
    Image.new("L", (20, 10), 128).save(tmp_path / "a.jpg")
    assert decode(data_url(tmp_path / "a.jpg", 50)).size == (20, 10)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_is_white(tmp_path, mode):
    Image.new(mode, (16, 16)).save(tmp_path / "a.png")
    assert np.asarray(decode(data_url(tmp_path / "a.png", 50))).min() > 250


def test_turned_photograph_is_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.new("RGB", (20, 10)).save(tmp_path / "a.jpg", exif=exif)
    assert decode(data_url(tmp_path / "a.jpg", 50)).size == (10, 20)


def test_damaged_or_missing_file_gives_none(tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    assert data_url(tmp_path / "half.png", 50) is None
    assert data_url(tmp_path / "none.png", 50) is None
    assert data_url(tmp_path, 50) is None
