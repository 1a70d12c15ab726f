from __future__ import annotations

import numpy as np
import pytest

from mllmrec.data.base import Items
from mllmrec.data.long_texts import bounded
from mllmrec.errors import UserError


def items(ids, titles, details):
    return Items(*(np.array(column, dtype=object) for column in (ids, titles, details)))


def test_a_title_of_a_million_letters_is_cut_and_its_item_named(caplog):
    titles = ["b" * 2000, "a" * 1_000_000, "Soap"]
    cut = bounded(items(["x", "y", "z"], titles, ["", "c" * 2001, ""]))
    assert cut.titles.tolist() == ["b" * 2000, "a" * 2000, "Soap"]
    assert cut.details.tolist() == ["", "c" * 2000, ""]
    assert caplog.messages == [
        "1 of 3 titles are cut to 2000 characters: item y (1000000 characters)",
        "1 of 3 details are cut to 2000 characters: item y (2001 characters)",
    ]


def test_usual_texts_are_left_alone(caplog):
    usual = items(["x"], ["Soap"], ["Acme"])
    assert bounded(usual) is usual
    assert caplog.messages == []


def test_an_endless_id_is_refused():
    bounded(items(["x" * 500], ["Soap"], [""]))
    with pytest.raises(UserError, match=r"item 'xxxxx.*…x+': its id has 501 characters") as caught:
        bounded(items(["x" * 501], ["Soap"], [""]))
    assert len(str(caught.value)) < 200
