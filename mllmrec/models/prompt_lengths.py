"""Checks before any training that all prompts of a run fit the backbone.

A prompt has H items of history and C candidates. One prompt with only the longest item is an upper bound for all prompts
without reasoning. Single prompts are checked only if this one does not fit, or if they carry reasoning. Questions, which show
one candidate each, are checked the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from mllmrec.engine.base import Engine
from mllmrec.errors import UserError
from mllmrec.models.policy import Policy
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.prompts.builder import PromptBuilder
from mllmrec.prompts.examples import Example, Examples
from mllmrec.prompts.markup import LABEL_BEGINS, LINE_BEGINS
from mllmrec.prompts.questions import Questions
from mllmrec.screen.progress import track

_ENCODED_AT_ONCE = 1024


def keep_to_engine(policy: Policy, engine: Engine) -> None:
    """Lower the policy's limit if the engine takes less of its model: with attention that slides."""
    longest = engine.longest(policy.model)
    if longest is not None and longest < policy.max_length:
        policy.max_length = longest
        policy.remedy = "set engine=plain (the default engine stays inside the model's sliding window)"


def check_lengths(
    policy: Policy, answers: AnswerTokens, parts: dict[str, Examples], longest_completion: int
) -> None:
    """Refuse prompts that the backbone cannot hold.

    Args:
        policy: the policy that supplies tokenizer and limit.
        answers: the policy's answer tokens.
        parts: every set of prompts that the run will show, by its purpose.
        longest_completion: the most tokens of a rollout.

    Raises:
        UserError: some prompts are too long; it says how many, and how long the longest is.
    """
    limit = policy.max_length - policy.reserved - max(longest_completion, answers.longest)
    bounds = _Bounds(policy)
    for name, examples in parts.items():
        too_long, longest, sample = 0, 0, ""
        doubtful = _doubtful(examples, bounds, limit)
        for index in track(doubtful, f"check {name} prompts", len(doubtful), "prompts"):
            length = max(_length(policy, bounds, part, limit) for part in examples.in_lists(examples[index]))
            too_long += length > limit
            if length > longest:
                longest, sample = length, examples.samples.sample_id(index)
        if too_long:
            raise UserError(
                f"{too_long} of {len(examples)} {name} prompts are longer than the backbone holds beside an answer "
                f"({limit} of {policy.max_length} tokens{_reserved(policy)}); the longest has {longest} (sample {sample}): lower "
                "prompt.history_length, prompt.max_title_words, prompt.max_caption_words, prompt.max_detail_words or "
                f"candidates.num_negatives, or {policy.remedy}"
            )


def _reserved(policy: Policy) -> str:
    return (
        f", of which training_free.most_tokens={policy.reserved} are for experience"
        if policy.reserved
        else ""
    )


def check_question_lengths(policy: Policy, questions: Questions, parts: dict[str, Examples]) -> None:
    """Refuse yes-or-no questions that the backbone cannot hold.

    Args:
        policy: the policy that supplies tokenizer and limit.
        questions: the questions about every candidate of the examples.
        parts: every set of examples that the run will ask about, by its purpose.

    Raises:
        UserError: some samples have too long a question; it says how many, and how long the longest is.
    """
    words = policy.encode_answers([questions.positive, questions.negative])
    limit = policy.max_length - max(map(len, words)) - 1  # the end token
    bounds = _Bounds(policy)
    if bounds.of_plain(questions.builder, questions.history_length, 1) <= limit:
        return
    for name, examples in parts.items():
        too_long, longest, sample = 0, 0, ""
        for index in track(range(len(examples)), f"check {name} questions", len(examples), "samples"):
            history = examples.samples.history(index).tolist()
            asked = [questions.prompt(history, item) for item in examples.candidates_of(index)[0].tolist()]
            doubtful = [prompt for prompt in asked if bounds.of_prompt(prompt) > limit]
            own = max(map(len, policy.encode_prompts(doubtful))) if doubtful else 0
            too_long += own > limit
            if own > longest:
                longest, sample = own, examples.samples.sample_id(index)
        if too_long:
            raise UserError(
                f"{too_long} of {len(examples)} {name} samples have questions that are longer than the backbone holds "
                f"beside Yes or No ({limit} of {policy.max_length} tokens); the longest has {longest} (sample {sample}): "
                "lower prompt.history_length, prompt.max_title_words, prompt.max_caption_words or prompt.max_detail_words, or "
                f"{policy.remedy}"
            )


