"""The numbers of all draws of a step, as one: a step may draw several times, each time for other prompts."""

from __future__ import annotations

from collections.abc import Mapping

from mllmrec.rl.batch import RolloutBatch


class DrawnNumbers:
    """Means over the draws of the last step. A draw counts as often as it has prompts."""

    def __init__(self) -> None:
        self._step: int | None = None
        self._groups = self._equal = 0
        self._sums: dict[str, tuple[float, int]] = {}  # name → sum over prompts, and their number

    def add(self, batch: RolloutBatch, numbers: Mapping[str, float]) -> None:
        """Take a judged draw; the first one of another step begins anew.

        Args:
            batch: the draw.
            numbers: what the parts say of it.
        """
        if batch.step != self._step:
            self._step, self._groups, self._equal, self._sums = batch.step, 0, 0, {}
        self._groups += batch.groups.count
        self._equal += int(batch.groups.all_equal(batch.judged()).sum())
        prompts = len(batch.examples)
        for name, value in numbers.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = (total + value * prompts, count + prompts)

    def metrics(self) -> dict[str, float]:
        """The parts' numbers, and the share of all groups that were drawn in which the rewards are equal."""
        if not self._groups:
            return {}
        means = {name: total / count for name, (total, count) in self._sums.items()}
        return {"frac_reward_zero_std": self._equal / self._groups, **means}
