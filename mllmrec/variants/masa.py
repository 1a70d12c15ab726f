"""MASA: Meta-Awareness via Self-Alignment (Kim et al. 2025, arXiv 2510.03259).

Beside its answers, the policy predicts for each prompt what they will say, how many are right and how long they are. The
answers themselves are the truth that the predictions are paid for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mllmrec.prompts.examples import Example
from mllmrec.rewards.base import Rewards, Shaper
from mllmrec.rl.batch import POLICY, RolloutBatch, join
from mllmrec.rollout.base import Judge, PlainRollout, Speaker, Turn, WrappedRollout

META = "meta"  # the source of a prediction
SCALE = 8  # of the predicted number of right answers
QUESTION = (
    "Do not answer yet. Predict your own answers to the above, in one line of JSON and nothing else: words that right "
    f'answers have, how many of {SCALE} answers are right, and the tokens of a right answer, as in {{"notions": ["red"], '
    '"pass": 5, "length": 12}'
)
_OBJECT = re.compile(r"\{[^{}]*\}")


@dataclass(frozen=True)
class Prediction:
    """What a policy expects of its answers."""

    notions: tuple[str, ...] = ()
    passed: float | None = None  # 0 to `SCALE`
    length: float | None = None  # tokens


def read_prediction(text: str) -> Prediction:
    """The first JSON object of a text; what it does not have, or has in another form, is left empty."""
    found = _OBJECT.search(text)
    try:
        given = json.loads(found[0]) if found else {}
    except ValueError:
        given = {}
    notions = given.get("notions")
    words = [str(one).strip().casefold() for one in notions] if isinstance(notions, list) else []
    return Prediction(
        tuple(dict.fromkeys(filter(None, words))),
        _number(given.get("pass"), SCALE),
        _number(given.get("length"), float("inf")),
    )


def _number(value: object, most: float) -> float | None:
    right = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= most
    return float(value) if right else None  # type: ignore[arg-type]


class MetaRollouts(WrappedRollout):
    """The inner rollout's answers, and predictions of them: group 2k has the k-th example's answers, 2k + 1 predictions.

    With a ``gate`` the predictions are read first, and prompts that they call too hard or too easy are left out of the
    step, unless all are.
    """

    def __init__(
        self, inner: PlainRollout, predictions: int | None = None, gate: Sequence[float] | None = None
    ) -> None:
        super().__init__(inner)
        if inner.constrained:
            raise ValueError(
                "rollout.inner allows only the candidates' answers, but predictions are free text"
            )
        if predictions is not None and predictions < 2:
            raise ValueError(f"predictions={predictions}: one prediction has no group to be compared with")
        if gate is not None and not (len(gate) == 2 and 0 <= gate[0] < gate[1] <= 1):
            raise ValueError(f"gate={list(gate)}: must be two shares of right answers, as in [0.05, 0.95]")
        self.predictions, self.gate = predictions, gate
        self._left_out = 0.0

    def __call__(
        self, examples: Sequence[Example], speaker: Speaker, judge: Judge, turn: Turn
    ) -> RolloutBatch:
        """Two groups for each example that passes the gate."""
        meta = speaker.complete(
            examples,
            Turn(turn.step, self.predictions or turn.group_size),
            prompts=[f"{example.prompt}\n{QUESTION}" for example in examples],
            round_=META,
            source=META,
        )
        passed = self._passed(meta)
        self._left_out = 1 - len(passed) / len(examples)
        kept = torch.isin(meta.example_of, torch.tensor(passed))
        meta = meta.take(kept.nonzero()[:, 0])
        answers = speaker.complete(examples, Turn(turn.step, turn.group_size), which=passed)
        both = join([answers, meta])
        order = both.example_of.unique(return_inverse=True)[1]
        return replace(both, group_of=2 * order + both.by(META).long()).by_group()

    def _passed(self, meta: RolloutBatch) -> list[int]:
        """The examples whose answers are worth drawing."""
        everyone = list(range(len(meta.examples)))
        if self.gate is None:
            return everyone
        said: dict[int, list[float]] = {place: [] for place in everyone}
        for place, text in zip(meta.example_of.tolist(), meta.texts, strict=True):
            number = read_prediction(text).passed
            if number is not None:
                said[place].append(number / SCALE)
        low, high = self.gate
        # Where no prediction can be read, nothing speaks against the prompt.
        passed = [
            place for place, shares in said.items() if not shares or low <= sum(shares) / len(shares) <= high
        ]
        return passed or everyone

    def metrics(self) -> dict[str, float]:
        """The share of prompts that the gate left out."""
        return {"meta/left_out": self._left_out}


class MetaReward(Shaper):
    """The mean of three terms for each prediction; answers keep their rewards.

    - ``0.01 ** |share of right answers - predicted share|``;
    - 1 if the predicted length lies between the shortest and the longest right answer, else 0;
    - the share of predicted notions that more right answers than wrong ones contain.

    A term whose part of the prediction is missing is 0.
    """

    parts = ("meta_difficulty", "meta_length", "meta_notions")

    def __init__(self, right: float = 1.0, unprompted: bool = False) -> None:
        self.right, self.unprompted = right, unprompted

    def bounds(self, low: float, high: float) -> tuple[float, float]:
        """Predictions earn between 0 and 1."""
        return min(low, 0.0), max(high, 1.0)

    def __call__(self, batch: RolloutBatch) -> Rewards:
        """See the class."""
        judged, meta = batch.judged(), batch.by(META)
        answers = batch.by(POLICY)
        lengths = batch.completions.mask.sum(1).cpu()
        terms = torch.zeros(len(batch), 3)
        for row in meta.nonzero()[:, 0].tolist():
            peers = (answers & (batch.example_of == batch.example_of[row])).nonzero()[:, 0]
            if len(peers):
                right = judged[peers] >= self.right
                texts = [batch.texts[peer].casefold() for peer in peers.tolist()]
                prompt = batch.examples[int(batch.example_of[row])].prompt.casefold()
                terms[row] = self._terms(batch.texts[row], right, lengths[peers], texts, prompt)
        total = torch.where(meta, terms.mean(1), judged)
        return Rewards(total, dict(zip(self.parts, terms.unbind(1), strict=True)))

    def _terms(
        self, text: str, right: Tensor, lengths: Tensor, answers: Sequence[str], prompt: str
    ) -> Tensor:
        said = read_prediction(text)
        difficulty = length = notions = 0.0
        if said.passed is not None:
            difficulty = 0.01 ** abs(float(right.float().mean()) - said.passed / SCALE)
        if said.length is not None and right.any():
            good = lengths[right]
            length = float(float(good.min()) < said.length < float(good.max()))
        counted = [one for one in said.notions if not (self.unprompted and one in prompt)]
        if counted:
            signs = torch.where(right, 1, -1)
            has = torch.tensor([[one in answer for answer in answers] for one in counted])
            notions = float(((has * signs).sum(1) > 0).float().mean())
        return torch.tensor([difficulty, length, notions])
