from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch

from mllmrec.cot.assess.form import form_scores
from mllmrec.cot.assess.prediction import lift, lift_score, modal_share, target_share
from mllmrec.errors import UserError


def _logs(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64).log()


def test_lift_is_the_log_ratio_of_the_true_answers_shares() -> None:
    # Without: 1 of 1 + 2 + 1, a quarter. With: 6 of 6 + 1 + 1, three quarters. Lift ln 3, and 3 / (3 + 1) = 3/4.
    gained = lift(_logs([6, 1, 1]), _logs([1, 2, 1]), torch.tensor([0]))
    assert gained.tolist() == pytest.approx([math.log(3)])
    assert lift_score(gained).tolist() == pytest.approx([3 / 4])
    # With a scale of half a nat: sigmoid(2 ln 3) = 9 / (9 + 1).
    assert lift_score(gained, 0.5).tolist() == pytest.approx([9 / 10])


def test_each_row_has_its_own_target() -> None:
    after, before = _logs([6, 1, 1], [6, 1, 1]), _logs([1, 2, 1], [1, 2, 1])
    # Column 1: from a half to an eighth.
    assert lift(after, before, torch.tensor([0, 1])).tolist() == pytest.approx([math.log(3), -math.log(4)])


def test_no_change_is_a_half() -> None:
    same = _logs([1, 2, 5])
    assert lift_score(lift(same, same, torch.tensor([2]))).tolist() == [0.5]


def test_a_constant_on_all_log_probabilities_of_a_prompt_changes_no_lift() -> None:
    rng = np.random.default_rng(0)
    after, before = rng.normal(size=(50, 10)), rng.normal(size=(50, 10))
    targets = rng.integers(10, size=50)
    shift = rng.normal(scale=30, size=(50, 1))
    expected = lift(after, before, targets)
    torch.testing.assert_close(lift(after + shift, before - 2 * shift, targets), expected)


def test_permuted_candidates_and_rows_keep_their_lift() -> None:
    rng = np.random.default_rng(1)
    after, before, targets = rng.normal(size=(20, 6)), rng.normal(size=(20, 6)), rng.integers(6, size=20)
    expected = lift(after, before, targets)
    columns, rows = rng.permutation(6), rng.permutation(20)
    moved = np.argsort(columns)[targets]  # where each target's column went
    permuted = lift(after[:, columns][rows], before[:, columns][rows], moved[rows])
    torch.testing.assert_close(permuted, expected[rows])


def test_a_likelier_target_rises_and_a_likelier_negative_falls() -> None:
    after, before = _logs([1, 1, 1]), _logs([1, 1, 1])
    scores = []
    for gain in (-5.0, -1.0, 0.0, 1.0, 5.0):
        scores.append(
            lift_score(lift(after + torch.tensor([[gain, 0, 0]]), before, torch.tensor([0]))).item()
        )
        below = lift(after + torch.tensor([[0, gain, 0]]), before, torch.tensor([0])).item()
        assert below < 0 if gain > 0 else below >= 0
    assert scores == sorted(set(scores))
    assert 0 < scores[0] < scores[-1] < 1


def test_absent_candidates_take_no_share() -> None:
    # The third column is not a candidate: from 1/2 to 3/4.
    gained = lift(_logs([3, 1, 0]), _logs([1, 1, 0]), torch.tensor([0]))
    assert gained.tolist() == pytest.approx([math.log(3 / 2)])


@pytest.mark.parametrize(
    ("after", "targets"),
    [
        ([[0.0, math.nan, 0.0]], [0]),
        ([[0.0, math.inf, 0.0]], [0]),
        ([[-math.inf, 0.0, 0.0]], [0]),  # the target is not a candidate
        ([[0.0, 0.0]], [0]),
        ([[0.0, 0.0, 0.0]], [3]),
        ([[0.0, 0.0, 0.0]], [-1]),
        ([[0.0, 0.0, 0.0]], [0, 1]),
    ],
)
def test_what_gives_no_lift_is_refused(after: list[list[float]], targets: list[int]) -> None:
    plain = torch.zeros(1, 3, dtype=torch.float64)
    other = torch.tensor(after, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"shapes|columns|finite"):
        lift(other, plain, torch.tensor(targets))
    if other.shape == plain.shape:
        with pytest.raises(ValueError, match=r"shapes|columns|finite"):
            lift(plain, other, torch.tensor(targets))


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_a_scale_that_orders_nothing_is_refused(scale: float) -> None:
    with pytest.raises(UserError, match="scale"):
        lift_score(torch.zeros(1), scale)


def test_agreement_counts_the_most_frequent_answer() -> None:
    answers = ["a", "b", "a", "c", None]
    assert modal_share(answers) == 2 / 5
    assert target_share(answers, "b") == 1 / 5
    assert target_share(answers, "z") == 0.0


def test_answers_that_cannot_be_read_agree_with_nothing() -> None:
    assert modal_share([None, None, None, "a"]) == 1 / 4
    assert modal_share([None, None]) == 0.0


def test_agreement_on_a_wrong_answer_is_agreement_all_the_same() -> None:
    answers = ["wrong"] * 4
    assert (modal_share(answers), target_share(answers, "right")) == (1.0, 0.0)


def test_no_answers_have_no_agreement() -> None:
    for share in (lambda: modal_share([]), lambda: target_share([], "a")):
        with pytest.raises(ValueError, match="no answers"):
            share()


def _reading_policy(prompt: str, titles: list[str]) -> list[float]:
    """log p(c | prompt) grows with the number of the title's words in the prompt: a policy that reads."""
    said = re.findall(r"[a-z]+", prompt.lower())
    return [float(sum(said.count(word) for word in title.split())) for title in titles]


def test_a_leaked_target_has_the_largest_lift_so_assessment_is_no_protection_from_a_leak() -> None:
    history = ["red mug", "red lamp", "blue lamp"]
    titles = ["red teapot", "blue mug", "green chair", "black lamp"]  # the first is the target
    honest = "Signals: lamp in 2 of 3, red in 2 of 3. Preference: mostly red. Look for: red."
    leaking = "Signals: lamp in 2 of 3, red in 2 of 3. Preference: mostly red. Look for: red teapot."
    before = [_reading_policy(" ".join(history), titles)]
    gained = [
        lift(
            np.array([_reading_policy(" ".join([*history, text]), titles)]), np.array(before), np.array([0])
        ).item()
        for text in (honest, leaking)
    ]
    # The honest text says "red" three times and "lamp" once: the target gains 3 and the last candidate 1.
    # The leaking text says "teapot" once more: the target gains 4.
    assert 0 < gained[0] < gained[1]
    # And the form of the leaking text does not give it away.
    assert form_scores(leaking, history, ["1", "2"]) == form_scores(honest, history, ["1", "2"])
