from __future__ import annotations

import pytest

from mllmrec.cot.assess.form import (
    copied_share,
    form_scores,
    has_markup,
    has_steps,
    language_share,
    names_ids,
    split_words,
)
from mllmrec.errors import UserError
from mllmrec.reasoners.counting import template_reasoning

HISTORY = ["red, striped, star", "red, dotted, circle", "blue, striped, star"]
CHINESE = ["红色条纹星形上衣", "红色圆点连衣裙", "蓝色条纹星形外套"]


def test_our_own_template_passes_every_check() -> None:
    text = template_reasoning(HISTORY)
    # "Signals: star in 2 of 3, striped in 2 of 3, red in 2 of 3. …": no four words in a row occur in the history.
    assert form_scores(text, HISTORY, ["1", "2", "3", "B000052YAN"]) == {
        "steps": 1.0,
        "length": 1.0,
        "language": 1.0,
        "no_ids": 1.0,
        "no_markup": 1.0,
        "own_words": 1.0,
    }


def test_words_are_runs_of_letters_and_digits_and_single_ideographs() -> None:
    assert split_words("T-shirt, don't; 红色2x かな") == ["t-shirt", "don't", "红", "色", "2x", "か", "な"]
    assert split_words("Ｒｅｄ") == ["red"]  # full-width letters are the same letters
    assert split_words(" —… ") == []


@pytest.mark.parametrize(
    ("text", "complete"),
    [
        ("Signals: red. Preference: red. Look for: red.", True),
        ("**signals**: red.\n**PREFERENCE** : red.\n**Look for**: red.", True),
        ("Signals：red. Preference：red. Look for：red.", True),
        ("A preference: none yet. Signals: red. Preference: red. Look for: red.", True),
        ("Signals: red. Look for: red.", False),
        ("Preference: red. Signals: red. Look for: red.", False),  # the wrong order
        ("Signals: red. Preference: — Look for: red.", False),  # a step that says nothing
        ("Signals: red. Preference: red. Look for: ", False),
        ("Signals red. Preference red. Look for red.", False),  # words of a sentence, not labels
        ("Resignals: red. Preference: red. Look for: red.", False),
        ("", False),
    ],
)
def test_steps_are_labels_in_order_each_with_something_said(text: str, complete: bool) -> None:
    assert has_steps(text) is complete


def test_labels_may_be_of_another_language() -> None:
    text = "信号：红色。偏好：红色。寻找：红色。"
    assert has_steps(text, ("信号", "偏好", "寻找"))
    assert not has_steps(text)


@pytest.mark.parametrize(("words", "fits"), [(3, 0.0), (4, 1.0), (6, 1.0), (7, 0.0)])
def test_both_bounds_of_the_length_are_allowed(words: int, fits: float) -> None:
    scores = form_scores("red " * words, HISTORY, [], min_words=4, max_words=6)
    assert scores["length"] == fits


def test_ideographs_count_as_words() -> None:
    assert form_scores("红色条纹", CHINESE, [], min_words=4, max_words=4)["length"] == 1.0


@pytest.mark.parametrize(("low", "high"), [(-1, 5), (6, 5)])
def test_bounds_that_nothing_fits_are_refused(low: int, high: int) -> None:
    with pytest.raises(UserError, match="min_words"):
        form_scores("red", HISTORY, [], min_words=low, max_words=high)


def test_language_is_the_share_of_letters_in_the_scripts_of_the_history() -> None:
    assert language_share("abcdef 红色", ["red star"]) == 6 / 8
    assert language_share("abcdef 红色", CHINESE) == 2 / 8
    assert language_share("звезда", ["red star"]) == 0.0
    assert language_share("Café crème 2 — 3", ["red star"]) == 1.0


def test_labels_are_no_letters_of_the_text() -> None:
    assert language_share("Signals: 红色。Preference: 红色。Look for：红色。", CHINESE) == 1.0
    # Without a colon they are words: 7 Latin letters of 9.
    assert language_share("Signals 红色", CHINESE) == 2 / 9


