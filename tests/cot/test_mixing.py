from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch

from mllmrec.cot import CotKey, CotPolicy, select_cot
from mllmrec.cot.mixing import Carriers, Mixing, Mixture, select_confident, share_at
from mllmrec.errors import UserError

IDS = [f"user{number}/0" for number in range(1000)]


@pytest.mark.parametrize(("ratio", "chosen"), [(0.0, 0), (0.05, 50), (0.1, 100), (0.3333, 333), (1.0, 1000)])
def test_exactly_the_share_asked_for(ratio: float, chosen: int) -> None:
    assert len(set(select_cot(IDS, ratio, seed=0).tolist())) == chosen


@pytest.mark.parametrize(("ratio", "chosen"), [(0.3, 2), (0.35, 2), (0.25, 1), (0.5, 2), (0.7, 4)])
def test_a_share_between_two_numbers_of_samples_takes_the_nearer_one(ratio: float, chosen: int) -> None:
    # Of five: 1.5, 1.75, 1.25, 2.5 and 3.5. Cutting instead of rounding gives small data too little reasoning.
    five = IDS[:5]
    assert len(select_cot(five, ratio, 0)) == chosen
    assert len(select_confident(five, ratio, 0, dict.fromkeys(five, 0.5))) == chosen


def test_the_choice_belongs_to_the_id_and_not_to_the_position() -> None:
    chosen = [IDS[place] for place in select_cot(IDS, 0.2, seed=3)]
    order = np.random.default_rng(0).permutation(len(IDS))
    shuffled = np.array(IDS)[order]
    assert shuffled[select_cot(shuffled, 0.2, seed=3)].tolist() == chosen


def test_a_larger_ratio_keeps_what_a_smaller_one_chose() -> None:
    choices = [select_cot(IDS, ratio, seed=1).tolist() for ratio in (0.05, 0.1, 0.3, 0.9)]
    for small, large in itertools.pairwise(choices):
        assert large[: len(small)] == small


def test_another_seed_chooses_others() -> None:
    # Two independent halves of 1,000 share 250 on average, with a standard deviation of about 8.
    shared = np.intersect1d(select_cot(IDS, 0.5, seed=0), select_cot(IDS, 0.5, seed=1))
    assert 200 < len(shared) < 300


def test_global_generators_change_nothing() -> None:
    """Fault 9 of the release: the choice came from Python's global generator."""
    choices = []
    for value in (1, 2):
        random.seed(value)
        np.random.seed(value)  # noqa: NPY002
        torch.manual_seed(value)
        choices.append(select_cot(IDS, 0.1, seed=0))
    np.testing.assert_array_equal(choices[0], choices[1])


def test_choosing_leaves_global_generators_alone() -> None:
    random.seed(5)
    torch.manual_seed(5)
    expected = random.random(), torch.rand(1).item()
    random.seed(5)
    torch.manual_seed(5)
    select_cot(IDS, 0.5, seed=0)
    assert (random.random(), torch.rand(1).item()) == expected


@pytest.mark.parametrize("ratio", [-0.1, 1.5, float("nan")])
def test_a_ratio_outside_0_to_1_is_refused(ratio: float) -> None:
    with pytest.raises(UserError, match="mix_ratio"):
        select_cot(IDS, ratio, seed=0)


def test_repeated_ids_are_a_defect() -> None:
    with pytest.raises(ValueError, match="unique"):
        select_cot(["a", "a"], 0.5, seed=0)


def test_no_samples() -> None:
    assert select_cot([], 0.5, seed=0).shape == (0,)


def test_the_choice_is_that_of_earlier_versions() -> None:
    """The ids of the lowest ranks. A change here would give every repeated run other prompts."""
    chosen = select_cot([f"u{number}" for number in range(20)], 0.2, seed=0)
    assert sorted(chosen.tolist()) == [0, 9, 16, 19]


CONFIDENCES: dict[str, float | None] = {name: (number % 10) / 10 for number, name in enumerate(IDS)}


def test_the_most_confident_are_chosen() -> None:
    # Each of 0.0, 0.1, … 0.9 is the confidence of 100 samples.
    chosen = select_confident(IDS, 0.2, 0, CONFIDENCES)
    assert [CONFIDENCES[IDS[place]] for place in chosen] == [0.9] * 100 + [0.8] * 100
    assert len(set(chosen.tolist())) == 200


