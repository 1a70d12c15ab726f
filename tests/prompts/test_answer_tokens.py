from __future__ import annotations

import numpy as np
import pytest

from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.prompts.answers import parse_answer


def test_every_answer_ends_and_reads_back(make_builder, make_pretrained):
    builder, policy = make_builder(answer="id_title"), make_pretrained()
    answers = AnswerTokens(builder, policy.encode_answers, policy.end_token)
    lengths = []
    for item in range(12):
        tokens = answers.of(item)
        assert tokens[-1] == policy.end_token
        assert policy.end_token not in tokens[:-1]
        assert parse_answer(policy.tokenizer.decode(tokens[:-1])).items == (
            (str(item), builder.titles[item]),
        )
        lengths.append(len(tokens))
    assert answers.longest == max(lengths)


def test_labels_of_a_policy_from_scratch_are_one_token(tiny):
    firsts = tiny.answers.first_tokens()
    assert [tiny.answers.of(item) for item in range(12)] == [
        [token, tiny.policy.end_token] for token in firsts
    ]
    assert len(np.unique(firsts)) == 12
    assert tiny.answers.longest == 2


@pytest.mark.parametrize("item", [0, 11])
def test_blocks_do_not_shift_items(monkeypatch, tiny, item):
    monkeypatch.setattr("mllmrec.prompts.answer_tokens._BLOCK", 5)
    again = AnswerTokens(tiny.builder, tiny.policy.encode_answers, tiny.policy.end_token)
    assert again.of(item) == tiny.answers.of(item)


@pytest.mark.parametrize("policy", ["scratch", "pretrained"])
def test_every_list_that_names_an_item_first_begins_with_its_opening(
    tiny, make_builder, make_pretrained, policy
):
    policy = tiny.policy if policy == "scratch" else make_pretrained()
    builder = make_builder(places=3)
    openings = AnswerTokens(builder, policy.encode_answers, policy.end_token, form="opening")
    for target in (3, 11):
        (tokens,) = policy.encode_answers([builder.ranked_answer(target, [1, target, 7, 8])])
        opening = openings.of(target)
        assert tokens[: len(opening)] == opening
        assert tokens[len(opening) :] != []
