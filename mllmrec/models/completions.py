"""The tokens that a policy learns to write after the prompt of an example."""

from __future__ import annotations

from collections.abc import Sequence

from mllmrec.models.policy import Policy
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.prompts.answers import split_reasoning
from mllmrec.prompts.examples import Example


def learnt_tokens(
    policy: Policy, answers: AnswerTokens, examples: Sequence[Example]
) -> tuple[list[list[int]], list[int]]:
    """Tokens of the completions to learn.

    Args:
        policy: supplies the tokenizer.
        answers: tokens of every item's answer.
        examples: N examples.

    Returns:
        N lists that end with the end token, or with the closing tag of a profile, and where the answer begins in each: behind
        the reasoning, if there is any.
    """
    tokens = [answers.among(one.candidates.tolist(), [one.target])[0] for one in examples]
    begins = [0] * len(examples)
    own = [place for place, example in enumerate(examples) if example.reasoned_answer]
    texts = [_answer(examples[place]) for place in own]
    for place, answer in zip(own, policy.encode_answers(texts) if texts else [], strict=True):
        tokens[place] = [*answer, policy.end_token]
    own = [place for place, example in enumerate(examples) if example.reasoning]
    if own:
        words = policy.reasoning_tokens()
        encoded = policy.encode_answers([examples[place].reasoning for place in own])
        for place, reasoning in zip(own, encoded, strict=True):
            if examples[place].profile_only:
                tokens[place] = words.profile(reasoning)
                begins[place] = len(tokens[place])
                continue
            whole = words.whole(reasoning, tokens[place])
            begins[place] = len(whole) - len(tokens[place])
            tokens[place] = whole
    return tokens, begins


def _answer(example: Example) -> str:
    """What is to be learnt behind the reasoning."""
    return split_reasoning(example.reasoned_answer)[1] if example.reasoning else example.reasoned_answer
