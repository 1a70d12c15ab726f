"""The object that flows through a step: every part gets it, and returns it with fields added.

Letters: N examples, P prompts, R completions (rows), T completion tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mllmrec.engine.base import ChoiceSets, TokenScores
from mllmrec.engine.batches import TokenBatch
from mllmrec.prompts.answers import ParsedAnswer, parse_answer
from mllmrec.prompts.examples import Example
from mllmrec.prompts.naming import Naming
from mllmrec.rl.groups import Groups

POLICY = "policy"  # the source of a row that the policy drew for its own prompt


@dataclass(frozen=True)
class Question:
    """What a reward needs to know to judge a completion."""

    target_id: str
    titles: Mapping[str, str]  # candidate id -> title as the prompt shows it, in the order of its list
    places: int = 1  # items that an answer names
    naming: Naming = Naming()  # how prompt and answers name candidates

    def read(self, completion: str) -> ParsedAnswer:
        """What a completion says."""
        return parse_answer(completion, self.places, self.naming.reader(self.titles))

    def shown(self, item_id: str) -> str:
        """A candidate as the prompt shows it, such as ``[ITEM_7] Red Lamp``."""
        return self.naming.shown(item_id, self.titles)

    def well_formed(self, answer: ParsedAnswer) -> bool:
        """Whether an answer names as many items as were asked for, each once, and says nothing else."""
        named = {item for item, _ in answer.items}
        return (
            len(answer.items) == len(named) == self.places and not answer.stray_lines and not answer.unclosed
        )


@dataclass(frozen=True)
class KnownScores:
    """Scores of this batch's very completions that the rollout computed on its way, with their graph."""

    encoded: Any  # the prompts, as the engine encoded them
    scores: TokenScores | None  # (R, T)


