"""Ranks candidates by their exact probability after reasoning or a profile that the policy writes first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mllmrec.engine.base import Engine
from mllmrec.evaluation.ranking import RankedExample, ScoringRanker, ranked_by_score, scores_behind
from mllmrec.models.policy import Policy
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.prompts.examples import Example
from mllmrec.prompts.markup import THINK_CLOSE
from mllmrec.randomness import numpy_generator, torch_generator
from mllmrec.rollout.base import Spelling
from mllmrec.rollout.profiled import second_prompts
from mllmrec.rollout.reasoned import Reasoned

Shown = Literal["own", "none", "swapped", "shuffled"]
CHANGES: tuple[Shown, ...] = ("none", "swapped", "shuffled")


class AfterReasoning(ScoringRanker):
    """Draws k pieces of reasoning for each user, and ranks by the mean probability of each candidate after them.

    With one piece it is the most likely one, token by token; more are drawn at temperature 1. What stands before the answer
    can be changed, to see what the reasoning is worth: ``none`` closes it at once, ``swapped`` takes that of another user,
    ``shuffled`` puts its words in another order. Only in a batch of a single user that is the first one, a user keeps its own.
    """

    def __init__(
        self,
        policy: Policy,
        answers: AnswerTokens,
        engine: Engine,
        seed: int,
        *,
        samples: int = 1,
        max_tokens: int = 64,
        shown: Shown = "own",
    ) -> None:
        """Set how to rank.

        Args:
            policy: the policy.
            answers: the policy's answer tokens.
            engine: runs the policy's model.
            seed: of the draws, and of the permutations that break ties.
            samples: pieces of reasoning for each user, k.
            max_tokens: the longest reasoning, with its closing tag; longer reasoning is closed by force.
            shown: what stands before the answer.
        """
        super().__init__(policy, answers, engine)
        self.seed, self.samples, self.shown = seed, samples, shown
        temperature = 0.0 if samples == 1 else 1.0
        self.rollout = Reasoned("enumerated", temperature, max_tokens)
        self.words = policy.reasoning_tokens()
        self.in_order = shown == "swapped"
        self._before: _Pieces | None = None  # the last user of earlier batches, whose reasoning is lent

    def scores(self, examples: Sequence[Example]) -> list[np.ndarray]:
        """For each example (C,) logarithms of mean probabilities, float64."""
        return self.explained(examples)[0]

    def rank(self, examples: Sequence[Example]) -> list[RankedExample]:
        """Rank one batch; the text of each result is what stands before its answers."""
        scores, said = self.explained(examples)
        return [
            replace(ranked, text="\n\n".join(pieces))
            for ranked, pieces in zip(ranked_by_score(scores, examples, self.seed), said, strict=True)
        ]

    def explained(self, examples: Sequence[Example]) -> tuple[list[np.ndarray], list[tuple[str, ...]]]:
        """The scores, and for each example the k texts that stand before its answers, without tags."""
        model = self.policy.model
        encoded = self.engine.encode(model, self.policy.prompt_batch([one.prompt for one in examples]))
        options = [self.answers.among(one.candidates.tolist()) for one in examples]
        spelling = Spelling(self.policy.end_token, options, self.words)
        if self.shown == "none":
            said: list[list[int]] = [[] for _ in range(len(examples) * self.samples)]
            closed = [False] * len(said)
        else:
            generators = [torch_generator(self.seed, "reasoning", one.sample_id) for one in examples]
            said, closed = self.rollout.reason(
                self.engine, model, encoded, self.samples, generators, spelling
            )
            self.generated_tokens += sum(map(len, said))
            said, closed = self._changed(said, closed, examples)
        if any(one.second is not None for one in examples):
            weights = self._after_profiles(examples, said, options)
        else:
            rows = self.rollout.answers_after(
                self.engine, model, encoded, said, closed, self.samples, spelling
            )
            assert rows.weights is not None
            weights = rows.weights.double().cpu().numpy()
        found, start = [], 0
        for own in options:
            count = self.samples * len(own)
            table = weights[start : start + count].reshape(self.samples, len(own))
            found.append(np.log(table.mean(0).clip(min=1e-300)))
            start += count
        texts = self._texts(said)
        k = self.samples
        return found, [tuple(texts[place * k : (place + 1) * k]) for place in range(len(examples))]

    def _texts(self, said: Sequence[list[int]]) -> list[str]:
        return [text.split(THINK_CLOSE)[0].strip() for text in self.words.decode(said)]

    def _after_profiles(
        self, examples: Sequence[Example], said: list[list[int]], options: Sequence[Sequence[Sequence[int]]]
    ) -> np.ndarray:
        """Probabilities of every answer after each profile, as `Reasoned.answers_after` orders them, float64."""
        each = [one for one in examples for _ in range(self.samples)]
        prompts = second_prompts(each, self.words.decode(said))
        found = [
            scores_behind(
                self.policy,
                prompts[start : start + len(examples)],
                [options[place // self.samples] for place in range(start, start + len(examples))],
                self.engine,
            )
            for start in range(0, len(prompts), len(examples))  # as many prompts at once as in every ranker
        ]
        return np.exp(np.concatenate(found))

    def _changed(
        self, said: list[list[int]], closed: list[bool], examples: Sequence[Example]
    ) -> tuple[list[list[int]], list[bool]]:
        if self.shown == "own":
            return said, closed
        if self.shown == "swapped":
            return self._swapped(said, closed, examples)
        texts = [text.split() for text in self._texts(said)]
        for row, words in enumerate(texts):
            example = examples[row // self.samples]
            numpy_generator(self.seed, "shuffled words", example.sample_id, row % self.samples).shuffle(words)
        return self.policy.encode_answers([" ".join(words) for words in texts]), [False] * len(said)

    def _swapped(
        self, said: list[list[int]], closed: list[bool], examples: Sequence[Example]
    ) -> tuple[list[list[int]], list[bool]]:
        """The reasoning of the next user of the batch for each; a user may have several examples, one for each list."""
        k, count = self.samples, len(examples)
        own = [
            _Pieces(one.user_id, said[place * k : (place + 1) * k], closed[place * k : (place + 1) * k])
            for place, one in enumerate(examples)
        ]
        lent = []
        for place, pieces in enumerate(own):
            others = [own[(place + step) % count] for step in range(1, count)]
            others += [self._before] if self._before is not None else []
            lent.append(next((one for one in others if one.user_id != pieces.user_id), pieces))
        self._before = own[-1]
        return [tokens for one in lent for tokens in one.said], [ends for one in lent for ends in one.closed]


@dataclass(frozen=True)
class _Pieces:
    """What the policy wrote for an example."""

    user_id: str
    said: list[list[int]]  # k
    closed: list[bool]  # k
