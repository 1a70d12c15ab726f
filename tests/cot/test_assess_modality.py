from __future__ import annotations

import itertools
import math
import os
import random
import subprocess
import sys

import pytest

from mllmrec.cot.assess.modality import Idf, content_words, jaccard, modality_scores, overlap

# N = 7: idf(w) = ln(8 / (n + 1)). A word in 1 caption weighs ln 4 = 2 ln 2, a word in 3 ln 2, a word in all 7 nothing.
CAPTIONS = ["item star", "item red dot", "item red", "item red", "item moon", "item sun", "item"]
BIT = math.log(2)


@pytest.fixture(scope="module")
def idf() -> Idf:
    return Idf(CAPTIONS)


def test_rare_words_weigh_more_and_words_in_all_or_no_captions_nothing(idf: Idf) -> None:
    assert idf.of(["star"]) == pytest.approx(2 * BIT)
    assert idf.of(["red"]) == pytest.approx(BIT)
    assert idf.of(["item"]) == 0.0
    assert idf.of(["signals", "mostly"]) == 0.0
    assert idf.of(["star", "red", "item", "mostly"]) == pytest.approx(3 * BIT)


def test_a_word_said_twice_in_a_caption_is_one() -> None:
    assert Idf(["red red", "blue"]).of(["red"]) == Idf(["red", "blue"]).of(["red"]) == math.log(3 / 2)


def test_the_order_of_captions_changes_no_weight(idf: Idf) -> None:
    shuffled = random.Random(0).sample(CAPTIONS, len(CAPTIONS))
    assert Idf(shuffled)._weights == idf._weights


def test_jaccard_weighs_what_is_shared_against_all_that_is_said(idf: Idf) -> None:
    # {star 2, red 1} and {red 1, moon 2}: 1 is shared, 5 is the whole.
    assert jaccard(frozenset({"star", "red"}), frozenset({"red", "moon"}), idf) == pytest.approx(1 / 5)
    assert jaccard(frozenset({"star"}), frozenset({"moon"}), idf) == 0.0
    assert jaccard(frozenset({"star"}), frozenset(), idf) == 0.0
    assert jaccard(frozenset({"mostly"}), frozenset({"item"}), idf) is None


def test_overlap_weighs_what_is_shared_against_the_smaller_side(idf: Idf) -> None:
    shown = frozenset({"star", "red", "dot"})  # 2 + 1 + 2 = 5
    # {red 1, moon 2} names 3; 1 of it is shown.
    assert overlap(frozenset({"red", "moon"}), shown, idf) == pytest.approx(1 / 3)
    # {star 2, dot 2, moon 2, sun 2} names 8, so the captions are the smaller side: 4 of 5.
    assert overlap(frozenset({"star", "dot", "moon", "sun"}), shown, idf) == pytest.approx(4 / 5)
    assert overlap(frozenset({"star"}), shown, idf) == 1.0
    assert overlap(frozenset({"mostly"}), shown, idf) == 0.0
    assert overlap(frozenset({"star"}), frozenset({"item"}), idf) is None


def test_naming_more_of_what_is_shown_never_lowers_agreement(idf: Idf) -> None:
    words = ["star", "red", "dot", "moon", "sun", "item", "mostly"]
    sets = [frozenset(c) for size in range(len(words) + 1) for c in itertools.combinations(words, size)]
    checked = 0
    for shown in sets:
        for named in sets:
            before = overlap(named, shown, idf), jaccard(named, shown, idf)
            for word in shown - named:
                after = overlap(named | {word}, shown, idf), jaccard(named | {word}, shown, idf)
                for old, new in zip(before, after, strict=True):
                    assert old is None or (new is not None and new >= old - 1e-12)
                    checked += 1
    assert checked > 10_000


def test_frames_that_all_reasoning_shares_are_no_agreement(idf: Idf) -> None:
    draft = "Signals: star in 2 of 3. Preference: mostly star. Look for: star."
    refined = "Signals: moon in 2 of 3. Preference: mostly moon. Look for: moon."
    assert modality_scores(draft, refined, ["item moon", ""], idf) == {
        "draft_agreement": 0.0,
        "grounding": 1.0,
    }


def test_scores_of_three_texts_by_hand(idf: Idf) -> None:
    # Draft {star 2, red 1}, refined {star 2, moon 2}: 2 of 5. Captions {star 2, red 1, dot 2}: 4 named, 2 shown.
    scores = modality_scores("a red star", "Look for: star, moon", ["item star", "item red dot"], idf)
    assert scores == {"draft_agreement": pytest.approx(2 / 5), "grounding": pytest.approx(1 / 2)}


def test_the_order_of_the_history_changes_nothing(idf: Idf) -> None:
    values = {
        tuple(modality_scores("red star", "red moon", order, idf).values())
        for order in itertools.permutations(["item star", "item red dot", "item moon"])
    }
    assert len(values) == 1


def test_nothing_to_compare_is_unknown_and_naming_nothing_is_not(idf: Idf) -> None:
    assert modality_scores(" ", "star", ["", ""], idf) == {"draft_agreement": None, "grounding": None}
    assert modality_scores("star", "nothing repeats", ["star"], idf) == {
        "draft_agreement": 0.0,
        "grounding": 0.0,
    }
    assert modality_scores("star", "star", [], idf)["grounding"] is None


def test_scripts_without_spaces_are_compared_by_pairs_of_characters() -> None:
    assert content_words("红色条纹, A red Ｓｔａｒ红") == {"红色", "色条", "条纹", "red", "star"}
    idf = Idf(["红色条纹", "蓝色", "绿色"])
    # 红色, 色条 and 条纹 occur in one caption of 3 each, so they weigh the same. 1 of the 2 named pairs is shown.
    scores = modality_scores("红色的", "红色的", ["红色条纹"], idf)
    assert scores == {"draft_agreement": 1.0, "grounding": 1.0}
    assert modality_scores("", "红色。蓝色", ["红色条纹"], idf)["grounding"] == pytest.approx(1 / 2)


def test_scores_are_the_same_to_the_last_bit_in_every_process() -> None:
    code = (
        "import random; from mllmrec.cot.assess.modality import Idf, modality_scores\n"
        "words = [a + b for a in 'abcdefghij' for b in 'klmnopqrst']; rng = random.Random(0)\n"
        "texts = [' '.join(rng.sample(words, rng.randint(1, 60))) for _ in range(40)]\n"
        "idf = Idf(texts)\n"
        "print([modality_scores(texts[i], texts[i + 1], texts[i + 2 : i + 4], idf) for i in range(36)])"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1
    assert "grounding" in said.pop()
