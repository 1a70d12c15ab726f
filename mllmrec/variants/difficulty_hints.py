"""Hints in proportion to difficulty, the easing half of DeepVideo-R1's augmentation (arXiv 2506.07464)."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mllmrec.prompts.examples import Example
from mllmrec.rl.batch import Question, RolloutBatch, join
from mllmrec.rollout.base import Judge, PlainRollout, Speaker, Turn, WrappedRollout

EASED = "eased"  # the source of an answer to a prompt with a hint


class DifficultyHints(WrappedRollout):
    """Prompts that are harder than the last steps' are asked again with words of the target's title.

    The difficulty of a prompt is the mean reward over the last ``window`` steps minus the mean reward of its own answers.
    A prompt with a difficulty D above 0 gets ``round(scale * D)`` words, at most all of the title. If that is a word or
    more, the answers to the prompt with the hint take the places of all its answers, and are learnt under that prompt.
    """

    def __init__(self, inner: PlainRollout, window: int = 10, scale: float = 4.0) -> None:
        super().__init__(inner)
        if window < 1:
            raise ValueError(f"window={window}: must be a number from 1 on")
        if scale <= 0:
            raise ValueError(f"scale={scale:g}: must be above 0")
        self.window, self.scale = window, scale
        self._means: deque[float] = deque(maxlen=window)
        self._eased = self._own = 0.0

    def __call__(
        self, examples: Sequence[Example], speaker: Speaker, judge: Judge, turn: Turn
    ) -> RolloutBatch:
        """The inner rollout's groups, some of them drawn again."""
        batch = judge(self.inner(examples, speaker, judge, turn))
        means = batch.groups.mean(batch.judged())
        self._own = float(means.mean())
        usual = sum(self._means) / len(self._means) if self._means else None
        self._means.append(self._own)
        hints = {}
        if usual is not None:
            for place, own in enumerate(means.tolist()):
                hint = self.hint(usual - own, batch.questions[place])
                if hint:
                    hints[place] = f"{hint}\n{examples[place].prompt}"
        self._eased = len(hints) / len(examples)
        if not hints:
            return batch
        again = judge(
            speaker.complete(
                examples,
                Turn(turn.step, turn.group_size),
                which=list(hints),
                prompts=list(hints.values()),
                round_=EASED,
                source=EASED,
            )
        )
        kept = ~torch.isin(batch.example_of, torch.tensor(list(hints)))
        return join([batch.take(kept.nonzero()[:, 0]), again]) if kept.any() else again

    def hint(self, difficulty: float, question: Question) -> str:
        """What a prompt with this difficulty is told; nothing if that is less than a word."""
        words = question.titles[question.target_id].split()[: max(round(self.scale * difficulty), 0)]
        return f"Hint: its title begins with {' '.join(words)}" if words else ""

    def metrics(self) -> dict[str, float]:
        """The share of prompts that got a hint, and the mean reward before hints; the logged ``reward`` is after them."""
        return {"hints/eased": self._eased, "hints/own_reward": self._own}

    def state_dict(self) -> dict[str, Any]:
        """The mean rewards of the last steps."""
        return {"means": list(self._means)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Part`."""
        self._means = deque(state["means"], maxlen=self.window)
