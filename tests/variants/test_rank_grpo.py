"""Rank-GRPO: the check case of lists of three, and a list task from prompt to measure."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.checks import plain_faults
from mllmrec.config.compose import compose_checked
from mllmrec.engine.batches import pad
from mllmrec.prompts.answers import parse_answer, ranked_text
from mllmrec.rl.batch import Question
from mllmrec.rl.losses import LossInputs
from mllmrec.rollout.free import Free
from mllmrec.rollout.lists import Listed
from mllmrec.testing import check_advantage, check_loss, check_reward, check_rollout, toy_batch
from mllmrec.testing.trials import trial_faults
from mllmrec.variants.rank_grpo import Lined, RankList, RankRatio, RankRelative, lines_of

# Lists of three with the target (1) in the second place, in the third, nowhere, in the first.
LISTS = ("2 1 3", "2 3 1", "2 3 4", "1 2 3")
TITLES = dict.fromkeys("1234", "")


def batch_of(lists, places=3):
    texts = ["\n".join(f"[ITEM_{item}]" for item in one.split()) for one in lists]
    batch = toy_batch(texts)
    # A line is a token, its newline another.
    segments = torch.tensor([[0, -1, 1, -1]] * len(texts))[:, : batch.learnt.shape[1]]
    return replace(batch, questions=[Question("1", TITLES, places)], segments=segments)


def judged(lists=LISTS, credit="log_decay"):
    batch = batch_of(lists)
    rewards = RankList(credit)(batch)
    return replace(batch, rewards=rewards.total, place_rewards=rewards.places), rewards


def test_places_may_be_paid_for_the_list_so_far():
    _, rewards = judged(credit="so_far")
    expected = [[0, 0.6309, 0.6309], [0, 0, 0.5], [0, 0, 0], [1, 1, 1]]
    assert_close(rewards.places, torch.tensor(expected), atol=1e-4, rtol=0)


def test_places_are_paid_for_the_hits_from_them_on():
    _, rewards = judged()
    second, third = 0.6309, 0.5
    assert_close(
        rewards.places,
        torch.tensor([[second, second, 0], [third, third, third], [0, 0, 0], [1, 0, 0]]),
        atol=1e-4,
        rtol=0,
    )
    assert_close(rewards.total, torch.tensor([second, third, 0.0, 1.0]), atol=1e-4, rtol=0)
    assert rewards.parts["hit"].tolist() == [1, 1, 0, 1]


@pytest.mark.parametrize(
    ("credit", "expected"),
    [
        (
            "log_decay",
            [
                [0.2374, 1.0522, -0.4998],
                [-0.0791, 0.6566, 1.4994],
                [-1.2882, -0.8544, -0.4998],
                [1.1299, -0.8544, -0.4998],
            ],
        ),
        (
            "exp_inf",
            [
                [-0.4999, 1.4997, -0.4999],
                [-0.4999, -0.4999, 1.4997],
                [-0.4999, -0.4999, -0.4999],
                [1.4997, -0.4999, -0.4999],
            ],
        ),
    ],
)
def test_advantages_of_places_are_standardised_in_the_group(credit, expected):
    batch, _ = judged(credit=credit)
    width = batch.learnt.shape[1]
    lines = torch.arange(width).clamp(max=3).expand(4, -1).clone()
    lines[:, 3:] = -1
    found = RankRelative()(replace(batch, segments=lines))
    assert_close(found[:, :3], torch.tensor(expected)[:, : min(width, 3)], atol=2e-4, rtol=0)
    assert (found[:, 3:] == 0).all()


@pytest.mark.parametrize("said", ["1 2", "1 2 3 4", "1 1 2", "1 2 9", "1"])
def test_a_list_of_a_wrong_form_gets_nothing(said):
    _, rewards = judged((said, *LISTS[1:]))
    assert rewards.places[0].tolist() == [0, 0, 0]
    assert rewards.parts["format"].tolist() == [0, 1, 1, 1]


def test_a_line_has_the_geometric_mean_of_its_ratios():
    # Ratios 1.1 and 0.9 in one line: sqrt(0.99) = 0.994987; the second line has 1.05 alone.
    old = torch.full((1, 4), -1.0)
    logprobs = old + torch.tensor([[1.1, 0.9, 1.0, 1.05]]).log()
    inputs = LossInputs(
        logprobs=logprobs,
        old=old,
        advantages=torch.ones(1, 4),
        mask=torch.tensor([[True, True, True, True]]),
        entropy=torch.zeros(1, 4),
        segments=torch.tensor([[0, 0, -1, 1]]),
    )
    terms = RankRatio()(inputs).terms
    assert_close(terms[0, [0, 1, 3]], torch.tensor([-0.994987, -0.994987, -1.05]), atol=1e-5, rtol=0)
    # Above 1.08 the clip holds.
    far = replace(inputs, logprobs=old + torch.tensor([[1.3, 1.3, 1.0, 1.05]]).log())
    assert_close(RankRatio()(far).terms[0, :2], torch.tensor([-1.08, -1.08]), atol=1e-5, rtol=0)


def test_tokens_know_their_line():
    pieces = [["[ITEM_", "1]", "\n", "[ITEM_2]\n", "[ITEM_3]", ""], ["a", "\nb"]]
    assert lines_of(pieces, 6).tolist() == [[0, 0, -1, 1, 2, -1], [0, 1, -1, -1, -1, -1]]


def test_a_list_of_the_right_length_is_well_formed():
    question = Question("1", TITLES, 2)
    for said, right in (("[ITEM_1]\n[ITEM_2]", True), ("[ITEM_1]", False), ("[ITEM_1]\n[ITEM_1]", False)):
        assert question.well_formed(parse_answer(said)) == right
    assert Question("1", TITLES).well_formed(parse_answer("[ITEM_1]"))


def test_a_learnt_list_is_read_again_as_it_was_written(tiny, make_pretrained):
    text = ranked_text(["[ITEM_3]", "[ITEM_1]", "[ITEM_2]"])
    assert text == "1. [ITEM_3]\n2. [ITEM_1]\n3. [ITEM_2]"
    for policy in (tiny.policy, make_pretrained()):
        tokens = policy.encode_answers([text])
        said = policy.decode(pad(tokens, 0, side="right"))[0]
        answer = parse_answer(said, 3)
        assert [item for item, _ in answer.items] == ["3", "1", "2"]
        assert Question("3", TITLES, 3).well_formed(answer)
    # A single answer has no place in front.
    assert parse_answer("1. [ITEM_3]").stray_lines == 1


def test_the_parts_pass_their_checks():
    check_reward(RankList())
    check_advantage(RankRelative())
    check_loss(RankRatio())
    check_rollout(Lined(Free(max_new_tokens=4)))
    check_rollout(Lined(Listed()))
    check_rollout(Listed())


def test_the_preset_is_whole():
    composed = compose_checked("train", ["variant=rank_grpo"], CONFIG_DIR)
    assert composed.faults == []
    check_config(composed.config, trial_faults)
    assert composed.config.prompt.places == 5
    assert composed.config.rollout._target_ == "mllmrec.rollout.lists.Listed"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("eval.ranking=likelihood", "set eval.ranking=constrained"),
        ("rollout=constrained", "choose rollout=lists or free"),
        ("eval.ranking=generate", ""),
        ("rollout=free", ""),
        ("eval.ks=[1,10]", "a list says nothing about later places"),
        ("prompt.places=11", "exceeds the 10 candidates of a training prompt"),
        ("sft.loss_on=candidates", "set sft.loss_on=answer"),
        ("method=dpo", "a phase of kind dpo"),
        ("advantage=grpo", ""),
    ],
)
def test_what_cannot_work_with_lists_is_refused(override, words):
    composed = compose_checked("train", ["variant=rank_grpo", override], CONFIG_DIR)
    faults = plain_faults(composed.config)
    assert any(words in fault for fault in faults) if words else faults == []
