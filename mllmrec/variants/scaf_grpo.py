"""Scaf-GRPO: Scaffolded Group Relative Policy Optimization (Zhang et al. 2025, arXiv 2510.19807).

A group without a right answer has no variance, so it teaches nothing. Its prompt is asked again with hints, from the most
abstract to the most concrete, one answer each. The first right answer takes the place of one of the group's wrong ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from mllmrec.prompts.examples import Example
from mllmrec.randomness import numpy_generator
from mllmrec.rl.batch import Question, RolloutBatch, join
from mllmrec.rollout.base import Judge, PlainRollout, Speaker, Turn, WrappedRollout

HINTED = "hinted"  # the source of an answer to a hint
LEVELS = ("first_word", "shortlist", "answer")


class Scaffold(WrappedRollout):
    """Hints for groups in which no reward reaches ``right``, after ``warmup_steps`` steps without any.

    The hint stands before the prompt, which thus ends as always: the title's first word, a shortlist of candidates, or the
    answer itself. With ``keeps_hint`` the row is learnt under the prompt that it answered, so it is on-policy. Otherwise
    it is learnt under the example's own prompt, and the probabilities that the loss starts from are those under it.
    """

    def __init__(
        self,
        inner: PlainRollout,
        right: float = 1.0,
        warmup_steps: int = 50,
        levels: Sequence[str] = LEVELS,
        shortlist: int = 3,
        keeps_hint: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(inner)
        if inner.every_answer:
            raise ValueError(
                "rollout.inner lists every answer, so each group has the right one: choose draws"
            )
        unknown = [level for level in levels if level not in LEVELS]
        if unknown:
            raise ValueError(f"levels={list(levels)}: {unknown[0]} is none of {', '.join(LEVELS)}")
        self.right, self.warmup_steps, self.levels = right, warmup_steps, tuple(levels)
        self.shortlist, self.keeps_hint, self.seed = shortlist, keeps_hint, seed
        self._failed = self._rescued = 0.0

    def __call__(
        self, examples: Sequence[Example], speaker: Speaker, judge: Judge, turn: Turn
    ) -> RolloutBatch:
        """The inner rollout's groups, each with at most one row replaced."""
        batch = judge(self.inner(examples, speaker, judge, turn))
        failed = (batch.groups.most(batch.judged()) < self.right).nonzero()[:, 0].tolist()
        self._failed, self._rescued = len(failed) / batch.groups.count, 0.0
        if turn.step < self.warmup_steps:
            return batch
        found: list[RolloutBatch] = []
        for level in self.levels:
            if not failed:
                break
            hints = [self.hint(level, examples[place], batch.questions[place]) for place in failed]
            hinted = judge(
                speaker.complete(
                    examples,
                    Turn(turn.step, 1),
                    which=failed,
                    prompts=[
                        f"{hint}\n{examples[place].prompt}" for hint, place in zip(hints, failed, strict=True)
                    ],
                    round_=level,
                    source=HINTED,
                )
            )
            good = (hinted.judged() >= self.right).nonzero()[:, 0]
            if len(good):
                found.append(hinted.take(good))
                rescued = set(hinted.example_of[good].tolist())
                failed = [place for place in failed if place not in rescued]
        return self._replaced(batch, found) if found else batch

    def hint(self, level: str, example: Example, question: Question) -> str:
        """What a level of the ladder says about the target."""
        title = question.titles[question.target_id]
        if level == "first_word":
            return f"Hint: its title begins with {title.split()[0]}" if title else "Hint: it has no title"
        if level == "answer":
            return f"Hint: it is {question.shown(question.target_id)}"
        others = [item for item in question.titles if item != question.target_id]
        draw = numpy_generator(self.seed, "scaffold", example.sample_id).permutation(len(others))
        listed = {question.target_id, *(others[place] for place in draw[: self.shortlist - 1])}
        named = [question.shown(item) for item in question.titles if item in listed]
        return f"Hint: it is one of {'; '.join(named)}"

    def _replaced(self, batch: RolloutBatch, found: Sequence[RolloutBatch]) -> RolloutBatch:
        """Each found row in the place of its group's first; all rows of such a group are wrong."""
        rescued = torch.cat([one.group_of for one in found]).tolist()
        self._rescued = len(rescued) / batch.groups.count
        firsts = {batch.group_of.tolist().index(group) for group in rescued}
        rest = batch.take(
            torch.tensor([row for row in range(len(batch)) if row not in firsts], dtype=torch.long)
        )
        both = join([rest, *found])
        if self.keeps_hint:
            return both
        own = torch.zeros(len(batch.examples), dtype=torch.long, device=batch.prompt_of.device)
        own[batch.example_of.to(own.device)] = batch.prompt_of
        return replace(both, prompt_of=own[both.example_of.to(own.device)])

    def metrics(self) -> dict[str, float]:
        """The shares of groups without a right answer, and of groups that a hint gave one."""
        return {"scaffold/failed": self._failed, "scaffold/rescued": self._rescued}