def test_equal_confidences_are_chosen_as_if_there_were_none() -> None:
    equal = dict.fromkeys(IDS, 0.5)
    for seed in (0, 1):
        np.testing.assert_array_equal(select_confident(IDS, 0.3, seed, equal), select_cot(IDS, 0.3, seed))


def test_samples_without_confidence_are_never_chosen() -> None:
    some = {name: value for name, value in CONFIDENCES.items() if value != 0.9}
    some.update({name: None for name, value in some.items() if value == 0.8})
    # 800 of 1,000 have a confidence. A share of 0.9 takes all of them, and a share of 0.1 is taken of all 1,000.
    assert len(select_confident(IDS, 0.9, 0, some)) == 800
    assert [some.get(IDS[place]) for place in select_confident(IDS, 0.1, 0, some)] == [0.7] * 100
    assert select_confident(IDS, 1.0, 0, {}).tolist() == []


def test_the_confident_choice_belongs_to_the_id_and_not_to_the_position() -> None:
    chosen = [IDS[place] for place in select_confident(IDS, 0.25, 3, CONFIDENCES)]
    shuffled = np.array(IDS)[np.random.default_rng(0).permutation(len(IDS))]
    assert shuffled[select_confident(shuffled, 0.25, 3, CONFIDENCES)].tolist() == chosen


def test_a_larger_ratio_keeps_the_confident_that_a_smaller_one_chose() -> None:
    choices = [select_confident(IDS, ratio, 1, CONFIDENCES).tolist() for ratio in (0.05, 0.13, 0.3, 0.9)]
    for small, large in itertools.pairwise(choices):
        assert large[: len(small)] == small


@pytest.mark.parametrize("ratio", [-0.1, 1.5, float("nan")])
def test_a_confident_ratio_outside_0_to_1_is_refused(ratio: float) -> None:
    with pytest.raises(UserError, match="mix_ratio"):
        select_confident(IDS, ratio, 0, CONFIDENCES)


@pytest.mark.parametrize("value", [float("nan"), 1.5, -0.1])
def test_confidences_that_order_nothing_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="confidence"):
        select_confident(["a", "b"], 0.5, 0, {"a": 0.5, "b": value})


def test_repeated_ids_have_no_confident_choice() -> None:
    with pytest.raises(ValueError, match="unique"):
        select_confident(["a", "a"], 0.5, 0, {"a": 0.5})


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        ("constant", [1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [1.0, 0.75, 0.5, 0.25, 0.0]),
        ("warmup", [0.0, 0.5, 1.0, 1.0, 1.0]),  # over the first half
    ],
)
def test_schedules_at_the_quarters_of_the_training(schedule: str, shares: list[float]) -> None:
    assert [share_at(schedule, quarter / 4, warmup=0.5) for quarter in range(5)] == shares


def test_no_warmup_is_the_whole_share_from_the_start() -> None:
    assert share_at("warmup", 0.0, warmup=0.0) == 1.0
    assert share_at("warmup", 1.0, warmup=1.0) == 1.0


def test_samples_join_during_warmup_and_leave_while_falling_and_never_come_and_go() -> None:
    for schedule, sign in (("warmup", 1), ("linear", -1)):
        chosen = [
            set(select_cot(IDS, 0.4 * share_at(schedule, step / 10, warmup=0.8), seed=0).tolist())
            for step in range(11)
        ][::sign]
        assert all(earlier <= later for earlier, later in itertools.pairwise(chosen))
        assert len(chosen[0]) < len(chosen[-1])


@pytest.mark.parametrize(
    ("schedule", "warmup"), [("cosine", 0.1), ("warmup", -0.1), ("warmup", float("nan"))]
)
def test_no_such_schedule_or_warmup_is_refused(schedule: str, warmup: float) -> None:
    with pytest.raises(UserError, match=r"schedule=cosine|warmup="):
        share_at(schedule, 0.5, warmup)


@pytest.mark.parametrize("progress", [-0.1, 1.1, float("nan")])
def test_progress_outside_the_training_is_a_defect(progress: float) -> None:
    with pytest.raises(ValueError, match="progress"):
        share_at("linear", progress)


