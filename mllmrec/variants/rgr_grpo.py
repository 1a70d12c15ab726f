"""RGR-GRPO (Bi et al. 2025, arXiv 2511.12344): answers are paid by a rubric, and what it finds missing guides a refinement.

The authors' rubric is written for each question and read by a judge model. Here one rubric of programs serves all prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from mllmrec.prompts.examples import Example
from mllmrec.reasoners.counting import content_words
from mllmrec.rewards.base import Reward, Rewards
from mllmrec.rl.batch import Question, RolloutBatch, join
from mllmrec.rollout.base import Judge, PlainRollout, Speaker, Turn, WrappedRollout
from mllmrec.text_encoders.described import DescribedItems

REFINED = "refined"  # the source of a refinement


class Rubric(Reward):
    """The weights of the criteria that an answer meets, as a share of all weights. Each criterion is a part, 0 or 1.

    - ``format``: the answer has the form that was asked for;
    - ``listed``: it names candidates and nothing else;
    - ``found``: it names the target;
    - ``hit``: it names the target first;
    - ``kin``: the text of the item that it names first has at least the share ``kinship`` of the words of the target's;
    - ``grounded``: its reasoning has a word of the texts of the history.

    Args:
        weights: by criterion; others are logged alone.
        kinship: see ``kin``.

    Raises:
        ValueError: a criterion is unknown, a weight negative, or their sum 0.
    """

    parts = ("format", "listed", "found", "hit", "kin", "grounded")

    def __init__(self, weights: Mapping[str, float], kinship: float = 0.5) -> None:
        unknown = sorted(set(weights) - set(self.parts))
        if unknown:
            raise ValueError(f"weights.{unknown[0]}: no such criterion; choose {', '.join(self.parts)}")
        if min(weights.values(), default=0.0) < 0 or sum(weights.values()) <= 0:
            raise ValueError(f"weights={dict(weights)}: none may be negative, and one must be above 0")
        self.weights, self.kinship = {str(name): float(one) for name, one in weights.items()}, kinship
        self._words: list[set[str]] = []  # of each item, by its code
        self._code: dict[str, int] = {}

    @property
    def bounds(self) -> tuple[float, float]:
        """A share."""
        return 0.0, 1.0

    def meet_items(self, items: DescribedItems) -> None:
        """Read their words."""
        self._words = [set(content_words(text)) for text in items.texts]
        self._code = {item: code for code, item in enumerate(items.ids)}

    def __call__(self, batch: RolloutBatch) -> Rewards:
        """See the class."""
        found = [self._met(batch, row) for row in range(len(batch))]
        parts = {name: torch.tensor([float(one[name]) for one in found]) for name in self.parts}
        total = torch.stack([weight * parts[name] for name, weight in self.weights.items()]).sum(0)
        return Rewards(total / sum(self.weights.values()), parts)

    def _met(self, batch: RolloutBatch, row: int) -> dict[str, bool]:
        answer, question = batch.answers[row], batch.question(row)
        named = [item for item, _ in answer.items]
        example = batch.examples[int(batch.example_of[row])]
        history = set[str]().union(*(self._words[item] for item in example.history.tolist()))
        return {
            "format": question.well_formed(answer),
            "listed": bool(named) and all(item in question.titles for item in named),
            "found": question.target_id in named,
            "hit": named[:1] == [question.target_id],
            "kin": bool(named) and self._kin(named[0], question.target_id),
            "grounded": bool(history & set(content_words(answer.reasoning))),
        }

    def _kin(self, item: str, target: str) -> bool:
        if item == target or item not in self._code:
            return item == target
        wanted = self._words[self._code[target]]
        return bool(wanted) and len(wanted & self._words[self._code[item]]) >= self.kinship * len(wanted)


class RubricRefine(WrappedRollout):
    """Asks for a refinement where even the best answer of a group misses criteria, and puts it in the place of the worst.

    The policy is told the best answer and what it misses. The refinement is learnt under the example's own prompt, from which
    it was not drawn, so all its tokens are foreign. With ``only_better`` it stays only if it earns more than the best
    answer.

    Args:
        inner: draws the answers and the refinement.
        criteria: parts of the reward, each with how a prompt names it.
        only_better: see above.
    """

    off_policy = True
    inserts = True
    needs_parts = True

    def __init__(self, inner: PlainRollout, criteria: Mapping[str, str], only_better: bool = True) -> None:
        super().__init__(inner)
        if inner.every_answer:
            raise ValueError("rollout.inner lists every answer, so there is nothing to refine: choose draws")
        if not criteria:
            raise ValueError("criteria is empty: name parts of the reward, as in {hit: the next item}")
        self.criteria, self.only_better = dict(criteria), only_better
        self._missing = self._refined = 0.0

    def __call__(
        self, examples: Sequence[Example], speaker: Speaker, judge: Judge, turn: Turn
    ) -> RolloutBatch:
        """The inner rollout's groups, each with at most one row replaced."""
        batch = judge(self.inner(examples, speaker, judge, turn)).by_group()
        batch = replace(batch, old=speaker.score(batch))
        best = self._extremes(batch, largest=True)
        asked = {row: missing for row in best if (missing := self.missing(batch, row))}
        self._missing, self._refined = len(asked) / len(best), 0.0
        if not asked:
            return batch
        places = batch.example_of[list(asked)].tolist()
        refined = judge(
            speaker.complete(
                examples,
                Turn(turn.step, 1),
                which=places,
                prompts=[
                    f"{self.advice(batch.answers[row].items, batch.question(row), missing)}\n{examples[place].prompt}"
                    for (row, missing), place in zip(asked.items(), places, strict=True)
                ],
                round_=REFINED,
                source=REFINED,
            )
        )
        least = batch.judged()[list(asked)]
        good = (
            refined.judged() > least + 1e-6 if self.only_better else torch.ones_like(least, dtype=torch.bool)
        )
        self._refined = int(good.sum()) / len(best)
        return self._mixed(batch, refined.take(good.nonzero()[:, 0])) if good.any() else batch

    def missing(self, batch: RolloutBatch, row: int) -> list[str]:
        """How a prompt names the criteria that a row does not meet."""
        return [
            words
            for name, words in self.criteria.items()
            if name in batch.parts and batch.parts[name][row] < 1
        ]

    def advice(self, named: Sequence[tuple[str, str]], question: Question, missing: Sequence[str]) -> str:
        """What stands before the prompt of a refinement."""
        listed = [question.shown(item) for item, _ in named if item in question.titles]
        return f"An earlier answer: {'; '.join(listed) or 'none'}. It is not yet: {'; '.join(missing)}"

    def _extremes(self, batch: RolloutBatch, largest: bool) -> list[int]:
        """The first row of each group with its highest or lowest reward."""
        signed = batch.judged() if largest else -batch.judged()
        return [
            int(torch.where(batch.group_of == group, signed, -torch.inf).argmax())
            for group in range(batch.groups.count)
        ]

    def _mixed(self, batch: RolloutBatch, refined: RolloutBatch) -> RolloutBatch:
        """Each refinement in the place of its group's worst row."""
        worst = self._extremes(batch, largest=False)
        gone = {worst[group] for group in refined.group_of.tolist()}
        rest = batch.take(torch.tensor([row for row in range(len(batch)) if row not in gone]))
        refined = replace(
            refined, foreign=refined.learnt, old=torch.zeros(refined.learnt.shape).to(batch.old)
        )
        both = join([rest, refined])
        own = torch.zeros(len(batch.examples), dtype=torch.long, device=batch.prompt_of.device)
        own[batch.example_of.to(own.device)] = batch.prompt_of
        return replace(both, prompt_of=own[both.example_of.to(own.device)])

    def metrics(self) -> dict[str, float]:
        """The shares of groups whose best answer misses something, and of groups that took a refinement."""
        return {"rubric/missing": self._missing, "rubric/refined": self._refined}
