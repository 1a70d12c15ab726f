"""S-GRPO: Serial-Group Decaying-Reward Policy Optimization (Dai et al. 2025, arXiv 2505.07686).

One piece of reasoning is stopped early at several places, and the first stop at which the answer is right is paid most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch

from mllmrec.engine.base import Engine
from mllmrec.rewards.base import Rewards, Shaper
from mllmrec.rl.batch import RolloutBatch
from mllmrec.rollout.base import Completions, Spelling
from mllmrec.rollout.draw import uniforms
from mllmrec.rollout.reasoned import Reasoned


class SerialExit(Reasoned):
    """Draws one piece of reasoning for each prompt, and answers at G stops: G - 1 early exits, and its end.

    An exit keeps the first P of n tokens of reasoning, with P drawn evenly from 1 to n, and is closed by the tag that closes
    reasoning at the budget. A group's rows stand in the order of their exits, and ``order`` counts them. Exits that were
    meant count as finished. Their answers are learnt, but the reasoning before them is learnt in the last row alone, unless
    ``learn_prefixes``. Other settings are those of `Reasoned`.
    """

    gives_order = True
    by_server = False  # a piece of reasoning is drawn once for all exits

    def __init__(
        self,
        answer: Literal["sampled", "enumerated"] = "sampled",
        temperature: float = 1.0,
        max_reasoning_tokens: int = 64,
        learn_cut_off: bool = True,
        learn_prefixes: bool = False,
    ) -> None:
        super().__init__(answer, temperature, max_reasoning_tokens, learn_cut_off)
        self.learn_prefixes = learn_prefixes
        self._thoughts = 0.0

    def reason(
        self,
        engine: Engine,
        model: Any,
        encoded: Any,
        group_size: int,
        generators: Sequence[torch.Generator],
        spelling: Spelling,
    ) -> tuple[list[list[int]], list[bool]]:
        """Draw a piece of reasoning for each prompt, and stop it; see `Reasoned`."""
        words = spelling.reasoning
        assert words is not None
        said, closed = super().reason(engine, model, encoded, 1, generators, spelling)
        stopped: list[list[int]] = []
        lengths = [words.thoughts(one) if ends else len(one) for one, ends in zip(said, closed, strict=True)]
        for one, length, numbers in zip(said, lengths, uniforms(generators, group_size - 1), strict=True):
            stops = (numbers * length).long() + 1
            stopped += [*(one[:stop] for stop in stops.clamp_max(length).sort().values.tolist()), one]
        self._thoughts = sum(lengths) / len(lengths)
        return stopped, [ends for whole in closed for ends in (*[False] * (group_size - 1), whole)]

    def written(self, said: Sequence[Sequence[int]], group_size: int) -> int:
        """Exits share the tokens of the whole."""
        return sum(map(len, said[group_size - 1 :: group_size]))

    def _answered(
        self,
        said: Sequence[Sequence[int]],
        closed: Sequence[bool],
        group_size: int,
        spelling: Spelling,
        device: torch.device,
    ) -> Completions:
        rows = super()._answered(said, closed, group_size, spelling, device)
        assert rows.segments is not None
        stops = torch.arange(group_size)
        order = torch.cat([stops.repeat_interleave(len(own)) for own in spelling.answers]).to(device)
        early = order < group_size - 1
        learnt = rows.decisions
        if not self.learn_prefixes:
            learnt = learnt & ((rows.segments == 0) | ~early[:, None])
        return replace(rows, decisions=learnt, finished=rows.finished | early, order=order)

    def metrics(self) -> dict[str, float]:
        """The mean number of tokens of a piece of reasoning, without its closing tag."""
        return {"serial/thoughts": self._thoughts}


class Decaying(Shaper):
    """Multiplies a reward above 0 by ``factor`` for each right answer at an earlier stop: 1, 1/2, 1/4 for right ones.

    An answer is right if its reward is at least ``right``. Where each stop has all its answers with their probabilities, a
    stop that is right with probability p multiplies later rewards by ``1 - (1 - factor) p``, which is the mean over drawn
    answers, since those of different stops are drawn independently.
    """

    needs_order = True
    shapes_length = True
    parts = ("decay",)

    def __init__(self, right: float = 1.0, factor: float = 0.5) -> None:
        if not 0 <= factor <= 1:
            raise ValueError(f"factor={factor:g}: must be a number from 0 to 1")
        self.right, self.factor = right, factor

    def bounds(self, low: float, high: float) -> tuple[float, float]:
        """Rewards above 0 may come down to it."""
        return min(low, 0.0) if self.factor < 1 else low, high

    def __call__(self, batch: RolloutBatch) -> Rewards:
        """See the class; the part is what a reward above 0 was multiplied by, (R,).

        Raises:
            ValueError: the rollout gave its rows no order.
        """
        if batch.order is None:
            raise ValueError("rewards decay along the order of rows, and the rollout gave them none")
        total = batch.judged()
        count = torch.ones(len(batch)) if batch.weights is None else batch.weights.float().cpu()
        # Stops in the order of their groups, and within a group in their own.
        stops, stop_of = torch.stack([batch.group_of, batch.order]).unique(dim=1, return_inverse=True)
        mass = torch.zeros(stops.shape[1])
        right = mass.index_add(0, stop_of, count * (total >= self.right - 1e-6))
        share = right / mass.index_add(0, stop_of, count).clamp_min(1e-12)
        decay = torch.ones(stops.shape[1])
        for stop in range(1, stops.shape[1]):
            if stops[0, stop] == stops[0, stop - 1]:
                decay[stop] = decay[stop - 1] * (1 - (1 - self.factor) * share[stop - 1])
        return Rewards(torch.where(total > 0, total * decay[stop_of], total), {"decay": decay[stop_of]})
