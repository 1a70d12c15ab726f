"""The interface of rollouts: how the policy's completions of a step's examples come about."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from mllmrec.engine.base import ChoiceSets, Engine, TokenScores
from mllmrec.engine.batches import TokenBatch
from mllmrec.prompts.examples import Example
from mllmrec.prompts.reasoning_tokens import ReasoningTokens
from mllmrec.rl.batch import RolloutBatch
from mllmrec.rl.parts import Part
from mllmrec.rollout.written import Wanted, Written

Judge = Callable[[RolloutBatch], RolloutBatch]  # fills in rewards and their parts


@dataclass(frozen=True)
class Turn:
    """The step in which a rollout is asked for completions."""

    step: int  # from 0 on
    group_size: int  # G
    gradients: bool = False  # whether scores that the draw computes anyway keep their graph for the update
    greedy: bool = False  # whether each token is the most likely one, and none is drawn


class Histories(Protocol):
    """Writes prompts about other histories; `mllmrec.prompts.examples.Examples` does."""

    def shown(self, example: Example) -> list[int]:
        """The item codes of the history that an example's prompt shows, oldest first."""
        ...

    def with_history(self, example: Example, history: Sequence[int]) -> Example:
        """The example with a prompt that shows these item codes as its history, and no reasoning about any other."""
        ...

    def described(self, item: int) -> tuple[str, str]:
        """An item's label, and its title and caption as prompts show them."""
        ...


class Speaker(Protocol):
    """The policy as a rollout meets it. `mllmrec.step.speaker` has the real one."""

    @property
    def histories(self) -> Histories:
        """Writes prompts about other histories."""
        ...

    def complete(
        self,
        examples: Sequence[Example],
        turn: Turn,
        *,
        which: Sequence[int] | None = None,
        prompts: Sequence[str] | None = None,
        round_: str | int = 0,
        source: str = ...,
        draw: PlainRollout | None = None,
    ) -> RolloutBatch:
        """G completions of each prompt.

        Args:
            examples: the N examples of the step.
            turn: the step.
            which: (B,) the examples to complete; None: all, in order.
            prompts: (B,) texts to complete in place of the examples' own prompts.
            round_: names the draw, if the step draws more than once for an example.
            source: who counts as the rows' writer.
            draw: how; None: as the rollout's own draw does.
        """
        ...

    def fits(self, prompts: Sequence[str]) -> list[bool]:
        """Whether the policy takes each of these prompts, with the longest answer after it."""
        ...

    def go_on(
        self,
        batch: RolloutBatch,
        rows: Sequence[int],
        kept: Sequence[int],
        inserted: Sequence[str],
        turn: Turn,
        *,
        round_: str | int,
        source: str = ...,
    ) -> RolloutBatch:
        """Rows that are cut off, are told something, and go on from there under their own prompts.

        Args:
            batch: draws of this speaker.
            rows: (r,) positions in it.
            kept: (r,) how many tokens of each stay. If the rollout reasons, they end within the reasoning. If it draws
                lists, they end with an item, after equally many items in all rows.
            inserted: (r,) the text behind them; its tokens are learnt and ``foreign``.
            turn: the step; each row goes on once.
            round_: names the draw.
            source: who counts as the rows' writer.
        """
        ...

    def pieces(self, batch: RolloutBatch) -> list[list[str]]:
        """The text of each token of each completion; the end token has none."""
        ...

    def score(self, batch: RolloutBatch, *, prompts: Sequence[str] | None = None) -> Tensor:
        """(R, T) log-probabilities of a batch's learnt tokens under the policy as it is now, without a graph.

        Args:
            batch: the completions.
            prompts: (P,) texts that take the places of the batch's prompts; None: its own.
        """
        ...


@dataclass(frozen=True)
class Spelling:
    """The token ids of what a rollout does not leave to the policy."""

    end: int  # ends a completion
    # Per prompt, the token ids of every candidate's answer with the end token; empty if answers are not constrained. In
    # ranked lists these are lines without their place.
    answers: Sequence[Sequence[Sequence[int]]] = ()
    reasoning: ReasoningTokens | None = None  # None if the rollout does not reason
    leads: Sequence[Sequence[int]] = ()  # what stands in front of each place of a ranked list
    written: Written | None = None  # what a server has drawn, if the rollout is ``by_server``


@dataclass(frozen=True)
class Completions:
    """What one draw returns: `PlainRollout.rows` completions of each prompt, prompt by prompt."""

    tokens: TokenBatch  # (R, T), padded right; each ends with the end-of-sequence token unless cut off
    prompt_of: Tensor  # (R,)
    decisions: Tensor  # (R, T) bool: tokens that were drawn and not forced
    choices: ChoiceSets | None  # the tokens that competed; None: the whole vocabulary
    finished: Tensor  # (R,) bool: the completion ended within the length limit
    weights: Tensor | None = None  # (R,) probability of each row, if rows are all answers and not draws
    scores: TokenScores | None = None  # (R, T) if already known; with a graph if gradients were on
    segments: Tensor | None = None  # (R, T) as in `RolloutBatch`, if the draw knows them
    behaviour: Tensor | None = None  # (R, T) as in `RolloutBatch`, if a server drew tokens
    order: Tensor | None = None  # (R,) as in `RolloutBatch`, if the rollout ``gives_order``
    generated: int | None = (
        None  # tokens written one after another; None: those of all rows, or none if rows have weights
    )


