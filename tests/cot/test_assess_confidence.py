from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from mllmrec.cot.assess import FLOORS, WEIGHTS, confidence, form_scores, keep, modality_scores, vetoes
from mllmrec.cot.assess.modality import Idf
from mllmrec.cot.mixing import select_cot
from mllmrec.errors import UserError


def test_confidence_is_the_weighted_mean() -> None:
    # (1 · 0.2 + 3 · 0.6) / 4 = 2 / 4
    assert confidence({"a": 0.2, "b": 0.6}, {"a": 1, "b": 3}) == pytest.approx(0.5)
    assert confidence({"a": 0.0, "b": 1.0}, {"a": 1, "b": 3}) == pytest.approx(
        0.75
    )  # a 0 does not decide alone


def test_the_weight_of_an_unknown_score_goes_to_the_others_in_proportion() -> None:
    weights = {"a": 1.0, "b": 3.0, "c": 4.0}
    # Without c: (1 · 0.2 + 3 · 0.6) / 4.
    assert confidence({"a": 0.2, "b": 0.6, "c": None}, weights) == pytest.approx(0.5)
    assert confidence({"a": None, "b": None, "c": 0.3}, weights) == pytest.approx(0.3)
    assert confidence({"a": None, "b": None, "c": None}, weights) is None
    assert confidence({"a": 0.9, "b": None}, {"a": 0.0, "b": 1.0}) is None


def test_scores_without_weight_do_not_count() -> None:
    assert confidence({"a": 0.2, "b": 0.9}, {"a": 2.0}) == pytest.approx(0.2)
    assert confidence({"a": 0.2, "b": 0.9}, {"a": 2.0, "b": 0.0}) == pytest.approx(0.2)


def test_confidence_neither_falls_when_a_score_rises_nor_leaves_the_scores_range() -> None:
    weights = {"a": 0.1, "b": 0.7, "c": 0.3}
    levels = (0.0, 0.1, 1 / 3, 0.9, 1.0)
    for a, b, c in itertools.product(levels, repeat=3):
        value = confidence({"a": a, "b": b, "c": c}, weights)
        assert value is not None
        assert min(a, b, c) - 1e-12 <= value <= max(a, b, c) + 1e-12
        assert 0 <= value <= 1
        for higher in (level for level in levels if level > a):
            assert confidence({"a": higher, "b": b, "c": c}, weights) > value


def test_the_order_of_names_changes_no_bit() -> None:
    scores = {f"s{number}": 1 / (number + 3) for number in range(6)}
    weights = {name: 0.1 + value for name, value in scores.items()}
    values = {
        confidence(scores, {name: weights[name] for name in order})
        for order in itertools.permutations(weights)
    }
    assert len(values) == 1


def test_a_score_below_its_floor_vetoes_whatever_the_others_say() -> None:
    scores = {"lift": 1.0, "steps": 0.0, "language": 0.8, "unknown": None}
    floors = {"unknown": 1.0, "language": 0.8, "steps": 1.0}
    assert vetoes(scores, floors) == ("steps",)
    assert confidence(scores, {"lift": 1.0}) == 1.0
    assert confidence(scores, {"lift": 1.0}, floors) is None
    assert confidence({**scores, "steps": 1.0}, {"lift": 1.0}, floors) == 1.0
    assert vetoes({**scores, "language": 0.79}, floors) == ("language", "steps")


def test_all_scores_fit_the_shipped_weights_and_floors() -> None:
    history = ["red, striped, star", "red, dotted, circle", "blue, striped, moon"]
    idf = Idf([*history, "green, solid, square", "green, solid, circle"])
    good = "Signals: red in 2 of 3, striped in 2 of 3. Preference: mostly red. Look for: red and striped."

    def scores_of(text: str) -> dict[str, float | None]:
        return {
            **form_scores(text, history, ["1"]),
            **modality_scores(good, text, history, idf),
            "lift": 0.75,
            "agreement": 0.5,
        }

    # Agreement with itself is 1 and grounding is 1: (1 + 1 + 0.75 + 0.5) / 4.
    assert confidence(scores_of(good), WEIGHTS, FLOORS) == pytest.approx(3.25 / 4)
    everything = ", ".join(history)
    faults = {
        "Likes red and striped things, as seen in two of the three items.": "steps",
        "Signals: red. Preference: red. Look for: red.": "length",  # 7 words
        good + " red" * 120: "length",
        good + " 红色条纹" * 20: "language",
        good + " [ITEM_1]": "no_ids",
        good + " <think>": "no_markup",
        # 3 · 9 + 4 words have 28 four-grams; 3 · 6 of them are copied.
        f"Signals: {everything}. Preference: {everything}. Look for: {everything}.": "own_words",
    }
    assert set(faults.values()) == set(FLOORS)
    for text, floor in faults.items():
        assert vetoes(scores_of(text), FLOORS) == (floor,), text
        assert confidence(scores_of(text), WEIGHTS, FLOORS) is None


