"""ReST-GRPO (ReST-RL, arXiv 2508.19576): groups that start where the best answers have begun, and small rewards that break ties.

The authors' answers are programs, whose lines are the steps. Here an answer is a ranked list, and a step is an item.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from mllmrec.prompts.examples import Example
from mllmrec.randomness import numpy_generator
from mllmrec.rewards.base import Rewards, Shaper
from mllmrec.rl.batch import Question, RolloutBatch, join
from mllmrec.rollout.base import Judge, PlainRollout, Speaker, Turn, WrappedRollout

STATE = "state"  # the source of a list that goes on from a prefix


class PrefixStates(WrappedRollout):
    """Lists that begin like the best one of a group are completed again: each such beginning has a group of its own.

    If the best list of a group earns at least ``least``, its states are its first 1, 2, ... items, but not all of them.
    ``share`` of as many states as there are, rounded up, are drawn with replacement with the `prefix_weights`, and G lists
    go on from each. Only what follows the state is learnt. Unless ``decided``, states end before the target is named:
    afterwards all lists of a state would earn the same.

    Raises:
        ValueError: a setting is out of range, or the rollout inside draws no lists.
    """

    several_groups = True

    def __init__(
        self,
        inner: PlainRollout,
        least: float = 0.9,
        share: float = 0.5,
        alpha: float = 0.95,
        decided: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(inner)
        if not inner.lists:
            raise ValueError(
                "rollout.inner draws single items, which have no prefixes: set task=ranked_list and "
                "rollout@rollout.inner=lists"
            )
        for name, value in (("share", share), ("alpha", alpha)):
            if not 0 < value <= 1:
                raise ValueError(f"{name}={value:g}: must be above 0 and at most 1")
        self.least, self.share, self.alpha, self.decided, self.seed = least, share, alpha, decided, seed
        self._solved = self._states = 0.0

    def __call__(
        self, examples: Sequence[Example], speaker: Speaker, judge: Judge, turn: Turn
    ) -> RolloutBatch:
        """The inner rollout's groups, and behind them those of the states."""
        batch = judge(self.inner(examples, speaker, judge, turn)).by_group()
        states = self.states(batch)
        self._states = len(states) / batch.groups.count
        parts = [batch]
        for items in sorted({items for _, items in states}):
            starts = [row for row, own in states if own == items]
            parts.append(judge(self._completed(batch, starts, items, speaker, turn)))
        if len(parts) == 1:
            return batch
        moved, groups = [], 0
        for part in parts:
            moved.append(replace(part, group_of=part.group_of + groups))
            groups += part.groups.count
        # All parts have the prompts of the first one.
        prompt_of = torch.cat([part.prompt_of for part in parts])
        return replace(join(moved), prompts=batch.prompts, prompt_of=prompt_of)

    def states(self, batch: RolloutBatch) -> list[tuple[int, int]]:
        """The row and the number of its items that stay, of each state that is drawn."""
        rewards, found = batch.judged(), list[tuple[int, int]]()
        solved = 0
        for group in range(batch.groups.count):
            rows = (batch.group_of == group).nonzero()[:, 0]
            best = int(rows[rewards[rows].argmax()])
            if rewards[best] < self.least - 1e-6:
                continue
            solved += 1
            count = self._longest(batch, best)
            if count < 1:
                continue
            example = batch.examples[int(batch.example_of[best])]
            drawn = numpy_generator(self.seed, "prefix_states", batch.step, example.sample_id).choice(
                count, size=math.ceil(self.share * count), p=prefix_weights(count, self.alpha)
            )
            found += [(best, int(place) + 1) for place in drawn]
        self._solved = solved / batch.groups.count
        return found

    def _longest(self, batch: RolloutBatch, row: int) -> int:
        """How many items the longest state of a list has; behind it at least two candidates can follow."""
        named, question = [item for item, _ in batch.answers[row].items], batch.question(row)
        longest = min(len(named) - 1, len(question.titles) - 2)
        if self.decided or question.target_id not in named:
            return longest
        return min(longest, named.index(question.target_id))

    def _completed(
        self, batch: RolloutBatch, starts: Sequence[int], items: int, speaker: Speaker, turn: Turn
    ) -> RolloutBatch:
        """G lists from the first ``items`` items of each of some rows."""
        assert batch.segments is not None
        rows = [row for row in starts for _ in range(turn.group_size)]
        kept = [int((batch.segments[row] == items - 1).nonzero().max()) + 1 for row in rows]
        grown = speaker.go_on(
            batch, rows, kept, [""] * len(rows), turn, round_=f"{STATE} {items}", source=STATE
        )
        device = grown.learnt.device
        columns = torch.arange(grown.learnt.shape[1], device=device)
        return replace(
            grown,
            learnt=grown.learnt & (columns >= torch.tensor(kept, device=device)[:, None]),
            foreign=None,
            group_of=torch.arange(len(starts)).repeat_interleave(turn.group_size),
        )

    def metrics(self) -> dict[str, float]:
        """The share of groups whose best list earns enough, and the groups of states for each group of a prompt."""
        return {"states/solved": self._solved, "states/added": self._states}


def prefix_weights(count: int, alpha: float = 0.95) -> np.ndarray:
    """(count,) probabilities of states of 1, 2, ... steps, in proportion to 1, alpha, alpha^2, ..."""
    weights = alpha ** np.arange(count)
    return weights / weights.sum()


class TieBreak(Shaper):
    """Adds ``symbol`` to answers that end by themselves, and takes ``trailing`` for each character behind the answer.

    Together they never take away more than they can give. Only a policy that writes freely can earn or lose them.
    """

    parts = ("ended", "trailing")

    def __init__(self, symbol: float = 1e-3, trailing: float = 1e-6) -> None:
        if symbol < 0 or trailing < 0:
            raise ValueError(f"symbol={symbol:g} and trailing={trailing:g}: must be at least 0")
        self.symbol, self.trailing = symbol, trailing

    def bounds(self, low: float, high: float) -> tuple[float, float]:
        """Up to ``symbol`` more or less."""
        return low - self.symbol, high + self.symbol

    def __call__(self, batch: RolloutBatch) -> Rewards:
        """See the class; the parts are whether a row ended, and the characters behind its answer, (R,)."""
        ended = batch.finished.cpu().float()
        behind = torch.tensor(
            [float(characters_behind(text, batch.question(row))) for row, text in enumerate(batch.texts)]
        )
        lost = (self.trailing * behind).clamp_max(self.symbol)
        return Rewards(batch.judged() + self.symbol * ended - lost, {"ended": ended, "trailing": behind})


def characters_behind(completion: str, question: Question) -> int:
    """The characters after the line that names the last item that was asked for; none if not all are named."""
    lines = completion.splitlines(keepends=True)
    for count in range(1, len(lines) + 1):
        if len(question.read("".join(lines[:count])).items) >= question.places:
            return len("".join(lines[count:]))
    return 0
