from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from mllmrec.engine.plain import Plain
from mllmrec.engine.shared_prefix import SharedPrefix
from mllmrec.errors import UserError
from mllmrec.evaluation.pointwise import Pointwise, yes_scores
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.prompts.listing import Listing
from mllmrec.prompts.questions import Questions, load_question_wording


@pytest.fixture
def asked(make_pretrained, make_builder, make_examples):
    """A policy with a chat template, its questions, and examples with lists of different lengths."""
    policy, builder = make_pretrained(lora=None), make_builder("instruct", captions={"5": "very tall"})
    examples = make_examples(builder)
    batch = [examples[0], examples[2], dataclasses.replace(examples[3], candidates=np.array([5, 1]))]
    return policy, Questions(builder, load_question_wording("instruct"), 2), batch


def log_probability(policy, prompt, answer):
    (ids,), (tokens,) = policy.encode_prompts([prompt]), policy.encode_answers([answer])
    logits = policy.model(input_ids=torch.tensor([ids + tokens])).logits[0]
    logprobs = torch.log_softmax(logits, -1)
    return sum(float(logprobs[len(ids) - 1 + place, token]) for place, token in enumerate(tokens))


def test_a_question_shows_the_latest_history_and_one_item(make_builder):
    questions = Questions(make_builder(captions={"3": "with arms"}), load_question_wording("compact"), 2)
    assert questions.prompt([0, 1, 2], 3) == (
        "History [ITEM_1] Blue Lamp [ITEM_2] Red Chair Candidate [ITEM_3] Blue Chair with arms Match"
    )
    instructed = Questions(make_builder("instruct", domain="lamp"), load_question_wording("instruct"), 9)
    assert instructed.prompt([0], 3).endswith(
        "Candidate lamp:\n[ITEM_3] Blue Chair\nDoes the user choose this lamp next? Answer Yes or No and nothing else."
    )


def test_the_builder_of_lists_keeps_its_own_wording(make_builder):
    builder = make_builder()
    before = builder.prompt([0], [1, 2])
    Questions(builder, load_question_wording("compact"), 2).prompt([0], 1)
    assert builder.prompt([0], [1, 2]) == before


def test_an_unknown_wording_lists_those_there_are():
    with pytest.raises(
        UserError, match=r"prompt\.question=terse: neither a file nor one of compact or instruct"
    ):
        load_question_wording("terse")


def test_questions_need_no_list_of_their_candidates():
    # No alphabet has a hundred letters, and no prompt lists what is asked about one by one.
    settings = OmegaConf.create({"num_negatives": 99, "listing": "all", "ranking": "pointwise"})
    assert Listing.of(settings, 10).list_size == 0


@pytest.mark.parametrize("engine", [SharedPrefix(), Plain()])
@torch.no_grad()
def test_scores_are_the_difference_of_two_whole_answers(asked, engine):
    policy, questions, batch = asked
    found = yes_scores(policy, engine, questions, batch)
    assert [len(scores) for scores in found] == [4, 4, 2]
    for example, scores in zip(batch, found, strict=True):
        prompts = [questions.prompt(example.history.tolist(), item) for item in example.candidates.tolist()]
        expected = [log_probability(policy, p, "Yes") - log_probability(policy, p, "No") for p in prompts]
        assert scores == pytest.approx(expected, abs=1e-4)
        assert np.ptp(expected) > 1e-3


def test_candidates_are_ordered_by_score_in_evaluation_mode(asked, make_builder):
    policy, questions, batch = asked
    answers = AnswerTokens(make_builder("instruct"), policy.encode_answers, policy.end_token)
    policy.model.train()
    ranker = Pointwise(policy, answers, SharedPrefix(), questions, seed=0)
    with ranker.ready():
        scores = yes_scores(policy, SharedPrefix(), questions, batch)
        ranked = ranker.rank(batch)
        assert not policy.model.training
    assert policy.model.training
    assert [one.order.tolist() for one in ranked] == [np.argsort(-own).tolist() for own in scores]