@dataclass(frozen=True)
class RolloutBatch:
    """R completions in groups. Token tensors are on the policy's device; rewards and groups are on the CPU.

    A group's rows are compared with each other. By default a group is the completions of one example, but groups may
    differ in size, an example may have several, and a prompt may differ from its example's.
    """

    step: int
    examples: Sequence[Example]  # N
    questions: Sequence[Question]  # N
    prompts: TokenBatch  # (P, L), padded left
    prompt_of: Tensor  # (R,) the prompt that each row answers
    example_of: Tensor  # (R,) the example that it is about
    group_of: Tensor  # (R,) its group
    completions: (
        TokenBatch  # (R, T), padded right; each ends with the end-of-sequence token unless it was cut off
    )
    learnt: Tensor  # (R, T) bool: tokens that the loss covers, not those that were forced, hinted or injected
    choices: ChoiceSets | None  # the tokens that competed; None: the whole vocabulary
    finished: Tensor  # (R,) bool: the completion ended within the length limit
    texts: Sequence[str]  # R
    sources: tuple[str, ...] = ()  # R, who wrote each row; empty: the policy wrote all
    weights: Tensor | None = None  # (R,) probability of each row, if rows are all answers and not draws
    segments: Tensor | None = None  # (R, T) int, the part of the answer that each token belongs to; -1: none
    # (R,) int, the stop of each row, if a group's rows are stops on one way; rows of the same stop are its possible answers
    order: Tensor | None = None
    foreign: Tensor | None = (
        None  # (R, T) bool: learnt tokens that the policy did not draw; None: there are none
    )
    old: Tensor | None = (
        None  # (R, T) log-probabilities under whoever drew the row; None: the policy as it is now
    )
    # (R, T) log-probabilities under the server that drew the row; NaN: the policy drew the token; None: it drew all
    behaviour: Tensor | None = None
    reference: Tensor | None = None  # (R, T) log-probabilities under the reference
    teacher: Tensor | None = None  # (R, T) log-probabilities under a teacher
    rewards: Tensor | None = None  # (R,)
    place_rewards: Tensor | None = None  # (R, K) by segment, for advantages that tell segments apart
    greedy: Tensor | None = None  # (R,) reward of the greedy completion of each row's example, before shaping
    parts: Mapping[str, Tensor] = field(default_factory=dict)  # reward part -> (R,)
    advantages: Tensor | None = None  # (R,), or (R, T) if tokens differ
    pool: Mapping[str, Tensor] = field(
        default_factory=dict
    )  # what the rollout knows of each group (number of groups,)
    known: KnownScores | None = None

    def __len__(self) -> int:
        return len(self.group_of)

    @cached_property
    def groups(self) -> Groups:
        """Statistics within groups, on the CPU."""
        return Groups(self.group_of, None if self.weights is None else self.weights.cpu())

    @cached_property
    def answers(self) -> list[ParsedAnswer]:
        """R parsed texts."""
        return [
            self.questions[place].read(text)
            for text, place in zip(self.texts, self.example_of.tolist(), strict=True)
        ]

    def question(self, row: int) -> Question:
        """The question that a row answers."""
        return self.questions[int(self.example_of[row])]

    def by(self, source: str) -> Tensor:
        """(R,) bool: the rows that ``source`` wrote."""
        if not self.sources:
            return torch.full((len(self),), source == POLICY)
        return torch.tensor([own == source for own in self.sources])

    def judged(self) -> Tensor:
        """(R,) the rewards.

        Raises:
            ValueError: nothing has judged the batch yet.
        """
        if self.rewards is None:
            raise ValueError("the batch has no rewards yet")
        return self.rewards

    def take(self, rows: Tensor) -> RolloutBatch:
        """The batch with only these rows, in this order; prompts, examples and known statistics of groups stay.

        Args:
            rows: (r,) positions. Every group must keep a row.
        """
        rows = rows.cpu()
        there = rows.to(self.completions.ids.device)

        def of(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[rows if tensor.device == rows.device else there]

        places = rows.tolist()
        return replace(
            self,
            prompt_of=self.prompt_of[there],
            example_of=self.example_of[rows],
            group_of=self.group_of[rows],
            completions=TokenBatch(self.completions.ids[there], self.completions.mask[there]),
            learnt=self.learnt[there],
            choices=None if self.choices is None else self.choices.rows(there),
            finished=self.finished[there],
            texts=[self.texts[place] for place in places],
            sources=tuple(self.sources[place] for place in places) if self.sources else (),
            weights=of(self.weights),
            segments=of(self.segments),
            order=of(self.order),
            foreign=of(self.foreign),
            old=of(self.old),
            behaviour=of(self.behaviour),
            reference=of(self.reference),
            teacher=of(self.teacher),
            rewards=of(self.rewards),
            place_rewards=of(self.place_rewards),
            greedy=of(self.greedy),
            parts={name: values[rows] for name, values in self.parts.items()},
            advantages=of(self.advantages),
            known=None,
        )

    def with_segments(self, segments: Tensor) -> RolloutBatch:
        """The batch with (R, T) segments of its tokens."""
        return replace(self, segments=segments.to(self.completions.ids.device))

    def by_group(self) -> RolloutBatch:
        """The batch with each group's rows together, groups in order; the batch itself if they already are."""
        order = torch.argsort(self.group_of, stable=True)
        if torch.equal(order, torch.arange(len(order))):
            return self
        return self.take(order)


def join(batches: Sequence[RolloutBatch]) -> RolloutBatch:
    """The rows of several batches of the same step and examples as one batch, each row in the group it had.

    What only some of the batches know is dropped, and so are the scores that came with a graph and what was known of whole
    groups. A single batch is returned as it is.
    """
    first, *others = batches
    if not others:
        return first
    width = max(batch.completions.ids.shape[1] for batch in batches)
    length = max(batch.prompts.ids.shape[1] for batch in batches)
    starts = [0]
    for batch in batches[:-1]:
        starts.append(starts[-1] + len(batch.prompts.ids))

    def tokens(name: str, filling: float = 0.0) -> Tensor | None:
        parts = [getattr(batch, name) for batch in batches]
        if any(part is None for part in parts):
            return None
        return torch.cat([_widened(part, width, filling) for part in parts])

    def values(name: str) -> Tensor | None:
        parts = [getattr(batch, name) for batch in batches]
        return None if any(part is None for part in parts) else torch.cat(parts)

    learnt = tokens("learnt")
    assert learnt is not None
    shared = set.intersection(*(set(batch.parts) for batch in batches))
    return replace(
        first,
        prompts=TokenBatch(
            torch.cat([_widened(batch.prompts.ids, length, 0, left=True) for batch in batches]),
            torch.cat([_widened(batch.prompts.mask, length, 0, left=True) for batch in batches]),
        ),
        prompt_of=torch.cat([batch.prompt_of + start for batch, start in zip(batches, starts, strict=True)]),
        example_of=torch.cat([batch.example_of for batch in batches]),
        group_of=torch.cat([batch.group_of for batch in batches]),
        completions=TokenBatch(
            torch.cat([_widened(batch.completions.ids, width, 0) for batch in batches]),
            torch.cat([_widened(batch.completions.mask, width, 0) for batch in batches]),
        ),
        learnt=learnt,
        choices=_joined_choices(batches, width),
        finished=torch.cat([batch.finished for batch in batches]),
        texts=[text for batch in batches for text in batch.texts],
        sources=tuple(source for batch in batches for source in (batch.sources or (POLICY,) * len(batch)))
        if any(batch.sources for batch in batches)
        else (),
        weights=values("weights"),
        segments=tokens("segments", -1),
        order=values("order"),
        foreign=_joined_foreign(batches, width),
        old=tokens("old"),
        behaviour=_joined_behaviour(batches, width),
        reference=tokens("reference"),
        teacher=tokens("teacher"),
        rewards=values("rewards"),
        place_rewards=values("place_rewards"),
        greedy=values("greedy"),
        parts={
            name: torch.cat([batch.parts[name] for batch in batches])
            for name in first.parts
            if name in shared
        },
        advantages=None,
        pool={},
        known=None,
    )


def stack(batches: Sequence[RolloutBatch]) -> RolloutBatch:
    """Batches of the same step and different examples as one batch of all examples and groups."""
    examples = groups = 0
    moved = []
    for batch in batches:
        moved.append(replace(batch, example_of=batch.example_of + examples, group_of=batch.group_of + groups))
        examples, groups = examples + len(batch.examples), groups + batch.groups.count
    return replace(
        join(moved),
        examples=[example for batch in batches for example in batch.examples],
        questions=[question for batch in batches for question in batch.questions],
        pool={
            name: torch.cat([batch.pool[name] for batch in batches])
            for name in batches[0].pool
            if all(name in batch.pool for batch in batches)
        },
    )


def _widened(tensor: Tensor, width: int, filling: float, left: bool = False) -> Tensor:
    """(rows, w) → (rows, width)."""
    missing = width - tensor.shape[1]
    return torch.nn.functional.pad(tensor, (missing, 0) if left else (0, missing), value=filling)


def _joined_foreign(batches: Sequence[RolloutBatch], width: int) -> Tensor | None:
    """Rows that do not tell foreign tokens apart have none."""
    if all(batch.foreign is None for batch in batches):
        return None
    parts = [torch.zeros_like(one.learnt) if one.foreign is None else one.foreign for one in batches]
    return torch.cat([_widened(part, width, False) for part in parts])


def _joined_behaviour(batches: Sequence[RolloutBatch], width: int) -> Tensor | None:
    """Rows without one were drawn by the policy."""
    if all(batch.behaviour is None for batch in batches):
        return None
    parts = [
        torch.full(one.learnt.shape, math.nan, device=one.learnt.device)
        if one.behaviour is None
        else one.behaviour
        for one in batches
    ]
    return torch.cat([_widened(part, width, math.nan) for part in parts])


def _joined_choices(batches: Sequence[RolloutBatch], width: int) -> ChoiceSets | None:
    sets = [batch.choices for batch in batches]
    known = [one for one in sets if one is not None]
    if len(known) < len(sets):
        if known:
            raise ValueError(
                "rows among a few answers and rows among the whole vocabulary cannot be one batch"
            )
        return None
    most = max(one.tokens.shape[1] for one in known)
    starts, start = [], 0
    for one in known:
        starts.append(start)
        start += len(one.tokens)
    moved = [
        torch.where(one.set_of >= 0, one.set_of + offset, one.set_of)
        for one, offset in zip(known, starts, strict=True)
    ]
    return ChoiceSets(
        torch.cat([_widened(one, width, -1) for one in moved]),
        torch.cat([_widened(one.tokens, most, -1) for one in known]),
    )
