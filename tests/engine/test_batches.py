from __future__ import annotations

import pytest

from mllmrec.engine.batches import pad


@pytest.mark.parametrize(
    ("side", "ids", "mask"),
    [
        ("left", [[5, 6, 7], [0, 0, 8], [0, 0, 0]], [[1, 1, 1], [0, 0, 1], [0, 0, 0]]),
        ("right", [[5, 6, 7], [8, 0, 0], [0, 0, 0]], [[1, 1, 1], [1, 0, 0], [0, 0, 0]]),
    ],
)
def test_padding(side, ids, mask):
    batch = pad([[5, 6, 7], [8], []], 0, side=side)
    assert batch.ids.tolist() == ids
    assert batch.mask.int().tolist() == mask


def test_no_rows():
    assert pad([], 0, side="left").ids.shape == (0, 0)
