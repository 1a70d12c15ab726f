from __future__ import annotations

import os

import pytest
from PIL import Image

from mllmrec.data.images import image_files, usable_images
from mllmrec.errors import UserError


def test_broken_images_are_counted_and_left_out(tmp_path, picture, caplog):
    (tmp_path / "1.jpg").write_bytes(picture("red", "JPEG"))
    (tmp_path / "2.png").write_bytes(picture("blue"))
    (tmp_path / "3.WEBP").write_bytes(picture("green", "WEBP"))
    noise = Image.effect_noise((300, 300), 90)
    noise.save(tmp_path / "4.jpg")
    (tmp_path / "4.jpg").write_bytes((tmp_path / "4.jpg").read_bytes()[:5000])
    (tmp_path / "5.jpg").write_text("no image")
    (tmp_path / "6.png").write_bytes(picture("red")[:60])
    (tmp_path / "7.jpg").write_bytes(b"")
    images, counts = usable_images(tmp_path, ["1", "2", "3", "4", "5", "6", "7", "8"])
    assert sorted(images) == ["1", "2", "3"]
    assert counts == {"unreadable images": 4}
    assert "4 of 7 images" in caplog.text
    assert "4.jpg" in caplog.text


def test_ids_cannot_leave_the_folder(tmp_path, picture):
    folder = tmp_path / "images"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(picture("red"))
    images, counts = usable_images(folder, ["../secret", str(tmp_path / "secret"), ".", ""])
    assert images == {}
    assert counts == {}


def test_jpeg_goes_before_png_and_missing_folder_is_an_error(tmp_path, picture):
    (tmp_path / "1.png").write_bytes(picture("red"))
    (tmp_path / "1.jpg").write_bytes(picture("red", "JPEG"))
    assert image_files(tmp_path)["1"].name == "1.jpg"
    with pytest.raises(UserError, match="no image folder"):
        image_files(tmp_path / "none")


def test_a_folder_that_names_no_item_is_refused_with_examples(tmp_path, picture):
    for name in ("p1", "p2", "p3"):
        (tmp_path / f"{name}.png").write_bytes(picture("red"))
    with pytest.raises(
        UserError,
        match=r"none of the 3 images in .* is named after one of the 2 items: p1\.png, p2\.png, .*; items .*1, 2",
    ):
        usable_images(tmp_path, ["1", "2"])


def test_a_folder_that_hardly_matches_brings_a_warning(tmp_path, picture, caplog):
    for number in range(40):
        (tmp_path / f"p{number}.png").write_bytes(picture("red"))
    (tmp_path / "1.png").write_bytes(picture("red"))
    # One in 41 is fewer than one in twenty.
    images, _ = usable_images(tmp_path, ["1", "2", "3"])
    assert list(images) == ["1"]
    assert "only 1 of the 41 images" in caplog.text
    assert "match one of the 3 items; p0.png, p1.png, p10.png do not" in caplog.text
    caplog.clear()
    usable_images(tmp_path, ["1", *(f"p{number}" for number in range(9))])
    assert caplog.text == ""


def test_a_few_images_for_many_items_are_usual_and_none_for_a_hundred_are_not(tmp_path, picture, caplog):
    (tmp_path / "1.png").write_bytes(picture("red"))
    usable_images(tmp_path, map(str, range(100)))
    assert caplog.text == ""
    usable_images(tmp_path, map(str, range(101)))
    assert "images for only 1 of the 101 items" in caplog.text


def test_links_that_lead_in_a_circle_are_no_images(tmp_path, picture, caplog):
    (tmp_path / "1.png").write_bytes(picture("red"))
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "2.png").symlink_to("2.png")
    (tmp_path / "3.png").symlink_to("gone.png")
    images, counts = usable_images(tmp_path, ["1", "2", "3"])
    assert list(images) == ["1"]
    assert counts == {"unreadable images": 2}
    assert "2.png, 3.png" in caplog.text


def test_what_is_called_like_an_image_and_is_no_file(tmp_path, picture):
    (tmp_path / "1.png").write_bytes(picture("red"))
    (tmp_path / "2.png").mkdir()
    os.mkfifo(tmp_path / "3.png")
    assert list(usable_images(tmp_path, ["1", "2", "3"])[0]) == ["1"]


def test_a_few_kilobytes_that_unpack_to_gigabytes_are_no_image(tmp_path):
    # 11,000 x 11,000 black pixels: 20 kB on disk, 363 MB as colours, and one thread for each core reads such a file.
    Image.new("1", (11_000, 11_000)).save(tmp_path / "1.png")
    assert (tmp_path / "1.png").stat().st_size < 100_000
    assert usable_images(tmp_path, ["1"]) == ({}, {"unreadable images": 1})
