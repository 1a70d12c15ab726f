"""The tokens that a policy learns to write after the prompt of an example."""

from __future__ import annotations

from collections.abc import Sequence

from mllmrec.models.policy import Policy
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.prompts.answers import split_reasoning
from mllmrec.prompts.examples import Example
from mllmrec.prompts.markup import THINK_CLOSE


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
    texts = [_parts(examples[place]) for place in own]
    said = policy.encode_answers([answer for _, answer in texts]) if texts else []
    for place, (front, _), answer in zip(own, texts, said, strict=True):
        before = policy.encode_answers([front])[0] if front else []
        tokens[place], begins[place] = [*before, *answer, policy.end_token], len(before)
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


def _parts(example: Example) -> tuple[str, str]:
    """What is to be learnt, but for reasoning of the usual form: what stands in front of the answer, and the answer.

    A policy may have drawn reasoning that is empty, or closed it in a way of its own. It is learnt as it stands.
    """
    if example.reasoning:
        return "", split_reasoning(example.reasoned_answer)[1]
    reasoning, closed, answer = example.reasoned_answer.partition(THINK_CLOSE)
    if not closed:
        return "", reasoning
    said = answer.lstrip("\n")
    return reasoning + closed + answer[: len(answer) - len(said)], said
