from __future__ import annotations

import random

import pytest

from mllmrec.prompts.answers import ParsedAnswer, parse_answer, same_title, split_reasoning
from mllmrec.prompts.naming import Naming


@pytest.mark.parametrize(
    ("completion", "reasoning"),
    [
        ("[ITEM_7] Red Lamp", ""),
        ("  [ITEM_7]   Red Lamp \n\n", ""),
        ("<think>they like red</think>\n[ITEM_7] Red Lamp", "they like red"),
        ("<think>they like red</think>[ITEM_7] Red Lamp", "they like red"),
        ("[ITEM_7] Red Lamp <think>they like red</think>", "they like red"),
        ("[ITEM_7] Red Lamp\n<think>they\nlike red</think>\n", "they\nlike red"),
        ("they like red</think>\n[ITEM_7] Red Lamp", "they like red"),  # the chat template opened the thought
        ("<think>a</think>[ITEM_7] Red Lamp<think>b</think>", "a b"),
        ("<think>\n\n</think>\n\n[ITEM_7] Red Lamp", ""),
    ],
)
def test_reasoning_may_stand_before_or_after_the_answer(completion, reasoning):
    parsed = parse_answer(completion)
    assert parsed == ParsedAnswer((("7", "Red Lamp"),), 0, reasoning, False)
    assert parsed.well_formed


@pytest.mark.parametrize(
    ("completion", "items", "stray", "unclosed"),
    [
        ("", (), 0, False),
        ("Red Lamp", (), 1, False),
        ("I choose [ITEM_7]", (), 1, False),
        ("[ITEM_7]Red Lamp", (), 1, False),  # no space
        ("[ITEM_]", (), 1, False),
        ("[ITEM_7 Red", (), 1, False),
        ("[ITEM_7]\n[ITEM_8] b", (("7", ""), ("8", "b")), 0, False),
        ("[ITEM_7] a\nbecause it is red", (("7", "a"),), 1, False),
        ("[ITEM_7] a\n<think>never ends", (("7", "a"),), 0, True),
        ("<think>[ITEM_7] a", (), 0, True),
        ("<think>x</think>[ITEM_7] a <think>", (("7", "a"),), 0, True),
    ],
)
def test_what_is_no_single_answer(completion, items, stray, unclosed):
    parsed = parse_answer(completion)
    assert (parsed.items, parsed.stray_lines, parsed.unclosed) == (items, stray, unclosed)
    assert not parsed.well_formed


def test_an_item_named_while_thinking_is_no_answer():
    assert parse_answer("<think>\n[ITEM_1] a\n</think>\n[ITEM_2] b").items == (("2", "b"),)


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("<think>\nred <b>\n</think>\n[ITEM_1]", ("red <b>", "[ITEM_1]")),
        ("<think>\nred</think>\n[ITEM_1]", ("", "<think>\nred</think>\n[ITEM_1]")),
        ("<think>\n</think>\n[ITEM_1]", ("", "<think>\n</think>\n[ITEM_1]")),
        ("[ITEM_1]", ("", "[ITEM_1]")),
    ],
)
def test_reasoning_and_answer_are_told_apart(completion, expected):
    assert split_reasoning(completion) == expected


def test_missing_title_is_empty():
    assert parse_answer("[ITEM_7]").items == (("7", ""),)
    assert parse_answer("[ITEM_7]").well_formed


@pytest.mark.parametrize("title", ["Red Lamp", "100% (new)", "Amélie · 東京", "a-b: c, d!", "x ) y"])
def test_answers_read_back(title):
    for item_id in ("7", "a b", "ä"):
        assert parse_answer(Naming().answer_text(item_id, title)).items == ((item_id, title),)
        assert parse_answer(Naming(answer="id").answer_text(item_id, title)).items == ((item_id, ""),)


def test_any_text_can_be_read():
    pieces = [
        "[ITEM_7]",
        "[ITEM_",
        "7",
        "]",
        " ",
        "\n",
        "<think>",
        "</think>",
        "a",
        "%zz",
        "\x00",
        "\u2028",
        "é",
        "\t",
    ]
    generator = random.Random(0)
    counted = 0
    for _ in range(5000):
        text = "".join(generator.choices(pieces, k=generator.randrange(12)))
        parsed = parse_answer(text)
        assert parsed.stray_lines >= 0
        assert parsed.well_formed <= (len(parsed.items) == 1)
        counted += parsed.well_formed
    assert counted > 20  # the loop does reach well-formed answers


@pytest.mark.parametrize(
    ("said", "title", "same"),
    [
        ("red  LAMP", "Red Lamp", True),
        ("Red Lamps", "Red Lamp", False),
        ("", "Red Lamp", False),
        ("STRASSE", "Straße", True),
        # Qwen's tokenizers compose characters, so e + accent comes back as one character.
        ("Ame\u0301lie", "Am\u00e9lie", True),
    ],
)
def test_same_title_ignores_case_spacing_and_composition(said, title, same):
    assert same_title(said, title) is same
