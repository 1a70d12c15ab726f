from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from mllmrec.data import amazon_beauty
from mllmrec.data.amazon_beauty import META, REVIEWS, AmazonBeauty
from mllmrec.errors import UserError


def write_public(folder, meta=None):
    reviews = [("U2", "B1", 20, 5.0), ("U1", "B1", 10, 3.0), ("U2", "B2", 15, 4.0)]
    lines = [
        json.dumps({"reviewerID": u, "asin": i, "unixReviewTime": t, "overall": r}) for u, i, t, r in reviews
    ]
    (folder / REVIEWS).write_bytes(gzip.compress("\n".join(lines).encode()))
    meta = meta or [
        "{'asin': 'X9', 'title': 'never reviewed', 'brand': broken}",
        """{'asin': 'B2', 'categories': [['Beauty', "Women's"]], 'title': 'Salt &amp;  Pepper', 'brand': 'OPI'}""",
        "",
    ]
    (folder / META).write_bytes(gzip.compress("\n".join(meta).encode()))


def check_public(data):
    assert data.interactions.user_ids.tolist() == ["U2", "U1"]
    assert data.interactions.users.tolist() == [0, 1, 0]
    assert data.interactions.items.tolist() == [0, 0, 1]
    assert data.interactions.timestamps.tolist() == [20, 10, 15]
    assert data.interactions.ratings.tolist() == [5.0, 3.0, 4.0]
    assert data.items.ids.tolist() == ["B1", "B2"]
    assert data.items.titles.tolist() == ["", "Salt & Pepper"]
    assert data.items.details.tolist() == ["", "OPI, Women's"]


def test_public_files(tmp_path):
    write_public(tmp_path)
    check_public(AmazonBeauty(str(tmp_path), "unused").load())


def test_public_files_are_downloaded(site, tmp_path, monkeypatch):
    write_public(tmp_path)
    site.files |= {f"/{name}": (tmp_path / name).read_bytes() for name in (REVIEWS, META)}
    monkeypatch.setattr(amazon_beauty, "ADDRESS", site.address)
    check_public(AmazonBeauty(None, str(tmp_path / "cache")).load())
    assert len(site.requests) == 2


def test_item_record_is_data_not_code(tmp_path):
    write_public(tmp_path, ["{'asin': 'B1', 'title': open('x')}"])
    with pytest.raises(UserError, match=r"meta_Beauty\.json\.gz:1: not a Python dict"):
        AmazonBeauty(str(tmp_path), "unused").load()


def test_bad_review_names_the_line(tmp_path):
    write_public(tmp_path)
    (tmp_path / REVIEWS).write_bytes(gzip.compress(b'\n{"reviewerID": "U", "asin": "B1", "overall": 5}\n'))
    with pytest.raises(UserError, match=r"reviews_Beauty_5\.json\.gz:2: .*unixReviewTime"):
        AmazonBeauty(str(tmp_path), "unused").load()


def test_missing_files_are_named_with_the_other_layout(tmp_path):
    with pytest.raises(
        UserError, match=r"reviews_Beauty_5\.json\.gz, .*meta_Beauty\.json\.gz.*sequential_data\.txt"
    ):
        AmazonBeauty(str(tmp_path), "unused").load()
    with pytest.raises(UserError, match=r"cache.*reviews_Beauty_5\.json\.gz"):
        AmazonBeauty(None, str(tmp_path / "cache"), download=False).load()


def test_sequences_with_an_item_outside_the_table(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "derived").mkdir()
    (tmp_path / "raw" / "sequential_data.txt").write_text("1 1 3\n")
    (tmp_path / "derived" / "items.tsv").write_text("item_id\ttitle\tbrand\tcategories\n1\tA\t\t'Beauty'\n")
    with pytest.raises(UserError, match=r"1 items of .*sequential_data\.txt, such as 3"):
        AmazonBeauty(str(tmp_path), "unused").load()


def test_shared_data_has_the_published_size(shared):
    data = AmazonBeauty(str(shared / "amazon_beauty"), "unused").load()
    rows = data.interactions
    assert len(rows.user_ids) == 22_363
    assert len(data.items) == len(np.unique(rows.items)) == 12_101
    assert len(rows.items) == 198_502
    assert (data.items.titles == "").sum() == 7
    assert not any("&amp;" in title or "  " in title for title in data.items.titles)
    first = data.items.ids.tolist().index("1")
    assert data.items.titles[first] == "OPI Nail Lacquer, Simmer and Shimmer, 0.5-Fluid Ounce"
    assert data.items.details[first] == "OPI, Nail Polish"
    # the first line of the file is "1 1 2 3 4 5"
    assert data.items.ids[rows.items[rows.users == 0]].tolist() == ["1", "2", "3", "4", "5"]