def test_a_script_that_the_history_hardly_uses_is_not_its_own() -> None:
    # 1 Latin letter of 10 is a tenth, 1 of 11 is less.
    assert language_share("red", ["红色条纹星形上衣外A"]) == 1.0
    assert language_share("red", ["红色条纹星形上衣外套A"]) == 0.0


def test_without_letters_there_is_no_language_to_miss() -> None:
    assert language_share("red", ["1999, 2000", ""]) == 1.0
    assert language_share("1 — 2", ["red"]) == 1.0


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("choose [ITEM_7]", True),
        ("choose (ITEM_zzz)", True),  # whatever the id
        ("choose item_12", True),
        ("choose ［ITEM_7］", True),
        ("choose B000052YAN now", True),
        ("choose b000052yan", True),
        ("编号B000052YAN的衣服", True),
        ("choose B000052YANX", False),
        ("red in 7 of 9", False),
        ("the latest is item 7", True),
        ("item (7)", True),
        ("item 77", False),
        ("like #7", True),
        ("id: star", True),
        ("the star of items seen", False),
        ("items in red", False),
    ],
)
def test_ids_are_found_where_they_can_be_nothing_else(text: str, names: bool) -> None:
    assert names_ids(text, ["7", "star", "B000052YAN", ""]) is names


def test_ids_are_no_patterns() -> None:
    assert names_ids("a.b*1(", ["a.b*1("])
    assert not names_ids("axbb1(", ["a.b*1("])


@pytest.mark.parametrize(
    "text",
    [
        "<think>red</think>",
        "red</think>",
        "<think red",
        "<|im_start|>user",
        "<｜User｜>",
        "<start_of_turn>",
        "<<SYS>>",
        "[INST] red",
        "[/INST]",
        "```red```",
        "<b>red</b>",
        "red<br/>blue",
        "<!-- red",
    ],
)
def test_markup_is_seen(text: str) -> None:
    assert has_markup(text)
    assert form_scores(text, HISTORY, [])["no_markup"] == 0.0


@pytest.mark.parametrize(
    "text", ["3 < 4 and 5 > 2", "red & blue", "red -> blue", "[red]", "**red**", "I <3 red"]
)
def test_signs_of_ordinary_writing_are_no_markup(text: str) -> None:
    assert not has_markup(text)


@pytest.mark.parametrize("history", [HISTORY, CHINESE, ["red star", "été très doux", "Красная звезда"]])
def test_a_history_copied_has_no_own_words(history: list[str]) -> None:
    assert form_scores(" | ".join(history), history, [])["own_words"] == 0.0


def test_a_question_repeated_has_no_own_words() -> None:
    question = "Say in three lines what they have in common."
    assert form_scores(question, ["Lamp red"], [])["own_words"] == 1.0
    assert form_scores(question, ["Lamp red"], [], shown=["You are careful.", question])["own_words"] == 0.0


def test_copies_are_counted_in_fours() -> None:
    # Six words have 3 four-grams: "a b c d", "b c d x", "c d x y". The first occurs in the history.
    assert copied_share("a b c d x y", ["A b, c d e"]) == pytest.approx(1 / 3)
    assert copied_share("a b c x", ["a b c d"]) == 0.0
    # With pairs, "a b" and "b c" of three occur.
    assert copied_share("a b c x", ["a b c d"], ngram=2) == pytest.approx(2 / 3)


def test_a_text_shorter_than_a_copy_is_compared_whole() -> None:
    assert copied_share("b c", ["a b c d"]) == 1.0
    assert copied_share("c b", ["a b c d"]) == 0.0
    assert copied_share("", ["a b c d"]) == 0.0
    assert copied_share("a b", []) == 0.0


def test_a_copy_needs_a_word() -> None:
    with pytest.raises(UserError, match="ngram=0"):
        copied_share("a b", ["a b"], ngram=0)
