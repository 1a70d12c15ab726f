from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from mllmrec.data.base import Dataset, Items, RawData, RawInteractions
from mllmrec.data.loaded import load_checked
from mllmrec.errors import UserError


class Own(Dataset):
    name = "own"

    def __init__(self, raw):
        self.raw = raw

    def load(self):
        return self.raw

    def identity(self):
        return {}


def raw(table=None, **rows):
    """Two users and three items."""
    texts = np.array(["a", "b", "c"])
    kept = {
        "user_ids": np.array(["u", "v"]),
        "users": np.array([0, 0, 1]),
        "items": np.array([0, 2, 1]),
        "timestamps": np.array([5, 6, 7]),
        "ratings": np.array([1.0, 2.0, 3.0], dtype=np.float32),
        "split": np.array([0, 0, 2], dtype=np.int8),
        **rows,
    }
    return RawData(
        "own", dataclasses.replace(Items(texts, texts, texts), **(table or {})), RawInteractions(**kept)
    )


def test_what_keeps_the_promise_passes():
    good = raw(table={"ids": np.array(["a", "b", "c"], dtype=object), "images": {"c": Path("c.png")}})
    assert load_checked(Own(good)) is good
    load_checked(Own(raw(timestamps=None, ratings=None, split=None)))
    nobody = {"users": np.empty(0, np.int32), "items": np.empty(0, np.int32)}
    load_checked(Own(raw(**nobody, timestamps=None, ratings=None, split=None)))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, "load() returned nothing"),
        ({"items": []}, "load() returned a dict"),
        (raw(table={"titles": np.array(["x", "y"])}), "items.titles has 2 entries for 3 ids"),
        (raw(table={"ids": np.array([1, 2, 3])}), "items.ids is no array of text"),
        (raw(table={"ids": ["a", "b", "c"]}), "items.ids is no array of text"),
        (
            raw(table={"details": np.array(["x", None, "z"], dtype=object)}),
            "items.details is no array of text",
        ),
        (raw(table={"ids": np.array(["a", "b", "a"])}), "1 of the items' ids are repeated"),
        (raw(table={"images": {"d": Path("d.png")}}), "items.images has 'd', which is not an item id"),
        (raw(user_ids=np.array([1, 2])), "interactions.user_ids is no array of text"),
        (raw(users=np.array([0, 0, 2])), "codes from 0 to 2, and there are 2 users"),
        (raw(users=np.array([0, 0, -1])), "codes from -1 to 0"),
        (raw(items=np.array([0, 3, 1])), "interactions.items has codes from 0 to 3, and there are 3 items"),
        (raw(users=np.array([0.0, 0.0, 1.0])), "interactions.users is no array of 3 whole numbers"),
        (raw(timestamps=np.array([1.5, 2.0, 3.0])), "interactions.timestamps is no array of 3 whole numbers"),
        (raw(ratings=np.array([1.0, 2.0])), "interactions.ratings is no array of 3 numbers"),
        (raw(split=np.array([0, 1, 2])), "interactions.split has other values than 0 (train) and 2 (test)"),
    ],
)
def test_what_does_not_is_named_with_its_class(given, words):
    with pytest.raises(UserError) as raised:
        load_checked(Own(given))
    message = str(raised.value)
    assert message.startswith("dataset ")
    assert ".Own: " in message
    assert words in message
    assert message.endswith("load() returns RawData as mllmrec.data.base describes it")


def test_a_class_of_ones_own_that_fails_is_named_with_the_place():
    class Fails(Own):
        def load(self):
            return {}["rows"]

    with pytest.raises(
        UserError, match=r"Fails: load\(\) fails \(KeyError: 'rows'; test_loaded\.py, line \d+\)"
    ):
        load_checked(Fails(None))

    class Says(Own):
        def load(self):
            raise UserError("ratings.csv, line 3: no user")

    with pytest.raises(UserError, match=r"^ratings\.csv, line 3: no user$"):
        load_checked(Says(None))
    # A defect of our own code is not a user error.
    Fails.__module__ = "mllmrec.data.fails"
    with pytest.raises(KeyError):
        load_checked(Fails(None))
