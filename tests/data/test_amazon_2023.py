from __future__ import annotations

import gzip
import json

import pytest

from mllmrec.data.amazon_2023 import Amazon2023
from mllmrec.errors import UserError


def write(folder, site, pack=False):
    reviews = [
        ("u1", "A", 5.0, 300),
        ("u2", "A", 1.0, 200),
        ("u1", "B", 4.0, 100),
        ("u2", "C", 2.0, 50),
        ("u3", "A", 3.0, 1),
    ]
    records = [
        {"user_id": u, "parent_asin": i, "rating": r, "timestamp": t, "text": "…"} for u, i, r, t in reviews
    ]
    photos = [
        {"large": f"{site.address}/back", "variant": "PT01"},
        {"large": f"{site.address}/a.jpg", "variant": "MAIN"},
    ]
    meta = [
        {
            "parent_asin": "A",
            "title": "Soap &amp; Co",
            "store": "Shop",
            "categories": ["Beauty", "Soap"],
            "images": photos,
        },
        {
            "parent_asin": "B",
            "title": None,
            "store": None,
            "categories": [],
            "main_category": "All Beauty",
            "images": [],
        },
        {"parent_asin": "Z", "title": "never reviewed", "images": photos},
        {
            "parent_asin": "C",
            "title": "Comb",
            "images": [{"large": f"{site.address}/gone", "variant": "MAIN"}],
        },
    ]
    for name, rows in (("Test.jsonl", records), ("meta_Test.jsonl", meta)):
        content = "\n".join(json.dumps(row) for row in rows).encode()
        (folder / (name + ".gz" if pack else name)).write_bytes(gzip.compress(content) if pack else content)


@pytest.mark.parametrize("pack", [False, True])
def test_local_files_with_images(site, tmp_path, picture, pack):
    write(tmp_path, site, pack)
    site.files["/a.jpg"] = picture("red", "JPEG")
    cache = tmp_path / "cache"
    dataset = Amazon2023("Test", str(tmp_path), str(cache), image_min_reviews=1, domain="soap")
    data = dataset.load()
    assert data.items.ids.tolist() == ["A", "B", "C"]
    assert data.items.titles.tolist() == ["Soap & Co", "", "Comb"]
    assert data.items.details.tolist() == ["Shop, Soap", "All Beauty", ""]
    assert data.interactions.users.tolist() == [0, 1, 0, 1, 2]
    assert data.interactions.items.tolist() == [0, 0, 1, 2, 0]
    assert data.interactions.timestamps.tolist() == [300, 200, 100, 50, 1]
    assert data.items.images == {"A": cache / "amazon_2023" / "Test" / "images" / "A.jpg"}
    assert data.skipped == {"images refused by the server or not an image": 1}
    asked = len(site.requests)
    assert dataset.load().skipped == data.skipped
    assert len(site.requests) == asked


def test_images_only_for_items_that_a_k_core_can_keep(site, tmp_path, picture):
    write(tmp_path, site)
    site.files["/a.jpg"] = picture("red", "JPEG")
    data = Amazon2023("Test", str(tmp_path), str(tmp_path / "cache"), image_min_reviews=2).load()
    assert list(data.items.images) == ["A"]
    assert [path for path, _ in site.requests] == ["/a.jpg"]


def test_most_reviewed_items_only(site, tmp_path):
    write(tmp_path, site)
    data = Amazon2023("Test", str(tmp_path), str(tmp_path), download_images=False, max_items=2).load()
    # A has three reviews. B and C have one each, and B is seen first. u1: A B, u2: A, u3: A
    assert data.items.ids.tolist() == ["A", "B"]
    assert data.interactions.user_ids[data.interactions.users].tolist() == ["u1", "u2", "u1", "u3"]
    assert data.skipped == {"items beyond max_items": 1, "reviews of items beyond max_items": 1}


def test_files_come_through_datasets(site, tmp_path):
    write(tmp_path, site)
    for folder, name in (("review_categories", "Test.jsonl"), ("meta_categories", "meta_Test.jsonl")):
        site.files[f"/raw/{folder}/{name}"] = (tmp_path / name).read_bytes()
    data = Amazon2023(
        "Test", None, str(tmp_path / "cache"), source=site.address, download_images=False
    ).load()
    assert len(data.interactions.items) == 5
    with pytest.raises(UserError, match=r"cannot fetch .*/None\.jsonl.*dataset\.category=None"):
        Amazon2023("None", None, str(tmp_path / "cache"), source=site.address).load()


def test_missing_and_malformed(site, tmp_path):
    dataset = Amazon2023("Test", str(tmp_path), str(tmp_path), download_images=False)
    with pytest.raises(UserError, match=r"Test\.jsonl, .*meta_Test\.jsonl"):
        dataset.load()
    write(tmp_path, site)
    (tmp_path / "Test.jsonl").write_text(
        '{"user_id": "u", "parent_asin": "A", "rating": 5, "timestamp": "x"}\n'
    )
    with pytest.raises(UserError, match=r"Test\.jsonl:1: .*timestamp"):
        dataset.load()
