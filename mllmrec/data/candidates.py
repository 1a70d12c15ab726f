"""Candidates to rank: the target and negatives that the user did not interact with, or the whole catalogue.

In evaluation a negative is any item on offer that its user never interacted with: at any time, in any file, even
where a filter left the interaction out. An item is on offer if it has a title. If a subset of the users was chosen,
an item that only other users interacted with is not on offer.

In training a negative is any item on offer that the user did not interact with up to the user's last training target.
Held-out items are drawn like any other unseen item. If they were spared, training would give them away: an item that
is never listed to a user as wrong would be an item that the user takes later. The user's own later training targets
are spared, as is usual when negatives are sampled against the training interactions. They are no secret, since
training shows them as right answers, and an item should not be right in one prompt of a user and wrong in another.
This rule is the same for every split. ``leave_one_out`` spares all but the user's last two items, ``time`` spares
what lies before the first cut, and ``given`` spares the train sequence but not the same person's test sequence.
``cold_items`` narrows what is on offer: no cold item in training, and in evaluation only cold ones (`data.cold_items`).

Under ``weighting="popularity"`` a negative must also occur in training. Items are drawn one after the other, without
replacement, in proportion to their training counts. (A placeholder title counts as a title. If untitled items were
only ever targets, their look would give them away.)

A generator named by the seed, the split and the sample id makes every random choice for a sample, and items are drawn
in the order of their ids. So a sample's candidates depend on the catalogue and (under popularity) on the training
counts, but not on which other users are present nor on any file order.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mllmrec import randomness
from mllmrec.cache import Digest, fingerprint, source_fingerprint
from mllmrec.data.base import Interactions, Items
from mllmrec.data.candidate_sets import CandidateSet, combine_digests, frozen, row_digest
from mllmrec.data.cold_items import ColdItemInteractions
from mllmrec.data.filters import FilteredInteractions, people_of
from mllmrec.data.splits import Samples, latest_targets, training_counts
from mllmrec.errors import UserError

BLOCK = 4096  # samples drawn at a time; bounds the memory at BLOCK x (2.5 N) doubles


@dataclass(frozen=True)
class CandidateSampler:
    """The settings of a candidate protocol: `num_negatives` N, how they are weighted, and the seed.

    Raises:
        UserError: a setting is out of range.
    """

    num_negatives: int
    weighting: Literal["uniform", "popularity"] = "uniform"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_negatives < 1:
            raise UserError(
                f"num_negatives={self.num_negatives} must be at least 1, or full for the whole catalogue"
            )
        if self.weighting not in ("uniform", "popularity"):
            raise UserError(
                f"negatives weighted by {self.weighting!r} are not known; give uniform or popularity"
            )

    def bind(self, catalogue: Catalogue, train: Samples) -> CandidateSource:
        """Prepare drawing for a dataset.

        Args:
            catalogue: the items, and what each user's negatives must avoid.
            train: the training samples, which give the popularity. Items that are kept out of training have none
                there, so if only they are on offer, the number of people who have them counts.
        """
        if self.weighting == "uniform":
            return CandidateSource(self, catalogue, catalogue.offered.astype(np.float64))
        if catalogue.only_cold:
            counts = np.bincount(catalogue.seen % len(catalogue.items), minlength=len(catalogue.items))
        else:
            counts = training_counts(train, len(catalogue.items))[catalogue.code_of_rank]
        return CandidateSource(self, catalogue, np.where(catalogue.offered, counts, 0).astype(np.float64))


class Catalogue:
    """Who has interacted with what, by rank. The rank of an item is its place among all items sorted by id."""

    def __init__(self, interactions: Interactions, items: Items, known: Samples | None = None) -> None:
        """Record every pair of a person and an item.

        Args:
            interactions: the interactions of all users.
            items: the I items.
            known: count only what each sequence holds up to and including the latest of these targets, so that
                negatives know nothing of what comes after. None: everything counts.
        """
        self.interactions, self.items = interactions, items
        self.code_of_rank = np.argsort(items.ids, kind="stable").astype(np.int32)  # (I,)
        self.rank_of_code = np.empty(len(items), dtype=np.int64)
        self.rank_of_code[self.code_of_rank] = np.arange(len(items))
        offered, self.only_cold = items.offered, False
        if isinstance(interactions, ColdItemInteractions):
            offered = interactions.may_be_negatives(items, training=known is not None)
            self.only_cold = known is None and interactions.negatives == "cold"
        self.offered = offered[self.code_of_rank]  # (I,) bool
        self.person = (
            np.arange(interactions.num_users, dtype=np.int64)
            if interactions.given_split is None
            else people_of(interactions.user_ids)
        )
        sequences = np.repeat(np.arange(interactions.num_users), np.diff(interactions.offsets))
        codes = interactions.items
        positions = np.arange(len(codes))
        if isinstance(interactions, FilteredInteractions):
            sequences = np.concatenate([sequences, interactions.hidden_users])
            codes = np.concatenate([codes, interactions.hidden_items])
            positions = np.concatenate([positions, interactions.hidden_positions])
        if known is not None:
            counted = positions <= latest_targets(known)[sequences]
            sequences, codes = sequences[counted], codes[counted]
        pairs = self.person[sequences] * len(items) + self.rank_of_code[codes]
        pairs.sort()
        self.seen = pairs[np.diff(pairs, prepend=-1) > 0]  # person x I + rank, sorted, each once

    def has_seen(self, people: np.ndarray, ranks: np.ndarray) -> np.ndarray:
        """For (S, 1) people and (S, M) ranks: (S, M) bool."""
        pairs = people * len(self.items) + ranks
        places = np.minimum(np.searchsorted(self.seen, pairs), len(self.seen) - 1)
        return self.seen[places] == pairs

    def seen_ranks(self, person: int) -> np.ndarray:
        """Ranks of all items that one person interacted with, as far as the interactions count."""
        size = len(self.items)
        start, end = np.searchsorted(self.seen, [person * size, (person + 1) * size])
        return self.seen[start:end] - person * size

    def full_candidates(self, samples: Samples, index: int) -> np.ndarray:
        """All items on offer that the user never interacted with, and the target: item codes in catalogue order."""
        allowed = self.offered.copy()
        allowed[self.seen_ranks(self.person[samples.users[index]])] = False
        allowed[self.rank_of_code[samples.target(index)]] = True
        return np.sort(self.code_of_rank[allowed])

    def full_hash(self, samples: Samples) -> str:
        """Content hash of the full-catalogue protocol: the catalogue, and each user's target and excluded items."""
        ids = self.items.ids.astype(object)[self.code_of_rank]
        digests = [
            row_digest(
                samples.user_id(index),
                str(self.items.ids[samples.target(index)]),
                ids[self.seen_ranks(self.person[samples.users[index]])].tolist(),
            )
            for index in range(len(samples))
        ]
        return combine_digests([row_digest("", "full", ids[self.offered].tolist()), *digests])


