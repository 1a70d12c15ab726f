from __future__ import annotations

import pytest

from mllmrec.prompts.trie import AnswerTrie, UnknownPrefix

END = 9
# 1 ─ 5 ─ 9
#   └ 2 ─ 4 ─ 9
# 3 ─ 7 ─ 9
ANSWERS = [[1, 5, END], [1, 2, 4, END], [3, 7, END]]


def test_allowed_tokens_ascend():
    trie = AnswerTrie(ANSWERS)
    assert trie.allowed([]) == [1, 3]
    assert trie.allowed([1]) == [2, 5]
    assert trie.allowed([1, 2]) == [4]
    assert trie.allowed([3, 7, END]) == []


def test_leaves_know_their_answer_and_choices_are_marked():
    trie = AnswerTrie(ANSWERS)
    assert [trie.walk(answer).answer for answer in ANSWERS] == [0, 1, 2]
    decides = {prefix: trie.walk(prefix).decides for prefix in ((), (1,), (1, 2), (1, 5), (3,), (3, 7))}
    assert decides == {(): True, (1,): True, (1, 2): False, (1, 5): False, (3,): False, (3, 7): False}


def test_a_forced_token_above_a_choice_still_decides():
    trie = AnswerTrie([[1, 2, END], [1, 3, END]])
    assert trie.allowed([]) == [1]
    assert trie.root.decides


@pytest.mark.parametrize("prefix", [[2], [1, 7], [1, 5, END, END], [3, 7, 8]])
def test_an_unknown_prefix_never_falls_back_to_everything(prefix):
    with pytest.raises(UnknownPrefix):
        AnswerTrie(ANSWERS).allowed(prefix)


@pytest.mark.parametrize(
    "answers",
    [
        [],
        [[]],
        [[1, END], []],
        [[1, END], [1, END]],
        [[1, 2], [1, 2, 3]],
        [[1, 2, 3], [1, 2]],
    ],
)
def test_ambiguous_answers_are_refused(answers):
    with pytest.raises(ValueError, match="answer"):
        AnswerTrie(answers)


def test_one_trie_serves_rows_in_any_order():
    trie = AnswerTrie(ANSWERS)
    first, second = trie.root, trie.root
    first = first.step(1)
    second = second.step(3)
    assert sorted(first.children) == [2, 5]
    assert sorted(second.children) == [7]
