"""MM-UPT: the printed case, ties, answers that cannot vote, probabilities and lists."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.testing import assert_close

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.compose import compose_checked
from mllmrec.rl.batch import Question
from mllmrec.testing import check_reward, toy_batch
from mllmrec.variants.mm_upt import MajorityVote


def paid(answers, group_of=None, weights=None, places=1):
    """The rewards of answers such as ``"1"``, or ``"1 2"`` for lists, to a prompt that lists 1 to 4 with target 4."""
    texts = ["\n".join(f"[ITEM_{item}]" for item in answer.split()) for answer in answers]
    batch = toy_batch(texts, group_of=group_of, weights=weights)
    question = Question("4", dict.fromkeys("1234", ""), places)
    return MajorityVote()(replace(batch, questions=[question] * len(batch.questions)))


def test_what_most_answers_name_is_paid():
    rewards = paid(["1", "2", "1", "3"])
    assert rewards.total.tolist() == [1, 0, 1, 0]
    assert rewards.parts["hit"].tolist() == [0, 0, 0, 0]


def test_the_first_of_a_tie_wins_and_groups_vote_apart():
    assert paid(["2", "1", "1", "2", "4"], group_of=[0, 0, 0, 0, 1]).total.tolist() == [1, 0, 0, 1, 1]


def test_answers_that_are_not_valid_never_win():
    # 9 is not listed.
    rewards = paid(["9", "", "9", "4"])
    assert rewards.total.tolist() == [0, 0, 0, 1]
    assert rewards.parts["format"].tolist() == rewards.parts["hit"].tolist() == [0, 0, 0, 1]
    assert paid(["9", ""]).total.tolist() == [0, 0]


def test_rows_that_are_all_answers_vote_with_their_probabilities():
    assert paid(["1", "2", "3"], weights=[0.2, 0.3, 0.5]).total.tolist() == [0, 0, 1]


def test_lists_earn_what_they_share():
    # The first shares one item of two with the second, two with the third and none with the fourth, which has no form.
    rewards = paid(["1 2", "2 3", "2 1", "1"], places=2)
    assert_close(rewards.total, torch.tensor([1.5, 1.0, 1.5, 0.0]) / 3)


def test_it_is_a_reward():
    check_reward(MajorityVote())


def test_the_variant_composes():
    composed = compose_checked("train", ["variant=mm_upt"], CONFIG_DIR)
    assert composed.faults == []
    check_config(composed.config)
    assert (composed.config.rollout.temperature, composed.config.grpo.group_size) == (0.7, 10)