@pytest.mark.parametrize(
    "weights", [{}, {"a": 0.0}, {"a": -1.0, "b": 2.0}, {"a": math.nan}, {"a": math.inf}, {"zzz": 1.0}]
)
def test_weights_that_mean_nothing_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"weights|zzz"):
        confidence({"a": 0.5, "b": 0.5}, weights)


@pytest.mark.parametrize("floors", [{"zzz": 0.5}, {"a": 1.5}, {"a": -0.5}, {"a": math.nan}])
def test_floors_that_mean_nothing_are_refused(floors: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"floor|zzz"):
        confidence({"a": 0.5}, {"a": 1.0}, floors)


@pytest.mark.parametrize("score", [math.nan, 1.01, -0.01])
def test_scores_outside_0_to_1_are_refused(score: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        confidence({"a": score}, {"a": 1.0})
    with pytest.raises(ValueError, match="between 0 and 1"):
        confidence({"a": score, "b": 0.5}, {"b": 1.0}, {"a": 0.5})


IDS = ["c", "a", "d", "b", "e"]
CONFIDENCES = {"a": 0.5, "b": 0.5, "c": 0.9, "d": 0.5, "e": None}


def _kept(ids: list[str], seed: int = 0, **how: float) -> set[str]:
    return {name for name, kept in zip(ids, keep(ids, CONFIDENCES, seed, **how), strict=True) if kept}


def test_a_threshold_keeps_what_reaches_it() -> None:
    assert keep(IDS, CONFIDENCES, 0, threshold=0.5).tolist() == [True, True, True, True, False]
    assert keep(IDS, CONFIDENCES, 0, threshold=0.51).tolist() == [True, False, False, False, False]
    assert keep(IDS, CONFIDENCES, 0, threshold=0.0).tolist() == [True, True, True, True, False]


def test_the_top_share_counts_all_samples() -> None:
    assert _kept(IDS, top_share=0.0) == set()
    assert _kept(IDS, top_share=0.2) == {"c"}  # 1 of 5
    assert _kept(IDS, top_share=1.0) == {"a", "b", "c", "d"}  # e has no confidence


def test_the_top_share_is_rounded_to_the_nearer_number_of_samples() -> None:
    # 0.75, 1.25 and 3.75 of five are rounded. If they were cut, the first would keep nothing.
    assert [len(_kept(IDS, top_share=share)) for share in (0.15, 0.25, 0.75)] == [1, 1, 4]


def test_a_draw_from_the_seed_decides_between_equal_ones_and_not_their_names() -> None:
    # a, b and d are equally confident. One of them is kept beside c, and each of them for some seed.
    seconds = [_kept(IDS, seed, top_share=0.4) - {"c"} for seed in range(60)]
    assert {len(second) for second in seconds} == {1}
    times = Counter(name for second in seconds for name in second)
    # A third of 60 is 20, with a standard deviation of 3.7.
    assert set(times) == {"a", "b", "d"}
    assert min(times.values()) >= 9
    # The same draw as for samples without any confidence.
    equal = dict.fromkeys(IDS, 0.5)
    kept = np.flatnonzero(keep(IDS, equal, 3, top_share=0.4))
    assert kept.tolist() == sorted(select_cot(IDS, 0.4, 3).tolist())


def test_permuting_the_rows_keeps_the_same_samples() -> None:
    first = _kept(IDS, top_share=0.6)
    for order in itertools.permutations(IDS):
        assert _kept(list(order), top_share=0.6) == first
        assert _kept(list(order), threshold=0.6) == {"c"}


def test_samples_without_an_entry_are_not_kept_and_entries_without_a_sample_are_passed_over() -> None:
    assert keep(np.array(["zzz", "c"]), CONFIDENCES, 0, top_share=1.0).tolist() == [False, True]
    assert keep([], CONFIDENCES, 0, threshold=0.5).shape == (0,)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"threshold": 0.5, "top_share": 0.5},
        {"threshold": math.nan},
        {"threshold": 1.1},
        {"top_share": -0.1},
        {"top_share": math.nan},
    ],
)
def test_exactly_one_rule_within_0_to_1(how: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"threshold|top_share"):
        keep(IDS, CONFIDENCES, 0, **how)


@pytest.mark.parametrize("value", [math.nan, 1.5, -0.5])
def test_confidences_that_order_nothing_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="confidence"):
        keep(["a", "b"], {"a": 0.5, "b": value}, 0, threshold=0.1)
