"""Checks of datasets and captioners."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from mllmrec.captions.base import Captioner
from mllmrec.data.base import Dataset, RawData
from mllmrec.testing.expect import expect, shown

CAPTIONER = (
    "a captioner yields (item id, caption or None) once for each item that it is given, and its identity is a dict of "
    "JSON values (see mllmrec.captions.base)"
)


def check_dataset(dataset: Any) -> None:
    """Check the tables that a dataset loads: lengths, codes, unique ids, images that exist, and a second load.

    Raises:
        AssertionError: it does something wrong.
    """
    expect(isinstance(dataset, Dataset), f"it is {shown(dataset)}, not a Dataset")
    data = dataset.load()
    expect(isinstance(data, RawData), f"its load returns {shown(data)}, not RawData")
    items, given = data.items, data.interactions
    for name, column in (("titles", items.titles), ("details", items.details)):
        expect(len(column) == len(items.ids), f"its items have {len(items.ids)} ids and {len(column)} {name}")
    for name, ids in (("item", items.ids), ("user", given.user_ids)):
        expect(name == "user" or len(set(ids.tolist())) == len(ids), f"its {name} ids are not unique")
    strange = sorted(set(items.images) - set(items.ids.tolist()))
    expect(not strange, f"it has images of unknown items: {', '.join(strange[:3])}")
    gone = [str(path) for path in items.images.values() if not Path(path).is_file()]
    expect(not gone, f"images of its items do not exist: {', '.join(gone[:3])}")
    rows = len(given.users)
    expect(len(given.items) == rows, f"its interactions have {rows} users and {len(given.items)} items")
    for name, codes, count in (
        ("users", given.users, len(given.user_ids)),
        ("items", given.items, len(items.ids)),
    ):
        inside = rows == 0 or (codes.min() >= 0 and codes.max() < count)
        expect(bool(inside), f"its interactions have {name} outside 0 to {count - 1}")
    for name in ("timestamps", "ratings", "targets"):
        column = getattr(given, name)
        expect(
            column is None or len(column) == rows, f"its {rows} interactions have another number of {name}"
        )
    again = dataset.load().interactions
    same = np.array_equal(again.users, given.users) and np.array_equal(again.items, given.items)
    expect(same, "a second load gives other interactions")


def check_captioner(captioner: Any) -> None:
    """Check a captioner's identity, and its caption of one red picture if that costs nothing.

    Raises:
        AssertionError: it does something wrong.
    """
    from PIL import Image

    expect(isinstance(captioner, Captioner), f"it is {shown(captioner)}, not a Captioner")
    # What costs money or a model's time, and what finds captions of known items, is asked in the job alone.
    if not captioner.reads_images or captioner.estimate(1) is not None:
        return
    try:
        json.dumps(captioner.identity())
    except TypeError as error:
        raise AssertionError(f"its identity is {captioner.identity()!r} ({error})") from error
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "red.png"
        Image.new("RGB", (32, 32), "red").save(path)
        given = list(captioner.caption_images([("1", path)]))
    pairs = [pair for pair in given if isinstance(pair, tuple) and len(pair) == 2]
    right = len(given) == 1 and len(pairs) == 1 and pairs[0][0] == "1" and isinstance(pairs[0][1], str | None)
    expect(right, f"for item 1 it yields {given!r}")
