"""RAPO (Fathom-DeepResearch, arXiv 2509.24107): right answers are replayed where all fail, and advantages are scaled.

`mllmrec.variants.rapo_prune` is its third part, the curriculum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from mllmrec.engine.base import ChoiceSets
from mllmrec.engine.batches import TokenBatch
from mllmrec.prompts.examples import Example
from mllmrec.randomness import numpy_generator
from mllmrec.rl.advantages import Advantage, GroupRelative
from mllmrec.rl.batch import RolloutBatch, join
from mllmrec.rollout.base import Judge, PlainRollout, Speaker, Turn, WrappedRollout

BUFFER = "buffer"  # the source of an answer of an earlier step


class ReplayedAnswers(WrappedRollout):
    """Keeps the latest right answer to each prompt, and gives it back to a group in which no answer is right.

    An answer is right if its reward is above ``right``. The answer that is given back takes the place of a random one. It
    was drawn by an older policy, whose log-probabilities it keeps for the loss's ratio. A prompt that never had a right
    answer stays as it is.
    """

    off_policy = True

    def __init__(self, inner: PlainRollout, right: float = 0.5, seed: int = 0) -> None:
        super().__init__(inner)
        if inner.plain.every_answer:
            raise ValueError(
                "rollout.inner lists every answer, so each group has the right one: choose draws"
            )
        self.right, self.seed = right, seed
        self._kept: dict[tuple[str, str], RolloutBatch] = {}  # (sample, prompt) -> one row
        self._failed = self._replayed = 0.0

    def __call__(
        self, examples: Sequence[Example], speaker: Speaker, judge: Judge, turn: Turn
    ) -> RolloutBatch:
        """The inner rollout's groups, each with at most one row replaced."""
        batch = judge(self.inner(examples, speaker, judge, turn)).by_group()
        batch = replace(batch, old=speaker.score(batch))
        right = batch.judged() > self.right
        solved = batch.groups.any(right)
        replaced: dict[int, RolloutBatch] = {}
        for group in range(batch.groups.count):
            rows = (batch.group_of == group).nonzero()[:, 0]
            example = examples[int(batch.example_of[rows[0]])]
            key = (example.sample_id, example.prompt)
            if solved[group]:
                self._kept[key] = one_row(batch, int(rows[right[rows]][0]))
            elif key in self._kept:
                draw = numpy_generator(self.seed, "rapo_buffer", turn.step, example.sample_id)
                replaced[int(rows[draw.integers(len(rows))])] = self._kept[key]
        self._failed = float((~solved).float().mean())
        self._replayed = len(replaced) / batch.groups.count
        return _replaced(batch, replaced, judge) if replaced else batch

    def metrics(self) -> dict[str, float]:
        """The shares of groups without a right answer, and of groups that were given an earlier one."""
        return {"rapo/failed": self._failed, "rapo/replayed": self._replayed}

    def state_dict(self) -> dict[str, Any]:
        """The latest right answer to each prompt."""
        return {"kept": dict(self._kept)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Part`."""
        self._kept = dict(state["kept"])


class RapoScale(Advantage):
    """GRPO's advantages times ``groups / groups whose rewards differ``; ``scale`` and ``epsilon`` are `GroupRelative`'s.

    A loss that is a mean over all answers of the step is then one over the groups that teach something.
    """

    makes_up: ClassVar[bool] = True

    def __init__(self, scale: str = "group", epsilon: float = 1e-4) -> None:
        self.plain = GroupRelative(scale, epsilon)
        self._factor = 1.0

    def __call__(self, batch: RolloutBatch) -> Tensor:
        """(R,)."""
        teach = int((~batch.groups.all_equal(batch.judged())).sum())
        self._factor = batch.groups.count / max(teach, 1)
        return self.plain(batch) * self._factor

    def metrics(self) -> dict[str, float]:
        """What advantages were multiplied by."""
        return {"rapo/factor": self._factor}


def one_row(batch: RolloutBatch, row: int) -> RolloutBatch:
    """A row as a batch of its own, which keeps nothing of the others alive."""
    taken = batch.take(torch.tensor([row]))
    width, prompt, example = int(taken.completions.mask.sum()), int(taken.prompt_of), int(taken.example_of)
    none = torch.zeros_like(taken.prompt_of)

    def cut(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor[:, :width].clone()

    choices = None
    if taken.choices is not None:
        used, places = taken.choices.set_of[:, :width].unique(return_inverse=True)
        outside = int(used[0] < 0)  # -1, the whole vocabulary, is no set
        choices = ChoiceSets(places - outside, taken.choices.tokens[used[outside:]])
    learnt = cut(taken.learnt)
    assert learnt is not None
    return replace(
        taken,
        examples=[batch.examples[example]],
        questions=[batch.questions[example]],
        prompts=TokenBatch(*(part[prompt : prompt + 1].clone() for part in batch.prompts)),
        prompt_of=none,
        example_of=none.cpu(),
        group_of=none.cpu(),
        completions=TokenBatch(*(part[:, :width].clone() for part in taken.completions)),
        learnt=learnt,
        choices=choices,
        segments=cut(taken.segments),
        old=cut(taken.old),
        pool={},
    )


def _replaced(batch: RolloutBatch, rows: Mapping[int, RolloutBatch], judge: Judge) -> RolloutBatch:
    """The batch with earlier answers in the places of some rows; they answer the same prompts."""
    earlier = [
        replace(
            kept,
            step=batch.step,
            examples=batch.examples,
            questions=batch.questions,
            prompts=batch.prompts,
            prompt_of=batch.prompt_of[row : row + 1],
            example_of=batch.example_of[row : row + 1],
            group_of=batch.group_of[row : row + 1],
            sources=(BUFFER,),
        )
        for row, kept in rows.items()
    ]
    rest = torch.tensor([row for row in range(len(batch)) if row not in rows], dtype=torch.long)
    both = join([*([batch.take(rest)] if len(rest) else []), judge(join(earlier))])
    # Each of the joined batches brought the same prompts, which need to run once.
    return replace(both, prompts=batch.prompts, prompt_of=both.prompt_of % len(batch.prompts.ids))
