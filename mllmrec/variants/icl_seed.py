"""In-context seeding of XRPO (arXiv 2510.06672): prompts on which all answers fail are asked again after solved ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from mllmrec.prompts.examples import Example
from mllmrec.rl.batch import POLICY, RolloutBatch, join
from mllmrec.rollout.base import Judge, Rollout, Speaker, Turn, WrappedRollout

SEEDED = "seeded"  # the source of an answer after solved prompts


@dataclass(frozen=True)
class Solved:
    """A prompt with a right answer."""

    user_id: str
    history: frozenset[int]  # item codes
    step: int
    text: str  # as it is shown


class Seeded(WrappedRollout):
    """Asks prompts on which all answers fail again, after ``exemplars`` solved ones, and adds the answers to their groups.

    An answer is right if its reward is at least ``right``. The latest ``size`` prompts with a right answer are kept, each with
    its latest one. Those of other users whose histories share most items with the failed one's (Jaccard) stand in front of
    it; a prompt of the same user could tell the answer. As many are shown as fit. Answers that all fail again are left out.

    With ``keeps_exemplars`` the answers are learnt under the prompt that they answered, so they are on-policy. Otherwise
    they are learnt under the example's own prompt, and the probabilities that the loss starts from are those under it.
    """

    takes_rounds = True

    def __init__(
        self,
        inner: Rollout,
        right: float = 1.0,
        exemplars: int = 2,
        draws: int | None = None,
        keeps_exemplars: bool = True,
        size: int = 2000,
    ) -> None:
        """Set how to ask again.

        Args:
            inner: draws the groups.
            right: the lowest reward of a right answer.
            exemplars: solved prompts in front of a failed one.
            draws: answers to it; None: G.
            keeps_exemplars: under which prompt they are learnt.
            size: solved prompts that are kept.
        """
        super().__init__(inner)
        if inner.plain.every_answer:
            raise ValueError(
                "rollout.inner lists every answer, so each group has the right one: choose draws"
            )
        if exemplars < 1 or size < 1 or (draws is not None and draws < 1):
            raise ValueError(
                f"exemplars={exemplars}, draws={draws} and size={size}: must be numbers from 1 on"
            )
        self.right, self.exemplars, self.draws = right, exemplars, draws
        self.keeps_exemplars, self.size = keeps_exemplars, size
        self._solved: dict[str, Solved] = {}  # by sample, the latest last
        self._failed = self._rescued = 0.0

    def __call__(
        self, examples: Sequence[Example], speaker: Speaker, judge: Judge, turn: Turn
    ) -> RolloutBatch:
        """The inner rollout's groups, some with more rows."""
        batch = judge(self.inner(examples, speaker, judge, turn)).by_group()
        fails = batch.groups.most(batch.judged()) < self.right
        fails &= ~batch.groups.any(~batch.by(POLICY))
        group_of = {int(batch.example_of[row]): int(batch.group_of[row]) for row in range(len(batch))}
        failed = [place for place, group in sorted(group_of.items()) if fails[group]]
        self._failed, self._rescued = len(failed) / batch.groups.count, 0.0
        prompts = {place: self.prompt(examples[place], speaker) for place in failed}
        asked = [place for place in failed if prompts[place]]
        found = None
        if asked:
            again = judge(
                speaker.complete(
                    examples,
                    Turn(turn.step, self.draws or turn.group_size),
                    which=asked,
                    prompts=[prompts[place] for place in asked],
                    round_=SEEDED,
                    source=SEEDED,
                )
            )
            found = self._with_right(again)
        if found is not None:
            self._rescued = len(found.example_of.unique()) / batch.groups.count
            own_groups = torch.tensor([group_of[place] for place in found.example_of.tolist()])
            batch = self._joined(batch, replace(found, group_of=own_groups))
        self._keep(batch)
        return batch

    def prompt(self, example: Example, speaker: Speaker) -> str:
        """The prompt after as many solved ones as fit; nothing if there is none."""
        history = frozenset(example.history.tolist())

        def likeness(item: tuple[str, Solved]) -> tuple[float, int, str]:
            name, one = item
            either = len(history | one.history)
            return (len(history & one.history) / either if either else 0.0), one.step, name

        others = [item for item in self._solved.items() if item[1].user_id != example.user_id]
        nearest = sorted(others, key=likeness, reverse=True)[: self.exemplars]
        shown = [
            "\n\n".join([*(f"Example:\n{one.text}" for _, one in nearest[:count]), example.prompt])
            for count in range(len(nearest), 0, -1)
        ]
        fitting = speaker.fits(shown) if shown else []
        return next((text for text, fits in zip(shown, fitting, strict=True) if fits), "")

    def _with_right(self, again: RolloutBatch) -> RolloutBatch | None:
        """The rows about examples that have a right one now; None if none has."""
        right = again.example_of[again.judged() >= self.right].unique()
        rows = torch.isin(again.example_of, right).nonzero()[:, 0]
        return again.take(rows) if len(rows) else None

    def _joined(self, batch: RolloutBatch, found: RolloutBatch) -> RolloutBatch:
        both = join([batch, found])
        if self.keeps_exemplars:
            return both
        own = torch.zeros(len(batch.examples), dtype=torch.long, device=batch.prompt_of.device)
        own[batch.example_of.to(own.device)] = batch.prompt_of
        return replace(both, prompt_of=own[both.example_of.to(own.device)])

    def _keep(self, batch: RolloutBatch) -> None:
        """Remember one right answer to each prompt that has one: the first."""
        for row in (batch.judged() >= self.right).nonzero()[:, 0].tolist()[::-1]:
            example = batch.examples[int(batch.example_of[row])]
            self._solved.pop(example.sample_id, None)
            self._solved[example.sample_id] = Solved(
                example.user_id,
                frozenset(example.history.tolist()),
                batch.step,
                f"{example.prompt}\n{batch.texts[row]}",
            )
        for name in list(self._solved)[: max(len(self._solved) - self.size, 0)]:
            del self._solved[name]

    def metrics(self) -> dict[str, float]:
        """The shares of groups without a right answer, and of groups that exemplars gave one."""
        return {"xrpo/failed": self._failed, "xrpo/rescued": self._rescued}

    def state_dict(self) -> dict[str, Any]:
        """The solved prompts."""
        return {"solved": dict(self._solved)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Part`."""
        self._solved = dict(state["solved"])
