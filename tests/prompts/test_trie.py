from __future__ import annotations

import pytest

from mllmrec.prompts.trie import AnswerTrie, UnknownPrefix, choice_sets

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


def test_leaves_know_their_answer():
    trie = AnswerTrie(ANSWERS)
    assert [trie.walk(answer).answer for answer in ANSWERS] == [0, 1, 2]


def test_choice_sets_share_prefixes_and_tell_choices_from_forced_tokens():
    trie, other = AnswerTrie(ANSWERS), AnswerTrie([[1, 2, END], [1, 3, END]])
    paths = [*ANSWERS, [1, 2, END]]
    choices, decisions = choice_sets([trie, trie, trie, other], paths)

    def competing(row, place):
        tokens = choices.tokens[choices.set_of[row, place]]
        return tokens[tokens >= 0].tolist()

    assert [competing(0, place) for place in range(3)] == [[1, 3], [2, 5], [END]]
    assert [competing(1, place) for place in range(4)] == [[1, 3], [2, 5], [4], [END]]
    assert [competing(3, place) for place in range(3)] == [[1], [2, 3], [END]]  # forced before the choice
    assert decisions.tolist() == [
        [True, True, False, False],
        [True, True, False, False],
        [True, False, False, False],
        [False, True, False, False],
    ]
    assert choices.set_of[0, 0] == choices.set_of[1, 0] == choices.set_of[2, 0]
    assert choices.set_of[0, 0] != choices.set_of[3, 0]
    assert choices.set_of[0, 3] == -1  # after the end of the path


def test_a_path_that_is_no_answer_has_no_choices():
    with pytest.raises(UnknownPrefix):
        choice_sets([AnswerTrie(ANSWERS)], [[1, 7, END]])


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
