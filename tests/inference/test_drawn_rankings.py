"""Best of n and majority: orders that can be checked in the head, and draws of a tiny policy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mllmrec.engine.shared_prefix import SharedPrefix
from mllmrec.inference.best_of_n import BestOfN
from mllmrec.inference.drawn import Drawn, frequencies, scored_rows
from mllmrec.inference.majority import Majority
from mllmrec.rollout.base import Turn

NAMED = [[2], [0], [2], [], [1]]


def drawn(scores, named=NAMED):
    return Drawn(named, np.array(scores), ["said"] * len(named))


def test_the_best_answer_ranks_first_and_an_empty_one_nowhere():
    assert BestOfN(n=5).order(drawn([-3.0, -1.0, -2.0, 0.0, -1.0])) == [0, 1, 2]


def test_the_second_best_list_adds_what_the_best_one_lacks():
    assert BestOfN(n=2).order(drawn([-2.0, -1.0], [[3, 1, 0], [1, 2]])) == [1, 2, 3, 0]


def test_the_commonest_answer_is_the_best_by_frequency():
    assert frequencies(NAMED).tolist() == [0.4, 0.2, 0.4, 0.2, 0.2]
    assert BestOfN(n=5, score="frequency").order(drawn(frequencies(NAMED))) == [2, 0, 1]


def test_votes_come_first_and_mean_scores_break_ties():
    # Two votes for 2; 0 and 1 have one each, and 1 is likelier.
    assert Majority(n=5).order(drawn([-9.0, -3.0, -9.0, 0.0, -2.0])) == [2, 1, 0]
    # One vote each; two lists give 2 half a vote each, and its score is their mean, between those of 1 and 3.
    assert Majority(n=3).order(drawn([-1.0, -3.0, -4.0], [[0], [1, 2], [3, 2]])) == [0, 1, 2, 3]


def test_places_of_lists_share_votes():
    # 1 + 1/3, 2/3 + 2/3, 1/3 + 1: all equal, so the mean scores decide, which are equal, too: the order drawn.
    assert Majority(n=2).order(drawn([-1.0, -1.0], [[0, 1, 2], [2, 1, 0]])) == [0, 1, 2]
    # 2 is second twice (4/3); 0 and 1 are first once (1 each).
    assert Majority(n=2).order(drawn([-1.0, -1.0], [[0, 2, 3], [1, 2, 3]])) == [2, 0, 1, 3]


@pytest.mark.parametrize(
    ("settings", "message"), [({"n": 0}, "n=0"), ({"n": 2, "temperature": 0.0}, "inference=greedy")]
)
@pytest.mark.parametrize("part", [BestOfN, Majority])
def test_settings_that_cannot_work_are_refused(part, settings, message):
    with pytest.raises(ValueError, match=message):
        part(**settings)


@pytest.mark.parametrize("ranking", ["likelihood", "reasoned", "generate"])
@pytest.mark.parametrize(
    "part", [BestOfN(n=3), BestOfN(n=3, score="self_certainty", tokens="all"), Majority(n=3)]
)
def test_all_candidates_are_ranked_once_whatever_the_batch(make_ranker, batch, part, ranking):
    ranker = make_ranker(part, ranking)
    with ranker.ready():
        together = ranker.rank(batch)
        alone = [ranker.rank([example])[0] for example in batch]
    for one, other, example in zip(together, alone, batch, strict=True):
        assert one.order.tolist() == other.order.tolist()
        assert one.text == other.text
        assert sorted(one.order.tolist()) == list(range(len(example.candidates)))
    assert ranker.generated_tokens > 0


def test_only_named_candidates_are_ranked_if_the_rest_is_not(make_ranker, batch):
    ranker = make_ranker(Majority(n=2, rest="unranked"))
    with ranker.ready():
        ranked = ranker.rank(batch)
    assert all(1 <= len(one.order) <= 2 for one in ranked)
    # A label and the end token in each of two answers to each of two prompts.
    assert ranker.generated_tokens == 2 * 2 * 2


def test_many_votes_are_as_many_as_the_probabilities(make_ranker, make_inputs, tiny, batch):
    inputs = make_inputs()
    likelihoods = inputs.plain()
    likelihoods.constrained = True
    with likelihoods.ready():
        expected = [np.argsort(-scores)[0] for scores in likelihoods.scores(batch)]
        ranked = make_ranker(Majority(n=400)).rank(batch)
    assert [one.order[0] for one in ranked] == expected


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_scores_are_those_of_the_answer_or_of_all_that_was_said(make_inputs, batch, temperature):
    speaker = make_inputs("reasoned").speaker(temperature)
    with torch.no_grad():
        given = speaker.complete(batch, Turn(step=0, group_size=2))
        logprobs = speaker.score(given).double()
        answer = given.learnt & (given.segments == 0)
        found = {
            (score, over): scored_rows(score, given, speaker, over)
            for score in ("mean_logprob", "sum_logprob", "self_certainty")
            for over in ("answer", "all")
        }
    torch.testing.assert_close(found["sum_logprob", "all"], logprobs.sum(1))
    torch.testing.assert_close(found["mean_logprob", "all"], logprobs.sum(1) / given.learnt.sum(1))
    torch.testing.assert_close(found["sum_logprob", "answer"], logprobs.where(answer, 0.0).sum(1))
    # One token chooses the answer among four.
    torch.testing.assert_close(found["mean_logprob", "answer"], found["sum_logprob", "answer"])
    assert (found["self_certainty", "answer"] >= 0).all()
    assert not torch.equal(found["self_certainty", "answer"], found["self_certainty", "all"])


def test_an_answer_s_certainty_is_that_of_its_choice(make_inputs, batch):
    inputs = make_inputs()
    ranker = inputs.plain()
    ranker.constrained = True
    with ranker.ready():
        scores = ranker.scores(batch)
        speaker = inputs.speaker()
        given = speaker.complete(batch, Turn(step=0, group_size=1))
        found = scored_rows("self_certainty", given, speaker)
    expected = [-np.log(len(own)) - own.mean() for own in scores]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)
    assert isinstance(speaker.engine, SharedPrefix)