def _doubtful(examples: Examples, bounds: _Bounds, limit: int) -> Sequence[int]:
    """Positions of the samples whose prompts may be too long."""
    if len(examples) == 0:
        return []
    candidates, _ = examples.candidates_of(0)  # C is the same for all samples where prompts list them
    count = len(candidates) if examples.list_size is None else examples.list_size or None
    if bounds.of_plain(examples.builder, examples.history_length, count, examples.cot.asks) > limit:
        return range(len(examples))
    return [] if examples.cot.source is None else np.flatnonzero(examples.carriers).tolist()


def _length(policy: Policy, bounds: _Bounds, example: Example, limit: int) -> int:
    """Tokens of a prompt and its reasoned answer; 0 if an upper bound already keeps to the limit.

    A profile counts with its second prompt as well.
    """
    if example.second is not None:
        second = replace(example, prompt=example.second.about(example.reasoning), second=None)
        without = replace(second, reasoned_answer="", reasoning="")
        first = _length(policy, bounds, replace(example, second=None), limit)
        return max(first, _length(policy, bounds, without, limit))
    # A token of the answer covers at least one byte. Most prompts need no tokenizer. In long prompts the items are counted
    # one by one, since the same items appear in many prompts.
    room = limit - len(example.reasoned_answer.encode()) - 3 * bool(example.reasoning)
    if policy.most_tokens(example.prompt) <= room or bounds.of_prompt(example.prompt) <= room:
        return 0
    length = len(policy.encode_prompts([example.prompt])[0])
    if example.reasoned_answer:
        length += len(policy.encode_answers([example.reasoned_answer])[0])
    # The parts of a completion with reasoning are encoded one by one, which may take a token more at each border.
    return length + 3 * bool(example.reasoning)


class _Bounds:
    """Upper bounds on the number of tokens in prompts."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._tokens_of = lru_cache(maxsize=1 << 17)(self._count)
        self._longest: dict[PromptBuilder, tuple[int, int]] = {}

    def of_prompt(self, prompt: str) -> int:
        """The bound for one prompt, counted item by item, or line by line if it has no labels of items."""
        text = self.policy.render(prompt)
        pieces = LABEL_BEGINS if LABEL_BEGINS.search(text) else LINE_BEGINS
        return sum(map(self._tokens_of, pieces.split(text)))

    def of_plain(
        self, builder: PromptBuilder, history_length: int, candidates: int | None, asks: bool = False
    ) -> int:
        """The bound for all prompts without reasoning and with at most so many items; None for no list of candidates."""
        if builder not in self._longest:
            items = range(len(builder.ids))
            in_history = self._longest_of([builder.prompt([item], None) for item in items])
            in_list = self._longest_of([builder.prompt([], [item]) for item in items])
            self._longest[builder] = in_history, in_list
        in_history, in_list = self._longest[builder]
        listed = None if candidates is None else [in_list] * candidates
        return self.of_prompt(builder.prompt([in_history] * history_length, listed, think=asks))

    def _longest_of(self, prompts: Sequence[str]) -> int:
        blocks = range(0, len(prompts), _ENCODED_AT_ONCE)
        lengths = [
            len(row)
            for start in blocks
            for row in self.policy.encode_rendered(list(prompts[start : start + _ENCODED_AT_ONCE]))
        ]
        return int(np.argmax(lengths))

    def _count(self, piece: str) -> int:
        return len(self.policy.encode_rendered([piece])[0]) + 1  # one to spare, for the seam
