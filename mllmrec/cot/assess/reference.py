"""Measures how reasoning changes the answers of a finished run's policy, for users that it was not trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import torch

from mllmrec.cot.assess.prediction import lift
from mllmrec.cot.base import CotKey
from mllmrec.data.base import TEST, Interactions, Items
from mllmrec.data.candidates import CandidateSampler, Catalogue
from mllmrec.data.splits import Samples
from mllmrec.errors import UserError
from mllmrec.prompts.builder import PromptBuilder
from mllmrec.prompts.examples import Example, Examples
from mllmrec.reasoners.base import HistoryItem
from mllmrec.screen.progress import track

TRAINED, UNKNOWN = "the reference trained on this user", "unknown to the reference"


class Effect(NamedTuple):
    """The effect of one text."""

    lift: float  # nats, see `lift`
    agreement: (
        float  # probability of the likeliest candidate given the text: `modal_share` of infinitely many draws
    )


@dataclass(frozen=True)
class RunData:
    """Data of a finished run, as its prompts need it."""

    interactions: Interactions
    items: Items
    train: Samples
    builder: PromptBuilder
    history_length: int
    seed: int


@dataclass(frozen=True)
class Judge:
    """The last policy of a finished run, opened."""

    own: RunData  # of the users that the run was about
    everyone: RunData  # of all users of its dataset; item codes are the same
    num_negatives: int
    weighting: Literal["uniform", "popularity"]  # of negatives
    # S examples with C candidates each -> (S, C) log-probabilities, renormalised over the candidates
    scores: Callable[[Sequence[Example]], np.ndarray]


OpenJudge = Callable[[str], Judge]  # takes the run's folder


class Reference:
    """The last policy of a finished run. It is opened when it is first needed.

    The run may have trained on part of the users (``dataset.max_users``); here the policy sees all users of the
    dataset. A text about a user that the policy was trained on is not measured: the policy knows that answer by heart,
    so no text helps.

    Args:
        run: the run's folder.
        open_judge: opens it.
    """

    def __init__(self, run: str, open_judge: OpenJudge) -> None:
        self.run, self._open_judge = run, open_judge

    def barred(self, keys: Sequence[CotKey], items: Mapping[str, HistoryItem]) -> dict[CotKey, str]:
        """The samples that the policy cannot judge, and why: `TRAINED` or `UNKNOWN`.

        Args:
            keys: the samples.
            items: by id, to check that the run knows the same items.

        Raises:
            UserError: there is no such run, or it was trained on other data.
        """
        reasons = {}
        for key in keys:
            if key.user_id in self._trained_users:
                reasons[key] = TRAINED
            elif self._place(key) is None:
                reasons[key] = UNKNOWN
        shown = {item for key in keys for item in (*key.history_ids, key.target_id)}
        known = self._judge.everyone.items
        titles = dict(zip(known.ids, known.titles, strict=True))
        for item in sorted(shown):
            if item in titles and titles[item] != items[item].title:
                raise UserError(
                    f"cot_policy.reference={self.run}: item {item} is {titles[item]!r} there and "
                    f"{items[item].title!r} here; name a run on the same dataset"
                )
        return reasons

    def judges_none(self, barred: Mapping[CotKey, str]) -> UserError:
        """The error for a user if all samples are barred."""
        trained = sum(reason == TRAINED for reason in barred.values())
        return UserError(
            f"cot_policy.reference={self.run}: it was trained on the users of {trained} of {len(barred)} samples and does "
            f"not know the other {len(barred) - trained}, so it can judge none; train one on part of the users "
            "(dataset.max_users=N) and judge the others with it"
        )

    def effects(self, texts: Mapping[CotKey, str], draw: str, batch_size: int = 16) -> dict[CotKey, Effect]:
        """The effect of each sample's text as a hint in the prompt, compared over the candidates only.

        Args:
            texts: reasoning by sample; no sample is barred.
            draw: the name of the draw of negatives; another name draws other negatives.
            batch_size: samples at once.
        """
        if not texts:
            return {}
        judge, data = self._judge, self._judge.everyone
        keys = list(texts)
        places = [place for key in keys if (place := self._place(key)) is not None]
        users, positions = zip(*places, strict=True)
        samples = Samples(data.interactions, np.array(users, np.int32), np.array(positions, np.int64))
        train = data.train
        # As in training, negatives know nothing of what comes later. They do know the samples themselves: under
        # another split than the run's, these may lie behind its training targets.
        known = Samples(
            data.interactions,
            np.concatenate([train.users, samples.users]),
            np.concatenate([train.positions, samples.positions]),
        )
        negatives = CandidateSampler(judge.num_negatives, judge.weighting, data.seed).bind(
            # The run's own items (their codes are the same): only those that its policy may have met.
            Catalogue(data.interactions, judge.own.items, known),
            train,
        )
        examples = Examples(
            samples,
            data.builder,
            lambda index: negatives.candidates_of(samples, index, draw),
            history_length=data.history_length,
        )
        found: dict[CotKey, Effect] = {}
        batches = [
            range(start, min(start + batch_size, len(keys))) for start in range(0, len(keys), batch_size)
        ]
        for batch in track(batches, "CoT effects", len(keys), "samples", weigh=len):
            with torch.no_grad():
                told, plain = (
                    torch.as_tensor(
                        judge.scores(
                            [
                                examples.with_reasoning(index, texts[keys[index]] if said else None)
                                for index in batch
                            ]
                        )
                    )
                    for said in (True, False)
                )
            columns = np.array([examples[index].target_column for index in batch])
            gains = lift(told, plain, columns).tolist()
            shares = told.softmax(1).amax(1).tolist()
            for index, *both in zip(batch, gains, shares, strict=True):
                found[keys[index]] = Effect(*both)
        return found

    @cached_property
    def _judge(self) -> Judge:
        return self._open_judge(self.run)

    @cached_property
    def _trained_users(self) -> frozenset[str]:
        """The users with a training sequence in the run, even if it was too short to give a sample."""
        interactions = self._judge.own.interactions
        given = interactions.given_split
        users = interactions.user_ids if given is None else interactions.user_ids[given != TEST]
        return frozenset(map(str, users))

    @cached_property
    def _sequences(self) -> dict[str, int]:
        """User id → the user's place in the interactions; with a given split, the place of the training sequence."""
        interactions = self._judge.everyone.interactions
        given = interactions.given_split
        return {
            str(user): place
            for place, user in enumerate(interactions.user_ids)
            if given is None or given[place] != TEST
        }

    def _place(self, key: CotKey) -> tuple[int, int] | None:
        """(user, place of the target in the interactions), if the run's data has exactly this sample."""
        user = self._sequences.get(key.user_id)
        if user is None:
            return None
        data = self._judge.everyone
        interactions = data.interactions
        position = int(interactions.offsets[user]) + int(key.sample_id.rpartition(":")[2])
        start = position - len(key.history_ids)
        if start < interactions.offsets[user] or position >= interactions.offsets[user + 1]:
            return None
        ids = tuple(data.items.ids[interactions.items[start : position + 1]].tolist())
        return (user, position) if ids == (*key.history_ids, key.target_id) else None
