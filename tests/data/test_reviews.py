from __future__ import annotations

import json

import pytest

from mllmrec.data.reviews import read_reviews
from mllmrec.errors import UserError


@pytest.fixture
def read(tmp_path):
    def reviews(*changes: dict[str, object]):
        """Reviews, each a good one with the given fields changed."""
        good = {"user": "u", "item": "i", "time": 5, "rating": 4.5}
        file = tmp_path / "a.jsonl"
        file.write_text("".join(json.dumps(good | change) + "\n" for change in changes), encoding="utf-8")
        return read_reviews(file, "user", "item", "time", "rating")

    return reviews


def test_times_beyond_64_bits_are_refused(read):
    assert read({"time": 2**63 - 1}, {"time": 1.5e9})[0].timestamps.tolist() == [2**63 - 1, 1_500_000_000]
    with pytest.raises(UserError, match=r"a\.jsonl:2: .*OverflowError"):
        read({}, {"time": 2**63})


@pytest.mark.parametrize("value", [None, "", " ", "nan", ["u"], {"a": 1}, True, float("nan"), 1e16])
@pytest.mark.parametrize("field", ["user", "item"])
def test_what_is_no_id_is_refused(read, field, value):
    with pytest.raises(UserError, match=rf"a\.jsonl:2: .*{field}"):
        read({}, {field: value})


def test_whole_numbers_are_ids(read):
    interactions, items = read({"user": 7, "item": 1.0}, {"user": "7", "item": "1"})
    assert interactions.user_ids.tolist() == ["7"]
    assert items == {"1": 0}
