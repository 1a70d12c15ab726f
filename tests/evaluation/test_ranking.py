from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from mllmrec.engine.batches import pad
from mllmrec.engine.shared_prefix import SharedPrefix
from mllmrec.evaluation.evaluate import evaluate
from mllmrec.evaluation.ranking import Generate, Likelihood, RankedExample, candidate_scores
from mllmrec.phases.base import Learner, OptimizerSettings
from mllmrec.phases.sft import Sft
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.prompts.builder import ItemTexts, PromptBuilder
from mllmrec.prompts.naming import LABELS
from mllmrec.rollout.base import Spelling
from mllmrec.rollout.constrained import Constrained
from mllmrec.rollout.free import Free
from mllmrec.step.names import Names

ENGINE = SharedPrefix()
NAMES = Names([str(item) for item in range(12)], [""] * 12)


@pytest.fixture
def titled(make_pretrained, make_builder, make_examples, request):
    """A pretrained policy whose answers are labels with titles, and its examples; a parameter is the label."""
    policy = make_pretrained(lora=None)
    builder = make_builder("instruct", answer="id_title", label=getattr(request, "param", "id"))
    policy.model.eval()
    with torch.no_grad():
        policy.model.lm_head.weight.mul_(0.5)
    answers = AnswerTokens(builder, policy.encode_answers, policy.end_token)
    examples = make_examples(builder)
    return policy, answers, [examples[index] for index in range(len(examples))]


def next_logprobs(policy, tokens):
    with torch.no_grad():
        return torch.log_softmax(policy.model(input_ids=torch.tensor([tokens])).logits[0, -1].double(), -1)


def brute_force(policy, answers, example, constrained):
    """Token by token, every candidate by itself."""
    (prompt,) = policy.encode_prompts([example.prompt])
    options = answers.among(example.candidates.tolist())
    scores = []
    for answer in options:
        score = 0.0
        # Titles and numbers may begin other ones, so their end counts.
        ends = constrained or ("[ITEM" not in example.prompt and "A. " not in example.prompt)
        for place, token in enumerate(answer if ends else answer[:-1]):
            logprobs = next_logprobs(policy, prompt + answer[:place])
            if constrained:
                rivals = {other[place] for other in options if other[:place] == answer[:place]}
                score -= float(torch.logsumexp(logprobs[sorted(rivals)], 0))
            score += float(logprobs[token])
        scores.append(score)
    return np.array(scores)


@pytest.mark.parametrize("titled", LABELS, indirect=True)
@pytest.mark.parametrize("constrained", [False, True])
def test_ranking_equals_brute_force(titled, constrained):
    policy, answers, examples = titled
    examples = examples[:3]
    with torch.no_grad():
        ranked = Likelihood(policy, answers, ENGINE, 0, constrained=constrained).rank(examples)
        table = candidate_scores(policy, answers, examples, constrained=constrained, engine=ENGINE)
    for row, example in enumerate(examples):
        expected = brute_force(policy, answers, example, constrained)
        assert_allclose(table[row], expected, atol=1e-4)
        assert np.diff(np.sort(expected)).min() > 1e-3  # no ties to break
        assert ranked[row].order.tolist() == np.argsort(-expected).tolist()
        if constrained:
            assert np.exp(expected).sum() == pytest.approx(1)


def test_constrained_scores_are_what_constrained_rollouts_do(titled):
    policy, answers, (example, *_) = titled
    group = 2000
    options = [answers.of(item) for item in example.candidates.tolist()]
    with torch.no_grad():
        encoded = ENGINE.encode(policy.model, policy.prompt_batch([example.prompt]))
        generators = [torch.Generator().manual_seed(0)]
        rollouts = Constrained().draw(
            ENGINE, policy.model, encoded, group, generators, Spelling(policy.end_token, [options])
        )
    said = [ids[mask].tolist() for ids, mask in zip(*rollouts.tokens, strict=True)]
    with torch.no_grad():
        exact = np.exp(candidate_scores(policy, answers, [example], constrained=True, engine=ENGINE)[0])
    for option, probability in zip(options, exact, strict=True):
        deviation = math.sqrt(probability * (1 - probability) / group)
        assert abs(said.count(option) / group - probability) <= 3 * deviation


def test_the_place_of_the_target_is_not_looked_at(titled):
    policy, answers, examples = titled
    moved = [dataclasses.replace(example, target_column=0) for example in examples]
    with torch.no_grad():
        for constrained in (False, True):
            ranker = Likelihood(policy, answers, ENGINE, 0, constrained)
            for a, b in zip(ranker.rank(examples), ranker.rank(moved), strict=True):
                assert a.order.tolist() == b.order.tolist()


@pytest.fixture
def indifferent(tiny):
    """A policy that gives every token, and so every label, the same probability."""
    with torch.no_grad():
        for weight in tiny.policy.model.parameters():
            weight.zero_()
    return tiny


def test_ties_are_broken_alike_whoever_is_in_the_batch(indifferent, make_examples):
    examples = make_examples(indifferent.builder)
    many = dataclasses.replace(examples[0], candidates=np.arange(12), target_column=examples[0].target)
    ranker = Likelihood(indifferent.policy, indifferent.answers, ENGINE, 0)
    for few in (dataclasses.replace(examples[1], user_id=f"v{user}") for user in range(10)):
        with torch.no_grad():
            (alone,) = ranker.rank([few])
            together = ranker.rank([many, few])
        assert together[1].order.tolist() == alone.order.tolist()
        assert sorted(together[0].order) == list(range(12))
        assert sorted(alone.order) == list(range(4))


