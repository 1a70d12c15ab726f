"""M-GRPO (Hong et al. 2025, arXiv 2511.13288): a main agent and a helper are trained together, each compared with its own kind.

The authors' helper is another model that searches the web. Here the same policy plays both: it writes profiles of the user,
and then answers prompts that show them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from mllmrec.prompts.examples import Example
from mllmrec.prompts.markup import neutral
from mllmrec.rewards.base import Rewards, Shaper
from mllmrec.rl.batch import RolloutBatch, join
from mllmrec.rollout.base import Judge, PlainRollout, Speaker, Turn, WrappedRollout

PROFILE = "profile"  # the source of a profile
QUESTION = "Do not answer yet. Describe in one line what this user likes, for a colleague who will answer."


class WithHelper(WrappedRollout):
    """Profiles of each user, and answers that have read them: group 2k has the k-th example's answers, 2k + 1 the profiles.

    Each answer reads ``profiles`` of its own, which stand before the prompt and are learnt under the question for them. The
    i-th answer of a group has read the i-th ``profiles`` ones.
    """

    def __init__(self, inner: PlainRollout, profiles: int = 1) -> None:
        super().__init__(inner)
        if inner.constrained:
            raise ValueError("rollout.inner allows only the candidates' answers, but profiles are free text")
        if profiles < 1:
            raise ValueError(f"profiles={profiles}: an answer must read one or more")
        self.profiles = profiles

    def __call__(
        self, examples: Sequence[Example], speaker: Speaker, judge: Judge, turn: Turn
    ) -> RolloutBatch:
        """Two groups for each example."""
        count = turn.group_size * self.profiles
        profiles = speaker.complete(
            examples,
            Turn(turn.step, count),
            prompts=[f"{example.prompt}\n{QUESTION}" for example in examples],
            round_=PROFILE,
            source=PROFILE,
        )
        answers = []
        for number in range(turn.group_size):
            read = [
                profiles.texts[place * count + number * self.profiles :][: self.profiles]
                for place in range(len(examples))
            ]
            prompts = [
                "\n".join([*(f"A colleague says: {neutral(text)}" for text in texts), example.prompt])
                for texts, example in zip(read, examples, strict=True)
            ]
            answers.append(
                speaker.complete(examples, Turn(turn.step, 1), prompts=prompts, round_=f"answer {number}")
            )
        both = join([*answers, profiles])
        return replace(both, group_of=2 * both.example_of + both.by(PROFILE).long()).by_group()


class ProfileReward(Shaper):
    """Pays profiles ``form * f + answer * a + expert * e``; answers keep their rewards.

    f is 1 if the profile ended within the limit and is not empty. a is the accuracy of the answer that read it: the reward's
    part of this name, or the total if there is no such part. e is the share of the words of the target's title that the
    profile has; the authors ask a language model in its place.
    """

    parts = ("profile_form", "profile_answer", "profile_expert")

    def __init__(
        self, form: float = 0.1, answer: float = 0.4, expert: float = 0.5, accuracy: str = "hit"
    ) -> None:
        self.form, self.answer, self.expert, self.accuracy = form, answer, expert, accuracy

    def bounds(self, low: float, high: float) -> tuple[float, float]:
        """A part such as ``hit`` is at most 1, a total at most ``high``."""
        return min(low, 0.0), max(high, self.form + self.answer * max(high, 1.0) + self.expert)

    def __call__(self, batch: RolloutBatch) -> Rewards:
        """See `Shaper`."""
        judged, written = batch.judged(), batch.by(PROFILE)
        accuracy = batch.parts.get(self.accuracy, judged)
        form, answer, expert = (torch.zeros(len(batch)) for _ in range(3))
        for example in batch.example_of.unique().tolist():
            own = batch.example_of == example
            readers, read = (own & ~written).nonzero()[:, 0], (own & written).nonzero()[:, 0]
            if not len(readers) or not len(read):
                continue
            question = batch.questions[example]
            wanted = set(question.titles[question.target_id].casefold().split())
            for place, row in enumerate(read.tolist()):
                said = batch.texts[row].casefold().split()
                form[row] = float(bool(batch.finished[row]) and bool(said))
                answer[row] = accuracy[readers[place * len(readers) // len(read)]]
                expert[row] = len(wanted.intersection(said)) / max(len(wanted), 1)
        paid = self.form * form + self.answer * answer + self.expert * expert
        return Rewards(
            torch.where(written, paid, judged), dict(zip(self.parts, (form, answer, expert), strict=True))
        )
