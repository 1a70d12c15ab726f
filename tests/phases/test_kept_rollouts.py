from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from mllmrec.phases.kept_rollouts import kept_steps, whole_groups


@pytest.mark.parametrize(
    ("steps", "every", "kept"),
    [
        (3, 2, {0, 1, 2}),  # a phase of fewer than 20 steps keeps them all
        (39, 1000, set(range(0, 39, 2))),  # 20 of 39: every second, from the first to the last
        (1, 50, {0}),
        (0, 50, set()),
    ],
)
def test_short_stages_and_rare_rankings_keep_twenty_steps(steps, every, kept):
    assert kept_steps(steps, every) == kept


def test_every_held_out_ranking_is_among_the_steps_and_the_last_step_too():
    kept = kept_steps(1000, 25)
    assert set(range(0, 1000, 25)) <= kept
    assert 999 in kept
    assert len(kept) <= 40 + 20


def test_a_long_stage_keeps_two_hundred_steps_spread_over_it():
    kept = sorted(kept_steps(100_000, 1))
    assert len(kept) == 200
    assert (kept[0], kept[-1]) == (0, 99_999)
    gaps = [later - earlier for earlier, later in pairwise(kept)]
    assert max(gaps) - min(gaps) <= 1


def test_groups_are_kept_whole(make_batch):
    judged = make_batch(
        torch.arange(6.0).view(3, 2),
        step=7,
        texts=list("abcdef"),
        parts={"hit": 0.5 * torch.arange(6.0)},
        advantages=torch.arange(6.0) / 10,
    )
    kept = whole_groups(judged, 2)
    assert [(row.step, row.prompt_id, row.completion, row.reward) for row in kept] == [
        (7, "u0", "a", 0.0),
        (7, "u0", "b", 1.0),
        (7, "u1", "c", 2.0),
        (7, "u1", "d", 3.0),
    ]
    assert kept[3].parts == {"hit": 1.5}
    assert kept[3].advantage == pytest.approx(0.3)
    # A batch with fewer prompts gives all it has.
    assert len(whole_groups(judged, 9)) == 6


def test_an_advantage_that_differs_by_token_is_shown_as_its_mean(make_batch):
    judged = make_batch(
        torch.zeros(1, 2),
        learnt=torch.tensor([[True, True], [True, False]]),
        advantages=torch.tensor([[1.0, 3.0], [0.5, 9.0]]),
    )
    assert [row.advantage for row in whole_groups(judged, 1)] == [2.0, 0.5]
