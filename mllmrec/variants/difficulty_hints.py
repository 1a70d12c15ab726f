"""DeepVideo-R1's augmentation by difficulty (arXiv 2506.07464): hints for hard prompts, hidden history for easy ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mllmrec.prompts.examples import Example
from mllmrec.randomness import numpy_generator
from mllmrec.rl.batch import Question, RolloutBatch, join
from mllmrec.rollout.base import Judge, PlainRollout, Speaker, Turn, WrappedRollout

EASED = "eased"  # the source of an answer to a prompt with a hint
HARDENED = "hardened"  # and to one with a part of its history


class DifficultyHints(WrappedRollout):
    """Prompts that are harder than the last steps' are asked again with a hint, easier ones with less history.

    The difficulty of a prompt is the mean reward over the last ``window`` steps minus the mean reward of its own answers.
    A prompt with a difficulty D above 0 gets ``round(scale * D)`` words of the target's title, at most all of it. One with D
    below 0 loses ``round(noise * -D)`` items of the history that it shows, drawn at random; one item always stays. If that is
    a word or an item or more, the answers to the new prompt take the places of all its answers, and are learnt under that
    prompt.

    Raises:
        ValueError: a setting is out of range.
    """

    def __init__(
        self,
        inner: PlainRollout,
        window: int = 10,
        scale: float = 4.0,
        noise: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(inner)
        if window < 1:
            raise ValueError(f"window={window}: must be a number from 1 on")
        if scale <= 0:
            raise ValueError(f"scale={scale:g}: must be above 0")
        if noise < 0:
            raise ValueError(f"noise={noise:g}: must be at least 0")
        self.window, self.scale, self.noise, self.seed = window, scale, noise, seed
        self._means: deque[float] = deque(maxlen=window)
        self._eased = self._hardened = self._own = 0.0

    def __call__(
        self, examples: Sequence[Example], speaker: Speaker, judge: Judge, turn: Turn
    ) -> RolloutBatch:
        """The inner rollout's groups, some of them drawn again."""
        batch = judge(self.inner(examples, speaker, judge, turn))
        means = batch.groups.mean(batch.judged())
        self._own = float(means.mean())
        usual = sum(self._means) / len(self._means) if self._means else None
        self._means.append(self._own)
        changed: dict[str, dict[int, str]] = {EASED: {}, HARDENED: {}}
        if usual is not None:
            for place, own in enumerate(means.tolist()):
                hint = self.hint(usual - own, batch.questions[place])
                if hint:
                    changed[EASED][place] = f"{hint}\n{examples[place].prompt}"
                harder = self.harder(own - usual, examples[place], speaker, turn.step)
                if harder:
                    changed[HARDENED][place] = harder
        self._eased, self._hardened = (len(prompts) / len(examples) for prompts in changed.values())
        again = [
            judge(
                speaker.complete(
                    examples,
                    Turn(turn.step, turn.group_size),
                    which=list(prompts),
                    prompts=list(prompts.values()),
                    round_=source,
                    source=source,
                )
            )
            for source, prompts in changed.items()
            if prompts
        ]
        if not again:
            return batch
        asked = [place for prompts in changed.values() for place in prompts]
        kept = (~torch.isin(batch.example_of, torch.tensor(asked))).nonzero()[:, 0]
        return join([*([batch.take(kept)] if len(kept) else []), *again])

    def harder(self, ease: float, example: Example, speaker: Speaker, step: int) -> str:
        """The prompt that this much ease leads to; nothing if no item is hidden."""
        hidden = max(round(self.noise * ease), 0)
        if not hidden:
            return ""
        shown = speaker.histories.shown(example)
        left = max(len(shown) - hidden, 1)
        if left >= len(shown):
            return ""
        draw = numpy_generator(self.seed, "hidden_history", step, example.sample_id)
        places = sorted(draw.permutation(len(shown))[:left].tolist())
        return speaker.histories.with_history(example, [shown[place] for place in places]).prompt

    def hint(self, difficulty: float, question: Question) -> str:
        """What a prompt with this difficulty is told; nothing if that is less than a word."""
        words = question.titles[question.target_id].split()[: max(round(self.scale * difficulty), 0)]
        return f"Hint: its title begins with {' '.join(words)}" if words else ""

    def metrics(self) -> dict[str, float]:
        """The shares of prompts that got a hint and that lost history, and the mean reward before; ``reward`` is after."""
        return {
            "hints/eased": self._eased,
            "hints/hardened": self._hardened,
            "hints/own_reward": self._own,
        }

    def state_dict(self) -> dict[str, Any]:
        """The mean rewards of the last steps."""
        return {"means": list(self._means)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Part`."""
        self._means = deque(state["means"], maxlen=self.window)
