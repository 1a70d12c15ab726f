"""The inference half of WebGen-Agent (arXiv 2509.22644): answer in rounds, go back after failures, return the best round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mllmrec.inference.base import InferenceInputs
from mllmrec.inference.drawn import Drawn, TokenScore, by_score, columns_of
from mllmrec.inference.sampled import Rest, Sampled
from mllmrec.prompts.examples import Example
from mllmrec.prompts.markup import THINK_CLOSE
from mllmrec.rollout.base import Turn
from mllmrec.step.speaker import Speaker

NOTE = "Your last answer was: {answer}. Give a better answer, or the same again if there is none."


class SelectBest(Sampled):
    """Draws one answer in each of ``n`` rounds, and ranks by the answer with the best score, then by the second best, ...

    From the second round on, the prompt begins with a note that shows the answer of the round before. After ``patience``
    rounds in a row that do not beat the best answer so far, the next round goes back to the best answer and shows that.
    All answers are scored under the prompt without a note, since a policy finds likely what it has just read.

    The authors' agent changes web pages in steps that a vision model grades, and goes back after errors. Here a step is a
    round, the grade is a score of the policy's own, and a failure is a round that does not raise the best score.
    """

    def __init__(
        self,
        n: int,
        temperature: float = 1.0,
        score: TokenScore = "mean_logprob",
        patience: int = 5,
        note: str = NOTE,
        rest: Rest = "greedy",
    ) -> None:
        """Set how to draw.

        Args:
            n: rounds.
            temperature: of draws and scores.
            score: how good an answer is, of the tokens of the answer itself.
            patience: failures in a row before it goes back.
            note: begins later prompts; ``{answer}`` is the answer shown.
            rest: what happens to candidates that no answer names.

        Raises:
            ValueError: ``n`` or ``patience`` is below 1, ``temperature`` not above 0, or the note shows no answer.
        """
        super().__init__(n, temperature, score, "answer", rest)
        if patience < 1:
            raise ValueError(f"patience={patience}: must be 1 or more")
        if "{answer}" not in note:
            raise ValueError(f"note={note}: must hold {{answer}}, where the last answer is shown")
        self.patience, self.note = patience, note

    def draw(self, examples: Sequence[Example], speaker: Speaker, inputs: InferenceInputs) -> list[Drawn]:
        """See `Sampled`."""
        rounds: list[list[Drawn]] = []
        for number in range(self.n):
            prompts = None
            if rounds:
                shown = [self.shown([one[place] for one in rounds]) for place in range(len(examples))]
                prompts = [
                    f"{self.note.replace('{answer}', answer)}\n{example.prompt}"
                    for answer, example in zip(shown, examples, strict=True)
                ]
            batch = speaker.complete(examples, Turn(step=number, group_size=1), prompts=prompts)
            rounds.append(self.judged(batch, speaker))
        return [_joined([one[place] for one in rounds]) for place in range(len(examples))]

    def shown(self, rounds: Sequence[Drawn]) -> str:
        """The answer that the next round shows: the last one, or the best one after too many failures in a row.

        Args:
            rounds: the rounds so far, of one example.
        """
        scores = [float(one.scores[0]) if one.named[0] else -np.inf for one in rounds]
        return _answer(rounds[next_state(scores, self.patience)].texts[0])

    def order(self, drawn: Drawn) -> list[int]:
        """See `Sampled`."""
        return columns_of(drawn, by_score(drawn))


def next_state(scores: Sequence[float], patience: int) -> int:
    """The round from which the next one goes on: the last, or the best after ``patience`` failures in a row.

    Args:
        scores: of the rounds so far; a round fails if it does not beat the best one before it.
        patience: failures in a row; then they are counted anew.

    >>> [next_state([2.0, 1.0, 3.0, 0.0, 1.0, 2.0][:count], patience=2) for count in range(1, 7)]
    [0, 1, 2, 3, 2, 5]
    """
    best, failures, state = 0, 0, 0
    for number in range(1, len(scores)):
        if scores[number] > scores[best]:
            best, failures, state = number, 0, number
            continue
        failures, state = failures + 1, number
        if failures == patience:
            failures, state = 0, best
    return state


def _answer(text: str) -> str:
    """A completion without its reasoning, on one line."""
    return " ".join(text.rpartition(THINK_CLOSE)[2].split())


def _joined(rounds: Sequence[Drawn]) -> Drawn:
    """The rounds of one example as answers to it."""
    return replace(
        rounds[0],
        named=[one.named[0] for one in rounds],
        scores=np.concatenate([one.scores for one in rounds]),
        texts=[one.texts[0] for one in rounds],
        duplicates=sum(one.duplicates for one in rounds),
        off_candidate=sum(one.off_candidate for one in rounds),
    )