class Rollout(Part, ABC):
    """Makes the completions of a step's examples. It may draw in rounds, judge in between and bring its own prompts."""

    off_policy: ClassVar[bool] = (
        False  # whether some rows were not drawn from the policy and prompt they are learnt with
    )
    judges: ClassVar[bool] = False  # whether the rewards that it fills in are final
    several_groups: ClassVar[bool] = False  # whether an example has several groups

    inserts: ClassVar[bool] = (
        False  # whether some learnt tokens are ``foreign``, so that the loss must weigh them
    )
    parts: ClassVar[tuple[str, ...]] = ()  # what it fills into the batch's ``parts``

    @property
    @abstractmethod
    def plain(self) -> PlainRollout:
        """The draw that it is made of."""

    @property
    def layers(self) -> list[Rollout]:
        """Itself and the rollouts inside, from the outermost to the draw."""
        return [self]

    @abstractmethod
    def __call__(
        self, examples: Sequence[Example], speaker: Speaker, judge: Judge, turn: Turn
    ) -> RolloutBatch:
        """The completions of N examples.

        Rows may come in any order and in groups of any size. A rollout that is ``off_policy`` fills in ``old``.
        """


class PlainRollout(Rollout):
    """Draws once, G completions of each prompt. The log-probabilities in the loss use the same ``temperature``."""

    constrained: bool  # whether only the candidates' answers are possible
    lists: bool = False  # whether answers are ranked lists
    reasons: bool = False  # whether the policy reasons before it answers
    describes: bool = False  # whether it writes profiles, which are shown in second prompts
    every_answer: bool = False  # whether every candidate's answer is a row, weighted by its probability
    gives_order: bool = False  # whether a group's rows are stops on one way
    by_server: bool = False  # whether a server may draw the tokens that come one after another
    temperature: float  # 0: each token is the most likely one
    max_new_tokens: int | None  # the longest completion; None: as long as the longest answer

    @property
    def plain(self) -> PlainRollout:
        """Itself."""
        return self

    def greedy(self) -> PlainRollout:
        """The same rollout, which takes the most likely token each time."""
        other = copy.copy(self)
        other.temperature = 0.0
        return other

    def wanted(self, spelling: Spelling) -> Wanted:
        """What a server has to write; `draw` finds it in ``spelling.written``. Only a rollout ``by_server`` has this."""
        raise NotImplementedError(f"{type(self).__name__} needs the policy's own probabilities")

    def rows(self, group_size: int, candidates: int) -> int:
        """How many completions a prompt with C candidates gets for a ``group_size``."""
        return candidates if self.every_answer else group_size

    def longest(self, answer: int, around: int) -> int:
        """The most tokens of a completion.

        Args:
            answer: of the longest answer, with the end token.
            around: of the tags around reasoning.
        """
        return self.max_new_tokens or answer

    def __call__(
        self, examples: Sequence[Example], speaker: Speaker, judge: Judge, turn: Turn
    ) -> RolloutBatch:
        """One draw."""
        return speaker.complete(examples, turn)

    @abstractmethod
    def draw(
        self,
        engine: Engine,
        model: Any,
        encoded: Any,
        group_size: int,
        generators: Sequence[torch.Generator],
        spelling: Spelling,
    ) -> Completions:
        """Complete each of B prompts.

        Args:
            engine: runs the model.
            model: a causal language model.
            encoded: the prompts, as the engine encoded them.
            group_size: G.
            generators: one for each prompt, on the CPU. All draws come from them, so a prompt's completions do not
                depend on its batch.
            spelling: tokens of answers and tags.
        """


class WrappedRollout(Rollout):
    """A rollout made of draws by another one, its ``inner``."""

    takes_rounds: ClassVar[bool] = False  # whether the one inside may itself be made of several draws

    def __init__(self, inner: Rollout) -> None:
        """Take the rollout inside.

        Raises:
            ValueError: it draws in rounds, or from another policy, and this one cannot go on from that.
        """
        if not self.takes_rounds and isinstance(inner, WrappedRollout):
            raise ValueError(
                f"the rollout inside is {type(inner).__name__}, which is made of draws itself: choose one that draws once"
            )
        if inner.off_policy:
            raise ValueError(
                f"the rollout inside is {type(inner).__name__}, which draws from another policy: choose another one"
            )
        self.inner = inner

    @property
    def layers(self) -> list[Rollout]:
        """See `Rollout`."""
        return [self, *self.inner.layers]

    @property
    def plain(self) -> PlainRollout:
        """The rollout inside."""
        return self.inner.plain
