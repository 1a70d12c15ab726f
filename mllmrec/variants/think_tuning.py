"""Inspired by ThinkTuning (RRV et al. 2025, arXiv 2508.07616): a teacher's feedback stands in the middle of some reasoning.

The authors' teacher is a language model of the same size that sees the attempt and examples of four behaviours. Here rules
write the feedback, and they know the target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from mllmrec.prompts.examples import Example
from mllmrec.prompts.markup import THINK_CLOSE
from mllmrec.randomness import numpy_generator
from mllmrec.rl.batch import RolloutBatch, join
from mllmrec.rollout.base import Judge, PlainRollout, Speaker, Turn, WrappedRollout

TOLD = "told"  # the source of a row with feedback
AGREEMENT = "agreement"
# How the teacher speaks to a wrong attempt.
_WRONG = {
    "self_conflict": "Wait, {answer} may not fit.",
    "self_critique": "{answer} is not it. Look at the history again.",
    "consultancy": "Consider a title that begins with {word}.",
}
BEHAVIOURS = (AGREEMENT, *_WRONG)


class TeacherFeedback(WrappedRollout):
    """Some attempts of each group go on: attempt without its answer, feedback, new reasoning, new answer, as one row.

    The attempt's reasoning is left open, so what it has in front of the closing tag, the feedback and what comes after are
    one piece of reasoning. The policy drew all of it but the feedback, which is foreign. The row takes the attempt's place.

    Args:
        inner: draws reasoning and answers, and goes on after the feedback.
        share: of a group's attempts that get feedback, at least one.
        right: the lowest reward of a right attempt, which gets ``agreement``.
        behaviours: of the teacher; of those for wrong attempts, one is drawn. An attempt for which there is none gets no
            feedback.
        seed: of these draws.
    """

    off_policy = True
    inserts = True

    def __init__(
        self,
        inner: PlainRollout,
        share: float = 0.25,
        right: float = 1.0,
        behaviours: Sequence[str] = BEHAVIOURS,
        seed: int = 0,
    ) -> None:
        super().__init__(inner)
        if not inner.reasons or inner.every_answer:
            raise ValueError(
                "rollout.inner must reason and draw its answers: choose rollout@rollout.inner=reasoned with "
                "rollout.inner.answer=sampled"
            )
        unknown = [one for one in behaviours if one not in BEHAVIOURS]
        if unknown or not behaviours:
            raise ValueError(f"behaviours={list(behaviours)}: choose from {', '.join(BEHAVIOURS)}")
        if not 0 < share <= 1:
            raise ValueError(f"share={share}: must be above 0 and at most 1")
        self.share, self.right, self.behaviours, self.seed = share, right, tuple(behaviours), seed
        self._told = 0.0

    def __call__(
        self, examples: Sequence[Example], speaker: Speaker, judge: Judge, turn: Turn
    ) -> RolloutBatch:
        """The inner rollout's groups, with rows that have feedback in the places of some."""
        batch = judge(self.inner(examples, speaker, judge, turn)).by_group()
        said = {row: text for row in self._chosen(batch) if (text := self.feedback(batch, row))}
        self._told = len(said) / len(batch)
        if not said:
            return replace(batch, old=speaker.score(batch))
        pieces = speaker.pieces(batch)
        told = speaker.go_on(
            batch,
            list(said),
            [before_closing(pieces[row]) for row in said],
            [f"\n{text}\n" for text in said.values()],
            turn,
            round_=TOLD,
            source=TOLD,
        )
        rest = [row for row in range(len(batch)) if row not in said]
        kept = [batch.take(torch.tensor(rest))] if rest else []
        # Both have the prompts of the draws.
        prompt_of = torch.cat([part.prompt_of for part in (*kept, told)])
        both = replace(join([*kept, told]), prompts=batch.prompts, prompt_of=prompt_of).by_group()
        assert both.foreign is not None
        return replace(both, old=torch.where(both.foreign, 0.0, speaker.score(both)))

    def feedback(self, batch: RolloutBatch, row: int) -> str:
        """What the teacher says to an attempt; nothing if none of its behaviours goes with it."""
        question = batch.question(row)
        named = [item for item, _ in batch.answers[row].items if item in question.titles]
        answer = question.shown(named[0]) if named else "that"
        if batch.judged()[row] >= self.right:
            return f"Yes, {answer} fits." if AGREEMENT in self.behaviours else ""
        words = question.titles[question.target_id].split()
        ways = [one for one in self.behaviours if one in _WRONG and (words or one != "consultancy")]
        if not ways:
            return ""
        example = batch.examples[int(batch.example_of[row])]
        place = int((batch.group_of[:row] == batch.group_of[row]).sum())
        draw = numpy_generator(self.seed, "feedback", batch.step, example.sample_id, place)
        return _WRONG[ways[draw.integers(len(ways))]].format(answer=answer, word=words[0] if words else "")

    def _chosen(self, batch: RolloutBatch) -> list[int]:
        """The first rows of each group; rows are draws, so which ones makes no difference."""
        found: list[int] = []
        for group in range(batch.groups.count):
            rows = (batch.group_of == group).nonzero()[:, 0].tolist()
            found += rows[: max(1, round(self.share * len(rows)))]
        return found

    def metrics(self) -> dict[str, float]:
        """The share of rows with feedback."""
        return {"feedback/told": self._told}


def before_closing(pieces: Sequence[str]) -> int:
    """How many tokens stand before the one in which the first closing tag begins; all if there is none.

    Args:
        pieces: the text of each token.
    """
    text = ""
    for end, piece in enumerate(pieces):
        text += piece
        if THINK_CLOSE in text:
            begin = end
            while THINK_CLOSE not in "".join(pieces[begin : end + 1]):
                begin -= 1
            return begin
    return len(pieces)
