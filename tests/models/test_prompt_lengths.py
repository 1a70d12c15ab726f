from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from mllmrec.errors import UserError
from mllmrec.models.prompt_lengths import check_lengths, check_question_lengths
from mllmrec.prompts.examples import CotUse
from mllmrec.prompts.questions import Questions, load_question_wording


@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize("spare", [-1, 0, 1, 3, 8, 40])
def test_prompts_are_refused_from_the_first_token_on_that_does_not_fit(tiny, make_examples, spare, asks):
    policy, examples = tiny.policy, make_examples(cot=CotUse(asks=asks))
    lengths = [len(policy.encode_prompts([examples[index].prompt])[0]) for index in range(len(examples))]
    # Each of these decides for some limits: the prompt with only the longest item, bytes, single items, the tokenizer.
    policy.max_length = max(lengths) + tiny.answers.longest + spare
    if spare >= 0:
        check_lengths(policy, tiny.answers, {"training": examples}, 0)
        return
    longest = lengths.count(max(lengths))
    with pytest.raises(UserError, match=f"^{longest} of {len(lengths)} training prompts"):
        check_lengths(policy, tiny.answers, {"training": examples}, 0)


def test_only_prompts_with_reasoning_are_looked_at_where_the_longest_item_leaves_room(tiny, make_examples):
    source = SimpleNamespace(
        reasoning=lambda key: "lamps of warm light " * 100 if key.user_id == "u1" else "lamps"
    )
    examples = make_examples(cot=CotUse(source))
    policy = tiny.policy
    plain = [len(policy.encode_prompts([examples[index].prompt])[0]) for index in range(len(examples))]
    policy.max_length = 2 * max(plain) + 20
    check_lengths(policy, tiny.answers, {"training": examples}, 0)
    users = [examples.samples.user_id(index) for index in range(len(examples))]
    examples.cot = CotUse(source, np.ones(len(examples), dtype=bool))
    with pytest.raises(
        UserError, match=f"^{users.count('u1')} of {len(users)} training prompts .* \\(sample u1"
    ):
        check_lengths(policy, tiny.answers, {"training": examples}, 0)
    seen = []
    source.reasoning = lambda key: seen.append(key.user_id) or "lamps"
    examples.cot = CotUse(source, np.arange(len(examples)) == 2)
    check_lengths(policy, tiny.answers, {"training": examples}, 0)
    assert seen == [users[2]]


def test_a_whole_catalogue_is_not_counted_where_prompts_do_not_list_it(tiny, make_examples):
    examples = make_examples(list_size=0)
    lengths = [len(tiny.policy.encode_prompts([examples[index].prompt])[0]) for index in range(len(examples))]
    tiny.policy.max_length = max(lengths) + tiny.answers.longest
    check_lengths(tiny.policy, tiny.answers, {"training": examples}, 0)


@pytest.mark.parametrize("spare", [-1, 0, 1, 3, 8])
def test_of_several_prompts_the_longest_counts(tiny, make_examples, spare):
    whole, examples = make_examples(), make_examples(list_size=2)
    lists = [part.prompt for index in range(6) for part in examples.in_lists(examples[index])]
    listed = max(map(len, tiny.policy.encode_prompts(lists)))
    assert listed + 8 < max(len(tiny.policy.encode_prompts([whole[index].prompt])[0]) for index in range(6))
    tiny.policy.max_length = listed + tiny.answers.longest + spare
    if spare >= 0:
        check_lengths(tiny.policy, tiny.answers, {"evaluation": examples}, 0)
        return
    with pytest.raises(UserError, match=f"of 6 evaluation prompts are longer .* has {listed} "):
        check_lengths(tiny.policy, tiny.answers, {"evaluation": examples}, 0)


@pytest.mark.parametrize("spare", [-1, 0, 1, 3, 8, 40])
def test_questions_are_refused_from_the_first_token_on_that_does_not_fit(tiny, make_examples, spare):
    policy, examples = tiny.policy, make_examples()
    questions = Questions(tiny.builder, load_question_wording("compact"), 3)
    lengths = []
    for index in range(len(examples)):
        example = examples[index]
        asked = [questions.prompt(example.history.tolist(), item) for item in example.candidates.tolist()]
        lengths.append(max(map(len, policy.encode_prompts(asked))))
    answer = max(map(len, policy.encode_answers(["Yes", "No"]))) + 1
    policy.max_length = max(lengths) + answer + spare
    if spare >= 0:
        check_question_lengths(policy, questions, {"training": examples})
        return
    longest = lengths.count(max(lengths))
    with pytest.raises(UserError, match=f"^{longest} of {len(lengths)} training samples have questions"):
        check_question_lengths(policy, questions, {"training": examples})
