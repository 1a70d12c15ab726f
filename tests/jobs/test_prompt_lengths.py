from __future__ import annotations

import pytest

from mllmrec.errors import UserError
from mllmrec.language_model_job import check_lengths


@pytest.mark.parametrize("spare", [-1, 0, 1, 3, 8, 40])
def test_prompts_are_refused_from_the_first_token_on_that_does_not_fit(tiny, make_examples, spare):
    policy, examples = tiny.policy, make_examples()
    lengths = [len(policy.encode_prompts([examples[index].prompt])[0]) for index in range(len(examples))]
    # Bytes alone, the items one by one, and the tokenizer decide for some of these limits each.
    policy.max_length = max(lengths) + tiny.answers.longest + spare
    if spare >= 0:
        check_lengths(policy, tiny.answers, {"training": examples}, 0)
        return
    longest = lengths.count(max(lengths))
    with pytest.raises(UserError, match=f"^{longest} of {len(lengths)} training prompts"):
        check_lengths(policy, tiny.answers, {"training": examples}, 0)
