"""Samples as the training phases see them: prompt text, target and candidates, built on request."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from mllmrec.data.splits import Samples
from mllmrec.prompts.answers import reasoned
from mllmrec.prompts.builder import PromptBuilder
from mllmrec.prompts.keys import CotKey, Reasoning
from mllmrec.prompts.profiles import SecondPrompt

CandidatesOf = Callable[[int], tuple[np.ndarray, int]]  # sample index -> (C,) item codes, the target's column


def _empty() -> np.ndarray:
    return np.empty(0, dtype=np.int32)


@dataclass(frozen=True)
class Example:
    """One sample ready for the model."""

    sample_id: str
    user_id: str
    prompt: str
    target: int  # item code
    candidates: np.ndarray  # (C,) item codes
    target_column: int
    has_reasoning: bool  # the sample carries reasoning, in the prompt or to be learnt
    # What is to be learnt in place of the target's plain answer: one with reasoning in front, or a ranked list.
    reasoned_answer: str = ""
    reasoning: str = ""  # the part of it that stands before the answer, without tags
    places: int = 1  # items that an answer names
    history: np.ndarray = field(default_factory=_empty)  # all item codes before the target, oldest first
    hint: str = ""  # the reasoning shown in the prompt
    # The prompt that asks for the answer, if the example's own asks for a profile.
    second: SecondPrompt | None = None
    profile_only: bool = False  # whether the profile is to be learnt, and no answer

    def lessons(self) -> list[Example]:
        """What SFT learns of it: itself, or how to write the profile and, apart from that, how to answer after it."""
        if self.second is None or not self.reasoning:
            return [self]
        answering = replace(
            self, prompt=self.second.about(self.reasoning), reasoned_answer="", reasoning="", second=None
        )
        return [replace(self, profile_only=True), answering]


@dataclass(frozen=True)
class CotUse:
    """Which of S samples carry reasoning, and where it stands.

    Args:
        source: writes the reasoning; None: no sample carries any.
        chosen: (S,) bool: the samples that carry it; None: none does.
        placement: as a hint in the prompt; before the answer, to be learnt; or as a profile, to be learnt as well, which
            takes the place of the history in a second prompt.
        asks: whether prompts without reasoning ask for reasoning before the answer.
    """

    source: Reasoning | None = None
    chosen: np.ndarray | None = None
    placement: Literal["prompt", "completion", "profile"] = "prompt"
    asks: bool = False


class Examples:
    """The examples of one split, by position. None is kept in memory, so a million samples take no memory."""

    def __init__(
        self,
        samples: Samples,
        builder: PromptBuilder,
        candidates_of: CandidatesOf,
        *,
        history_length: int,
        list_size: int | None = None,
        cot: CotUse = CotUse(),
        split: str = "train",
    ) -> None:
        """Set up the examples.

        Args:
            samples: the S samples.
            builder: writes the prompts.
            candidates_of: draws or looks up the candidates of a sample.
            history_length: how many items of history are shown.
            list_size: how many candidates each of several prompts lists at most (`in_lists`); 0: none; None: one prompt
                lists all of them.
            cot: which samples carry reasoning, and where it stands.
            split: the split of the samples: train, validation or test.
        """
        self.samples, self.builder, self.candidates_of = samples, builder, candidates_of
        self.history_length, self.list_size = history_length, list_size
        self.cot, self.split = cot, split

    def asking(self) -> Examples:
        """These examples, with prompts that all ask for reasoning before the answer."""
        other = copy.copy(self)
        other.cot = replace(self.cot, asks=True)
        return other

    def __len__(self) -> int:
        return len(self.samples)

    def cot_key(self, index: int) -> CotKey:
        """The key of a sample's reasoning: its split, its user, the history shown, and its target."""
        samples, ids = self.samples, self.builder.ids
        history = samples.history(index, self.history_length)
        return CotKey(
            samples.user_id(index),
            tuple(ids[item] for item in history),
            ids[samples.target(index)],
            samples.sample_id(index),
            self.split,
        )

    @property
    def carriers(self) -> np.ndarray:
        """(S,) bool: the samples chosen to carry reasoning."""
        chosen = self.cot.chosen
        return np.zeros(len(self), dtype=bool) if chosen is None else chosen

    def reasoning(self, index: int) -> str | None:
        """The reasoning that a sample carries; None if it was not chosen or has no reasoning."""
        if self.cot.chosen is None or not self.cot.chosen[index]:
            return None
        return self.written(index)

    def written(self, index: int) -> str | None:
        """The reasoning of a sample, chosen or not; None if there is none."""
        source = self.cot.source
        return None if source is None else source.reasoning(self.cot_key(index))

    def __getitem__(self, index: int) -> Example:
        return self.with_reasoning(index, self.reasoning(index))

    def without_prompt(self, index: int) -> Example:
        """The example for those who read no prompt: its text is empty, and it carries no reasoning."""
        samples = self.samples
        candidates, column = self.candidates_of(index)
        return Example(
            sample_id=samples.sample_id(index),
            user_id=samples.user_id(index),
            prompt="",
            target=samples.target(index),
            candidates=candidates,
            target_column=column,
            has_reasoning=False,
            places=self.builder.places,
            history=samples.history(index),
        )

    def with_reasoning(self, index: int, reasoning: str | None) -> Example:
        """The example with this reasoning (None: without reasoning), whatever was chosen for the sample."""
        samples = self.samples
        history = samples.history(index, self.history_length)
        candidates, column = self.candidates_of(index)
        learnt = bool(reasoning) and self.cot.placement != "prompt"
        said = self._said(index, reasoning, candidates) if learnt and reasoning else ""
        asks = learnt or (self.cot.asks and not reasoning)
        second = self._second(candidates) if asks else None
        if second is not None:
            prompt = self.builder.describing_prompt(history.tolist())
        else:
            prompt = self.builder.prompt(
                history.tolist(),
                candidates.tolist() if self.list_size is None else None,
                None if learnt else reasoning,
                think=asks,
            )
        return Example(
            sample_id=samples.sample_id(index),
            user_id=samples.user_id(index),
            prompt=prompt,
            target=samples.target(index),
            candidates=candidates,
            target_column=column,
            has_reasoning=bool(reasoning),
            reasoned_answer=self._to_learn(index, candidates, column, said),
            reasoning=said,
            places=self.builder.places,
            history=samples.history(index),
            hint="" if learnt or not reasoning else reasoning,
            second=second,
        )

    def _second(self, candidates: np.ndarray) -> SecondPrompt | None:
        """The prompt after a profile; None if reasoning stands elsewhere."""
        if self.cot.placement != "profile":
            return None
        return SecondPrompt(self.builder, candidates, lists=self.list_size != 0)

    def _said(self, index: int, reasoning: str, candidates: np.ndarray) -> str:
        """The reasoning as it is learnt, with the listed candidates that it names."""
        source, ids = self.cot.source, self.builder.ids
        if source is None or self.list_size is not None or self.cot.placement == "profile":
            return self.builder.clean(reasoning)
        columns = source.closest(self.cot_key(index), [ids[item] for item in candidates])
        return self.builder.naming_closest(reasoning, candidates.tolist(), columns)

    def _to_learn(self, index: int, candidates: np.ndarray, column: int, reasoning: str) -> str:
        """The answer to learn, if it differs from the target's plain one."""
        target, builder = self.samples.target(index), self.builder
        if builder.places == 1 and not reasoning:
            return ""
        answer = builder.answer(target, column)
        if builder.places > 1:
            answer = builder.ranked_answer(target, candidates.tolist())
        return reasoned(reasoning, answer) if reasoning else answer

    def reworded(self, example: Example, *, history: bool = True, order: np.ndarray | None = None) -> Example:
        """The example with another prompt about the same candidates.

        Args:
            example: one of these, or a part that lists some of its candidates.
            history: whether the prompt shows the history, and the reasoning about it that the example's prompt shows.
            order: (C,) the old column of the candidate in each new one; None: as they are.
        """
        shown = self.shown(example) if history else []
        candidates, column = example.candidates, example.target_column
        if order is not None:
            candidates = candidates[order]
            column = int(np.flatnonzero(order == column)[0]) if column >= 0 else column
        if example.second is not None:
            prompt, second = self.builder.describing_prompt(shown), example.second.listing(candidates)
        else:
            second = None
            prompt = self.builder.prompt(
                shown,
                None if self.list_size == 0 else candidates.tolist(),
                (example.hint or None) if history else None,
                self.cot.asks and not example.hint,
            )
        return replace(example, prompt=prompt, candidates=candidates, target_column=column, second=second)

    def shown(self, example: Example) -> list[int]:
        """The item codes of the history that the example's prompt shows, oldest first."""
        return example.history[-self.history_length :].tolist()

    def with_history(self, example: Example, history: Sequence[int]) -> Example:
        """The example with a prompt that shows these item codes as its history, and no reasoning about any other."""
        if example.second is not None:
            return replace(example, prompt=self.builder.describing_prompt(history), hint="")
        prompt = self.builder.prompt(
            history,
            None if self.list_size == 0 else example.candidates.tolist(),
            think=self.builder.asks_for_reasoning(example.prompt),
        )
        return replace(example, prompt=prompt, hint="")

    def described(self, item: int) -> tuple[str, str]:
        """An item's label, and its title and caption as prompts show them."""
        return self.builder.label(item), self.builder.described(item)

    def in_lists(self, example: Example) -> list[Example]:
        """The example as it is shown: itself, or with ``list_size`` one example for each list of its candidates.

        The lists are as few as possible and of similar lengths. They take the candidates in their stored order, which
        carries no information. If the target is not among an example's candidates, its column is -1.
        """
        if not self.list_size:
            return [example]
        shown = self.shown(example)
        asks = self.cot.asks and not example.hint
        parts, start = [], 0
        for listed in np.array_split(example.candidates, -(-len(example.candidates) // self.list_size)):
            column = example.target_column - start
            second = None if example.second is None else example.second.listing(listed)
            prompt = example.prompt
            if second is None:
                prompt = self.builder.prompt(shown, listed.tolist(), example.hint or None, asks)
            parts.append(
                replace(
                    example,
                    prompt=prompt,
                    second=second,
                    candidates=listed,
                    target_column=column if 0 <= column < len(listed) else -1,
                )
            )
            start += len(listed)
        return parts


class Forms:
    """Both forms of each example: code i is sample i without reasoning, code S + i is sample i with it."""

    def __init__(self, examples: Examples) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return 2 * len(self.examples)

    def __getitem__(self, code: int) -> Example:
        examples = self.examples
        carries, index = divmod(code, len(examples))
        return examples.with_reasoning(index, examples.written(index) if carries else None)
