"""Rankings from several drawn answers: the base of the parts that choose among them or count them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Literal

import numpy as np

from mllmrec.evaluation.ranking import PolicyRanker, RankedExample, Ranker
from mllmrec.inference.base import Inference, InferenceInputs
from mllmrec.inference.drawn import Drawn, Score, Tokens, read, scored_rows
from mllmrec.prompts.examples import Example
from mllmrec.rl.batch import RolloutBatch
from mllmrec.rollout.base import Turn
from mllmrec.step.speaker import Speaker

Rest = Literal["greedy", "unranked"]


class Sampled(Inference):
    """Draws n answers for each user. A subclass says in which order they rank the candidates that they name.

    Candidates that no answer names follow as ``inference=greedy`` ranks them, or are not ranked.
    """

    def __init__(
        self,
        n: int,
        temperature: float = 1.0,
        score: Score = "mean_logprob",
        tokens: Tokens = "answer",
        rest: Rest = "greedy",
    ) -> None:
        """Set how to draw.

        Args:
            n: answers for each user.
            temperature: of draws and scores.
            score: how good an answer is.
            tokens: whether the score is of the answer's tokens, or of those of the reasoning in front as well.
            rest: what happens to candidates that no answer names.

        Raises:
            ValueError: ``n`` is below 1, or ``temperature`` is not above 0.
        """
        if n < 1:
            raise ValueError(f"n={n}: must be 1 or more")
        if temperature <= 0:
            raise ValueError(
                f"temperature={temperature:g}: must be above 0, or all answers would be equal; inference=greedy takes the most "
                "likely one"
            )
        self.n, self.temperature, self.score = n, temperature, score
        self.tokens, self.rest = tokens, rest

    def ranker(self, inputs: InferenceInputs) -> Ranker:
        """See `Inference`."""
        rest = inputs.plain() if self.rest == "greedy" else None
        return SampledRanker(self, inputs, inputs.speaker(self.temperature), rest)

    def draw(self, examples: Sequence[Example], speaker: Speaker, inputs: InferenceInputs) -> list[Drawn]:
        """The answers to each example."""
        batch = speaker.complete(examples, Turn(step=0, group_size=self.n))
        return self.judged(batch, speaker)

    def judged(self, batch: RolloutBatch, speaker: Speaker) -> list[Drawn]:
        """What the answers to each example name, with their scores."""
        scores = None
        if self.score != "frequency":
            scores = scored_rows(self.score, batch, speaker, self.tokens)
        return read(batch, self.score, scores)

    @abstractmethod
    def order(self, drawn: Drawn) -> list[int]:
        """The columns of candidates that the answers to an example name, best first, each once."""


class SampledRanker(PolicyRanker):
    """Ranks by the answers that a `Sampled` part draws."""

    def __init__(
        self, part: Sampled, inputs: InferenceInputs, speaker: Speaker, rest: Ranker | None = None
    ) -> None:
        """Put the parts together.

        Args:
            part: draws the answers and orders what they name.
            inputs: the policy and the protocol.
            speaker: the policy as it draws.
            rest: ranks the candidates that no answer names; None: they are not ranked.
        """
        super().__init__(inputs.policy, inputs.answers, inputs.engine)
        self.part, self.inputs, self.speaker, self.rest = part, inputs, speaker, rest

    @property
    def generated_tokens(self) -> int:  # type: ignore[override]
        """Tokens written so far, by the draws and for the rest."""
        return self.speaker.generated_tokens + (0 if self.rest is None else self.rest.generated_tokens)

    @contextmanager
    def ready(self) -> Iterator[None]:
        """No gradients and evaluation mode in this block."""
        with ExitStack() as stack:
            stack.enter_context(super().ready())
            if self.rest is not None:
                stack.enter_context(self.rest.ready())
            yield

    def rank(self, examples: Sequence[Example]) -> list[RankedExample]:
        """Rank one batch; the text is that of an answer that names the best candidate first."""
        drawn = self.part.draw(examples, self.speaker, self.inputs)
        others = [None] * len(examples) if self.rest is None else self.rest.rank(examples)
        return [
            _ranked(self.part.order(answers), answers, other)
            for answers, other in zip(drawn, others, strict=True)
        ]


def _ranked(order: Sequence[int], drawn: Drawn, rest: RankedExample | None) -> RankedExample:
    columns = list(order)
    if rest is not None:
        columns += [column for column in rest.order.tolist() if column not in set(order)]
    texts = [
        text
        for text, named in zip(drawn.texts, drawn.named, strict=True)
        if columns and named[:1] == columns[:1]
    ]
    return RankedExample(
        order=np.array(columns, dtype=np.int64),
        duplicates=drawn.duplicates,
        off_candidate=drawn.off_candidate,
        text=(texts or list(drawn.texts))[0],
        generated_tokens=0 if rest is None else rest.generated_tokens,
    )
