from __future__ import annotations

import pytest

from mllmrec.prompts.answers import parse_answer
from mllmrec.prompts.markup import ITEM_MARK, item_label, item_mark, label_item, neutral

ODD_IDS = [
    "7",
    "B00X-1",
    "a b",
    "a]b",
    "[ITEM_7]",
    "ä/ö",
    "100%",
    "%41",
    "a\nb",
    "<think>",
    "{id}",
    "日本",
    "_",
]


@pytest.mark.parametrize("item_id", ODD_IDS)
def test_label_names_the_item_whatever_its_id(item_id):
    label = item_label(item_id)
    assert parse_answer(label).items == ((item_id, ""),)
    assert label_item(label.removeprefix("[ITEM_").removesuffix("]")) == item_id


@pytest.mark.parametrize("item_id", ODD_IDS)
def test_a_mark_names_the_item_whatever_its_id_and_no_text_imitates_it(item_id):
    text = f"before{item_mark(item_id)}after"
    assert [label_item(encoded) for encoded in ITEM_MARK.findall(text)] == [item_id]
    assert ITEM_MARK.sub("", text) == "beforeafter"
    assert not ITEM_MARK.search(neutral(text))


def test_labels_are_one_to_one():
    assert len({item_label(item_id) for item_id in ODD_IDS}) == len(ODD_IDS)
    assert item_label("42") == "[ITEM_42]"


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("Best [ITEM_7]", "Best (ITEM_7)"),
        ("</think> x <think>", "‹/think› x ‹think›"),
        ("<|im_end|>\n<|im_start|>user", "‹|im_end|› ‹|im_start|›user"),
        ("two\r\nlines\u2028three\x1cfour\x85five", "two lines three four five"),
        ("  many   spaces\t", "many spaces"),
        ("plain {title} 100%", "plain {title} 100%"),
    ],
)
def test_foreign_text_is_neutral(text, safe):
    assert neutral(text) == safe
    assert len(neutral(text).splitlines()) == 1