class CandidateSource:
    """Draws candidates for any sample of one dataset. Made by `CandidateSampler.bind`; C = N + 1."""

    def __init__(self, sampler: CandidateSampler, catalogue: Catalogue, weights: np.ndarray) -> None:
        self.sampler, self.catalogue = sampler, catalogue
        self._weights = weights  # (I,) by rank; weight 0 means never a negative
        self._pool = np.flatnonzero(weights)
        self._cumulative = np.cumsum(weights[self._pool])
        people_seen, ranks_seen = np.divmod(catalogue.seen, len(catalogue.items))
        blocked = np.bincount(people_seen[weights[ranks_seen] > 0], minlength=int(catalogue.person.max()) + 1)
        self._pool_sizes = len(self._pool) - blocked  # per person

    def check(self, samples: Samples) -> None:
        """Refuse a pool that is too small for N, before anything is drawn.

        Raises:
            UserError: the pool is too small. The message names a user, the pool's size, N and what to do.
        """
        sizes = self._pool_sizes[self.catalogue.person[samples.users]]
        short = np.flatnonzero(sizes < self.sampler.num_negatives)
        if len(short):
            worst = int(short[np.argmin(sizes[short])])
            kind = "items" if self.sampler.weighting == "uniform" else "items that occur in training"
            more = "more items (k_core, unused_items)"
            if self.catalogue.only_cold:
                kind, more = "cold items", "more cold items (split.share)"
            raise UserError(
                f"user {samples.user_id(worst)} has only {sizes[worst]} of {len(self._pool)} {kind} left as negatives, "
                f"but num_negatives={self.sampler.num_negatives} ({len(short)} of {len(samples)} samples have too few): "
                f"lower num_negatives, take the full catalogue, or keep {more} or users (max_users)"
            )

    def candidates_of(self, samples: Samples, index: int, split: str) -> tuple[np.ndarray, int]:
        """(C,) item codes of one sample and the target's column, exactly as `freeze` would store them.

        Raises:
            UserError: the pool is too small.
        """
        one = Samples(
            samples.interactions, samples.users[index : index + 1], samples.positions[index : index + 1]
        )
        self.check(one)
        items, columns = self._draw(one, split)
        return items[0], int(columns[0])

    def freeze(self, samples: Samples, split: str) -> CandidateSet:
        """Draw the candidates of all samples.

        Raises:
            UserError: the pool of some user is too small.
        """
        self.check(samples)
        candidates = np.empty((len(samples), self.sampler.num_negatives + 1), dtype=np.int32)
        columns = np.empty(len(samples), dtype=np.int64)
        for start in range(0, len(samples), BLOCK):
            block = slice(start, start + BLOCK)
            part = Samples(samples.interactions, samples.users[block], samples.positions[block])
            candidates[block], columns[block] = self._draw(part, split)
        user_ids = samples.interactions.user_ids[samples.users]
        return CandidateSet.build(
            np.array(samples.sample_ids, dtype=object), user_ids, candidates, columns, self.catalogue.items
        )

    def key(self, samples: Samples, split: str) -> dict[str, Any]:
        """Everything that determines what `freeze` draws, as JSON values.

        The key is made of the data that is drawn from, not of the names and settings that led to it. Other data under
        the same settings has another key.
        """
        catalogue, sampler = self.catalogue, self.sampler
        return {
            "items": fingerprint(catalogue.items.ids[catalogue.code_of_rank].tolist()),
            "seen": _array_fingerprint(catalogue.seen),
            "weights": _array_fingerprint(self._weights),  # these also reflect the weighting
            "samples": fingerprint(samples.sample_ids),
            "people": _array_fingerprint(catalogue.person[samples.users]),
            "targets": _array_fingerprint(catalogue.rank_of_code[samples.targets]),
            "split": split,
            "num_negatives": sampler.num_negatives,
            "seed": sampler.seed,
            "code": source_fingerprint(__file__, randomness.__file__, libraries=("numpy",)),
        }

    def stored(self, cache_dir: Path, samples: Samples, split: str) -> CandidateSet:
        """What `freeze` draws, read from ``cache_dir`` if it was drawn before.

        Raises:
            UserError: the pool of some user is too small.
        """
        key = self.key(samples, split)
        return frozen(cache_dir, key, lambda: self.freeze(samples, split), self.catalogue.items, samples)

    def _draw(self, samples: Samples, split: str) -> tuple[np.ndarray, np.ndarray]:
        """(S, C) item codes and (S,) target columns.

        Items are drawn with replacement, then watched and repeated items are struck out. This equals drawing without
        replacement from the rest. `_complete` completes the few samples that run short; no draw is repeated until it
        fits.
        """
        negatives_wanted = self.sampler.num_negatives
        num_candidates, num_picks = negatives_wanted + 1, negatives_wanted + negatives_wanted // 2 + 16
        uniform = np.empty((len(samples), num_candidates + num_picks))
        for index in range(len(samples)):
            self._generator(samples, index, split).random(out=uniform[index])

        scaled = uniform[:, num_candidates:] * self._cumulative[-1]
        if self.sampler.weighting == "uniform":
            places = scaled.astype(np.int64)
        else:
            places = np.searchsorted(self._cumulative, scaled, side="right")
        picks = self._pool[np.minimum(places, len(self._pool) - 1)]
        people = self.catalogue.person[samples.users]
        usable = ~self.catalogue.has_seen(people[:, None], picks) & ~_repeats_in_row(picks)
        usable &= np.cumsum(usable, axis=1) <= negatives_wanted

        chosen = np.empty((len(samples), num_candidates), dtype=np.int64)
        chosen[:, 0] = self.catalogue.rank_of_code[samples.targets]
        enough = usable.sum(axis=1) == negatives_wanted
        chosen[enough, 1:] = picks[enough][usable[enough]].reshape(-1, negatives_wanted)
        for index in np.flatnonzero(~enough).tolist():
            generator = self._generator(samples, index, split)
            generator.random(uniform.shape[1])
            chosen[index, 1:] = self._complete(generator, people[index], picks[index][usable[index]])

        order = np.argsort(uniform[:, :num_candidates], axis=1)
        shuffled = np.take_along_axis(chosen, order, axis=1)
        return self.catalogue.code_of_rank[shuffled], np.argmin(order, axis=1)

    def _complete(self, generator: np.random.Generator, person: int, drawn: np.ndarray) -> np.ndarray:
        """(N,) ranks: `drawn`, completed by an exponential race, which is exactly successive weighted sampling."""
        weights = self._weights.copy()
        weights[self.catalogue.seen_ranks(person)] = 0
        weights[drawn] = 0
        left = np.flatnonzero(weights)
        finish = generator.exponential(size=len(left)) / weights[left]
        missing = self.sampler.num_negatives - len(drawn)
        return np.concatenate([drawn, left[np.argsort(finish)[:missing]]])

    def _generator(self, samples: Samples, index: int, split: str) -> np.random.Generator:
        return randomness.numpy_generator(self.sampler.seed, "candidates", split, samples.sample_id(index))


def _array_fingerprint(values: np.ndarray) -> str:
    digest = Digest()
    digest.add(str(values.dtype), np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def _repeats_in_row(values: np.ndarray) -> np.ndarray:
    """(S, M) bool: equal to an earlier value of the same row."""
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    repeated = np.zeros(values.shape, dtype=bool)
    np.put_along_axis(repeated, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    return repeated
