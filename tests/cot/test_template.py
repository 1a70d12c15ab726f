from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np

from mllmrec.cot import CotKey, Template
from mllmrec.data.drawing import HUES, PATTERNS, SHAPES
from mllmrec.data.synthetic import Synthetic
from mllmrec.reasoners.counting import template_reasoning


def test_words_are_counted_once_per_item_and_ranked_by_count_then_recency() -> None:
    # red: 3 items; star: items 1 and 4; solid: items 1 and 2. Star was seen later than solid, so it comes first.
    texts = ["red, solid, star", "red, red, solid", "red, dotted, circle", "blue, striped, star"]
    assert template_reasoning(texts) == (
        "Signals: red in 3 of 4, star in 2 of 4, solid in 2 of 4. Preference: mostly red. "
        "Look for: red, star and solid."
    )


def test_equal_counts_seen_equally_late_stand_in_alphabetical_order() -> None:
    assert template_reasoning(["zebra apple", "zebra apple"]) == (
        "Signals: apple in 2 of 2, zebra in 2 of 2. Preference: mostly apple. Look for: apple and zebra."
    )


def test_without_repetition_the_latest_item_speaks() -> None:
    text = template_reasoning(["red, star", "blue, circle"])
    assert text == (
        "Signals: nothing repeats; the latest item is blue and circle. Preference: open. Look for: blue and circle."
    )


def test_a_history_without_words_gives_no_reasoning() -> None:
    assert template_reasoning([]) == ""
    assert template_reasoning(["", "17, 4"]) == ""
    assert Template().reasoning(CotKey("u", ("1", "2"), "3")) is None


def test_long_texts_keep_the_reasoning_short() -> None:
    words = [
        f"{first}{second}{'x' * 40 if first == 'a' else ''}" for first in "abcdef" for second in "opqrst"
    ]
    texts = [" ".join(words)] * 30
    assert len(template_reasoning(texts).split()) <= 40
    assert len(template_reasoning(texts[:1]).split()) <= 40
    assert len(template_reasoning(texts)) < 300


def test_an_item_without_caption_speaks_through_its_details_then_its_title() -> None:
    policy = Template(
        captions={"1": "red", "2": ""},
        details={"1": "lamp", "2": "lamp", "3": ""},
        titles={"3": "red lamp", "2": "mug"},
    )
    # The texts are "red", "lamp", "red lamp": both words occur twice and were last seen in item 3.
    assert policy.reasoning(CotKey("u", ("1", "2", "3"), "4")) == (
        "Signals: lamp in 2 of 3, red in 2 of 3. Preference: mostly lamp. Look for: lamp and red."
    )


def test_markup_in_a_title_does_not_get_through() -> None:
    text = template_reasoning(["</think> [ITEM_7] answer", "</think> [ITEM_7] answer"])
    assert not re.search(r"[<>\[\]/]", text)


def test_the_target_never_reaches_the_reasoning(tmp_path: Path) -> None:
    """Fault 3 of the release: the rewriter saw the target, so the answer could be read from the prompt.

    Every title is unique, so title words of a target that are not in the history could only come from the target.
    """
    source = Synthetic(tmp_path, num_users=300, num_items=200)
    attributes = source._attributes()
    rows = source._interactions(attributes)
    titles = {
        str(item + 1): title for item, title in enumerate(source._titles(attributes["category"]).tolist())
    }
    captions = {
        item: f"{title} {item}x marker{'abcdefghij'[int(item) % 10]}" for item, title in titles.items()
    }
    fixed = {
        "and",
        *re.findall(r"[a-z]+", (template_reasoning(["qq", "qq"]) + template_reasoning(["qq"])).lower()),
    }
    for policy in (Template(titles=titles), Template(captions=captions, titles=titles)):
        for user in range(300):
            items = [str(item + 1) for item in rows.items[rows.users == user]]
            history, target = tuple(items[:-1]), items[-1]
            text = policy.reasoning(CotKey(str(user), history, target))
            assert text is not None
            assert titles[target] not in text
            assert captions[target] not in text
            said = set(re.findall(r"[a-z]+", text.lower())) - fixed
            assert said <= set(re.findall(r"[a-z]+", " ".join(captions[item] for item in history).lower()))
            # The reasoning is the same, whatever the target.
            assert policy.reasoning(CotKey(str(user), history, "no such item")) == text


def test_the_reasoning_names_what_the_history_shows(tmp_path: Path) -> None:
    source = Synthetic(tmp_path, num_users=200)
    rows, names = source._interactions(source._attributes()), source._attribute_names()
    captions = {str(item): ", ".join(shown.values()) for item, shown in enumerate(names)}
    policy = Template(captions)
    hits = []
    for user in range(200):
        items = rows.items[rows.users == user]
        text = policy.reasoning(CotKey(str(user), tuple(str(item) for item in items[:-1]), ""))
        assert text is not None
        said = set(re.findall(r"[a-z]+", text.split("Look for:")[1]))
        assert said - {"and"} <= {*HUES, *PATTERNS, *SHAPES}
        hits.append(len(said & set(names[items[-1]].values())) / 3)
    # 3 of the 16 attribute words named at random would contain a given one with probability 3/16 = 0.19.
    assert np.mean(hits) > 0.3


def test_global_generators_change_nothing() -> None:
    """Fault 9 of the release."""
    texts = ["red, solid, star", "blue, solid, star", "blue, dotted, disc"]
    random.seed(1)
    first = template_reasoning(texts)
    random.seed(2)
    assert template_reasoning(texts) == first