class TestMixture:
    def codes(self, chosen, batches=1, samples=6, **settings):
        mixture = Mixture(Mixing(**settings), samples, np.array(chosen, dtype=np.int64))
        entries = [np.arange(len(mixture)) for _ in range(batches)]
        return [batch.tolist() for batch in mixture.forms(entries)]

    def test_a_chosen_sample_is_replaced_by_its_other_form(self):
        # 6 more means the form with reasoning.
        assert self.codes([4, 1]) == [[0, 7, 2, 3, 10, 5]]

    def test_augmented_samples_appear_in_both_forms(self):
        assert self.codes([4, 1], form="augment") == [[0, 1, 2, 3, 4, 5, 10, 7]]

    def test_the_share_falls_and_those_chosen_last_leave_first(self):
        # The shares at the three steps are 1, 1/2 and 0 of two samples.
        assert self.codes([4, 1], batches=3, schedule="linear") == [
            [0, 7, 2, 3, 10, 5],
            [0, 1, 2, 3, 10, 5],
            [0, 1, 2, 3, 4, 5],
        ]

    def test_the_share_rises_over_the_warmup(self):
        counts = [
            sum(code >= 6 for code in batch)
            for batch in self.codes([4, 1], batches=5, schedule="warmup", warmup=0.5)
        ]
        # Progress 0, 1/4, 1/2 and on: the shares are 0, 1/2, 1, 1, 1 of two samples.
        assert counts == [0, 1, 2, 2, 2]

    def test_the_share_at_a_step_is_that_of_the_nearer_number_of_samples(self):
        batches = self.codes([4, 1, 2], batches=5, schedule="linear")
        # 3, 2.25, 1.5, 0.75 and 0 of three. If these were cut, the last sample would leave a step early.
        assert [sum(code >= 6 for code in batch) for batch in batches] == [3, 2, 2, 1, 0]

    def test_nothing_chosen_leaves_the_samples_as_they_are(self):
        assert self.codes([], form="augment") == [[0, 1, 2, 3, 4, 5]]


class Some(CotPolicy):
    """Has reasoning and a confidence for some samples, and records which samples it was asked about."""

    def __init__(self, trust: dict[str, float]) -> None:
        self.trust, self.asked = trust, []

    def reasoning(self, key: CotKey) -> str | None:
        self.asked.append(key.sample_id)
        return "text" if key.sample_id in self.trust else None

    def confidences(self, keys):
        return [self.trust.get(key.sample_id) for key in keys]


TWENTY = [f"s{number}" for number in range(20)]
TRUST = {name: number / 20 for number, name in enumerate(TWENTY)}


def choose(cot: CotPolicy, ratio: float, **settings) -> Carriers:
    return Mixing(**settings).choose(TWENTY, ratio, 5, cot, lambda place: CotKey("u", (), "t", TWENTY[place]))


def test_a_way_of_mixing_chooses_at_random_or_by_confidence():
    chosen = choose(Some(TRUST), 0.3)
    assert chosen.positions.tolist() == select_cot(TWENTY, 0.3, 5).tolist()
    assert chosen.wanted == 6
    # A smaller ratio chooses the beginning of the same list.
    assert choose(Some(TRUST), 0.15).positions.tolist() == chosen.positions.tolist()[:3]
    best = choose(Some(TRUST), 0.15, select="confidence")
    assert best.positions.tolist() == [19, 18, 17]
    assert len(best.looked_at) == 20
    with pytest.raises(UserError, match="gives no confidence"):
        choose(Silent(), 0.1, select="confidence")


class Silent(CotPolicy):
    def reasoning(self, key: CotKey) -> str | None:
        return "text"


def test_no_more_is_looked_at_than_the_share_takes():
    order = [TWENTY[place] for place in select_cot(TWENTY, 1.0, 5)]
    # Samples without reasoning are skipped: the second and the fourth of the order.
    cot = Some({name: 0.5 for name in TWENTY if name not in (order[1], order[3])})
    chosen = choose(cot, 0.2)
    assert [TWENTY[place] for place in chosen.positions] == [order[0], order[2], order[4], order[5]]
    assert cot.asked == order[:6]
    assert [TWENTY[place] for place in chosen.looked_at] == order[:6]


def test_too_little_reasoning_is_all_chosen():
    chosen = choose(Some({"s3": 0.5, "s8": 0.5}), 0.5)
    assert sorted(chosen.positions.tolist()) == [3, 8]
    assert (chosen.wanted, len(chosen.looked_at)) == (10, 20)


def test_none_are_looked_at_where_none_are_wanted():
    cot = Some(TRUST)
    assert choose(cot, 0.0).positions.tolist() == []
    assert cot.asked == []


@pytest.mark.parametrize(
    "settings", [{"form": "both"}, {"select": "best"}, {"schedule": "cosine"}, {"warmup": 1.5}], ids=str
)
def test_an_unknown_way_of_mixing_is_refused(settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        Mixing(**settings)