def test_a_policy_that_knows_nothing_ranks_by_chance(indifferent, make_examples):
    # At every place of the target; a policy that always put the first candidate first would give 1 for column 0.
    example = make_examples(indifferent.builder)[0]
    users = [
        dataclasses.replace(example, user_id=f"u{user}", target_column=column)
        for user in range(300)
        for column in (0, 3)
    ]
    with torch.no_grad():
        ranked = Likelihood(indifferent.policy, indifferent.answers, ENGINE, 0).rank(users)
    ranks = np.array([r.rank_of(user.target_column) for r, user in zip(ranked, users, strict=True)]).reshape(
        -1, 2
    )
    for column in range(2):
        # Expected count of each of four ranks: 300 / 4 = 75, deviation sqrt(300 · 3/16) = 7.5.
        counts = np.bincount(ranks[:, column].astype(int), minlength=5)[1:]
        assert (np.abs(counts - 75) <= 3 * 7.5).all()


def test_what_is_not_ranked_has_no_rank():
    ranked = RankedExample(np.array([2, 0]))
    assert (ranked.rank_of(2), ranked.rank_of(0)) == (1.0, 2.0)
    assert math.isnan(ranked.rank_of(1))


class Scripted(PromptBuilder):
    """Writes scripted answers for a policy to learn."""

    def answer(self, item: int) -> str:
        return {
            3: "[ITEM_4] Old Clock\n[ITEM_4]\n[ITEM_11]\n[ITEM_3] Blue Chair",
            4: "[ITEM_5]",
            5: "I do not know",
            6: "<think>[ITEM_7]</think>\n[ITEM_6]\n[ITEM_9]",
        }.get(item, "")


def test_generated_answers_are_read_counted_and_never_filled_up(
    make_pretrained, make_examples, catalogue, fit
):
    # Fault 24: in the release duplicates and foreign ids take rank positions and are not reported.
    policy = make_pretrained(lora=None)
    template = make_examples(None).builder.template
    builder = Scripted(ItemTexts(catalogue.ids, catalogue.titles), template, answer="id_title")
    answers = AnswerTokens(builder, policy.encode_answers, policy.end_token)
    examples = make_examples(builder)
    batch = [examples[index] for index in range(4)]
    policy.begin_phase("sft")
    settings = OptimizerSettings(1e-2, schedule="cosine")
    fit(Sft(Learner(policy, ENGINE, micro_batch_size=4), answers, settings, 60), [batch] * 60)
    with torch.no_grad():
        ranked = Generate(policy, answers, ENGINE, Names.of(builder)).rank(batch)
    assert [result.text for result in ranked] == [builder.answer(item) for item in (3, 4, 5, 6)]
    named = [
        [int(example.candidates[column]) for column in result.order]
        for example, result in zip(batch, ranked, strict=True)
    ]
    assert named == [[4, 3], [5], [], [6, 9]]
    assert [result.duplicates for result in ranked] == [1, 0, 0, 0]
    assert [result.off_candidate for result in ranked] == [1, 0, 0, 0]
    assert [result.generated_tokens for result in ranked] == [len(answers.of(item)) for item in (3, 4, 5, 6)]
    ranks = [result.rank_of(example.target_column) for example, result in zip(batch, ranked, strict=True)]
    assert_allclose(ranks, [2, np.nan, np.nan, 1])

    result = evaluate(examples, Generate(policy, answers, ENGINE, Names.of(builder)), [[0, 1], [2, 3]])
    assert result.validity == {
        "invalid": 0.25,
        "duplicate": 0.25,
        "off_candidate": 0.25,
        "short": 1.0,
        # The candidates are shown as 3 4 5 6, then 5 4 6 7, 6 7 5 8 and 7 8 9 6: the second names the first shown.
        "first_position": 0.25,
    }
    assert result.generated_tokens == sum(len(answers.of(item)) for item in (3, 4, 5, 6))
    assert result.means([1, 3])["HR@3"] == 0.5


def test_a_generated_answer_with_special_tokens_names_nothing(titled, monkeypatch):
    policy, answers, examples = titled
    first = int(examples[0].candidates[0])
    rows = [answers.of(first), [policy.padding_token, *answers.of(first)]]
    completions = pad(rows, policy.padding_token, side="right")
    monkeypatch.setattr(Free, "draw", lambda *_: SimpleNamespace(tokens=completions))
    with torch.no_grad():
        said, stained = Generate(policy, answers, ENGINE, NAMES).rank([examples[0], examples[0]])
    assert said.order.tolist() == [0]
    assert stained.order.tolist() == []
    assert stained.text == "<|pad|>" + said.text


def test_generation_is_greedy_and_stops_at_its_limit(titled):
    policy, answers, examples = titled
    with torch.no_grad():
        first = Generate(policy, answers, ENGINE, NAMES, max_new_tokens=3).rank(examples)
        again = Generate(policy, answers, ENGINE, NAMES, max_new_tokens=3).rank(examples[::-1])[::-1]
    assert [result.text for result in first] == [result.text for result in again]
    assert all(result.generated_tokens <= 3 for result in first)
    (prompt,) = policy.encode_prompts([examples[0].prompt])
    tokens = []
    for _ in range(3):
        tokens.append(int(next_logprobs(policy, prompt + tokens).argmax()))
    assert first[0].text == policy.decode(pad([tokens], 0, side="right"))[0]
