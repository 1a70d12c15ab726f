"""Ranking items for one history with a trained policy."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mllmrec.data.filters import FilteredInteractions
from mllmrec.errors import UserError
from mllmrec.evaluation.calibration import calibration
from mllmrec.evaluation.metrics import order_by_score
from mllmrec.jobs.finished_run import FinishedBaseline, FinishedRun, Query, Scored, open_run
from mllmrec.samples.prepared import Prepared

log = logging.getLogger(__name__)


class Recommendation(NamedTuple):
    """One place of a ranked list; a language model's score is a log-probability, unless its evaluation corrects it."""

    item: str
    title: str
    score: float


class Recommender:
    """Ranks items for a history or a user with what a finished run trained.

    Several threads may share one: one of them ranks at a time, and the others wait.
    """

    def __init__(self, run: FinishedRun | FinishedBaseline) -> None:
        self.run = run
        # A pass replaces the forward functions of the model's layers, so two passes at a time would break each other.
        self._lock = threading.Lock()

    @classmethod
    def load(cls, folder: str | Path, stage: str | None = None, trust: Sequence[str] = ()) -> Recommender:
        """Open a run.

        Args:
            folder: the run's folder.
            stage: a trained phase; None: the last.
            trust: packages and servers that the run's settings may name.

        Raises:
            UserError: there is no such run or phase, nothing was trained, or the settings name what nobody trusts.
        """
        return cls(open_run(str(folder), stage, trust=trust))

    @property
    def shortlist(self) -> int:
        """How many of the best items a second prompt ranks anew unless a caller says otherwise: as many as training prompts list."""
        return self.run.prepared.trained_list

    @property
    def score_name(self) -> str:
        """What scores are."""
        return score_name(self.run)

    def rank(
        self,
        history: Sequence[str | int],
        candidates: Sequence[str | int] | None = None,
        k: int | None = 10,
        *,
        shortlist: int | None = None,
    ) -> list[Recommendation]:
        """The best ``k`` items for a history, best first.

        Args:
            history: item ids, oldest first.
            candidates: item ids to rank; None: the whole catalogue without the history.
            k: how many; None: all.
            shortlist: how many of the best a second prompt ranks anew, if there are more than one prompt lists; None: as many
                as training prompts list; 0: none.

        Raises:
            UserError: an id is unknown, or the policy cannot rank so many items.
        """
        return self._ranked(None, history, candidates, k, shortlist)

    def rank_for(
        self,
        user: str | int,
        candidates: Sequence[str | int] | None = None,
        k: int | None = 10,
        *,
        shortlist: int | None = None,
    ) -> list[Recommendation]:
        """The best ``k`` items for a user of the run's data; what the user interacted with is left out. See `rank`.

        Raises:
            UserError: the user is unknown, or as in `rank`.
        """
        return self._ranked(user, None, candidates, k, shortlist)

    def _ranked(
        self,
        user: str | int | None,
        history: Sequence[str | int] | None,
        candidates: Sequence[str | int] | None,
        k: int | None,
        shortlist: int | None,
    ) -> list[Recommendation]:
        known, excluded, _ = history_of(self.run.prepared, user, history)
        again = self.shortlist if shortlist is None else shortlist
        with self._lock:
            ranked = rank_items(self.run, known, excluded, candidates=candidates, shortlist=again)
        builder = self.run.prepared.builder
        return [Recommendation(builder.ids[item], builder.titles[item], score) for item, score in ranked[:k]]


@dataclass(frozen=True)
class Wanted:
    """A ranking that is asked for."""

    history: Sequence[int]  # item codes, oldest first
    items: Sequence[int]  # C item codes to rank
    listed: bool  # whether one prompt lists them all
    shortlist: int = 0  # if not, how many of the best a second prompt lists and ranks again


@dataclass(frozen=True)
class Ranked:
    """A ranking, best first."""

    items: np.ndarray  # (C,) item codes
    scores: np.ndarray  # (C,) float64; behind a shortlist, those of the prompt that lists nothing
    reasoning: tuple[str, ...] = ()  # behind the best items; empty if the run writes none


def history_of(
    prepared: Prepared, user: str | int | None, history: Sequence[str | int] | None
) -> tuple[list[int], set[int], str]:
    """The history to continue, the items not to recommend, and a name for the history.

    Args:
        prepared: the run's data.
        user: take the whole sequence of this user. Items that a filter or the split took out of it are not recommended either.
        history: or take these item ids, oldest first.

    Raises:
        UserError: ``user`` and ``history`` are both given or both missing, or an id is unknown.
    """
    if (user is None) == (history is None):
        raise UserError("give either user=ID or history=[ITEM,ITEM,...]")
    if history is not None:
        items = item_codes(prepared, history)
        return items, set(items), "the items typed in"
    places = np.flatnonzero(prepared.interactions.user_ids == str(user))
    if len(places) == 0:
        some = ", ".join(map(str, prepared.interactions.user_ids[:5]))
        raise UserError(f"user={user} is not in the data after filtering; users are, for example, {some}")
    sequences = [prepared.interactions.of_user(int(place)).tolist() for place in places]
    known = {item for sequence in sequences for item in sequence}
    if isinstance(prepared.interactions, FilteredInteractions):
        hidden = np.isin(prepared.interactions.hidden_users, places)
        known |= set(prepared.interactions.hidden_items[hidden].tolist())
    return sequences[-1], known, f"user {user}"


def item_codes(prepared: Prepared, ids: Sequence[str | int]) -> list[int]:
    """The item codes of these ids.

    Raises:
        UserError: an id is unknown.
    """
    code_of = prepared.code_of
    unknown = [str(item) for item in ids if str(item) not in code_of]
    if unknown or not ids:
        some = ", ".join(prepared.builder.ids[:5])
        raise UserError(
            f"unknown item ids: {', '.join(unknown) or '(none given)'}; items are, for example, {some}"
        )
    return [code_of[str(item)] for item in ids]


def rank_items(
    run: FinishedRun | FinishedBaseline,
    history: Sequence[int],
    excluded: set[int],
    *,
    candidates: Sequence[str | int] | None = None,
    shortlist: int = 0,
) -> list[tuple[int, float]]:
    """Items with their scores, best first; a language model's scores are log-probabilities.

    `wanted` says which prompts list the items.

    Raises:
        UserError: an id is unknown, or the policy names items by their place in a list and there are too many to list.
    """
    codes = None if candidates is None else item_codes(run.prepared, candidates)
    (ranked,) = rank_together(run, [wanted(run, history, excluded, candidates=codes, shortlist=shortlist)])
    return list(zip(ranked.items.tolist(), ranked.scores.tolist(), strict=True))


def wanted(
    run: FinishedRun | FinishedBaseline,
    history: Sequence[int],
    excluded: set[int],
    *,
    candidates: Sequence[int] | None = None,
    shortlist: int = 0,
) -> Wanted:
    """The ranking of item codes ``candidates``, or of the whole catalogue except ``excluded``, behind a history.

    The prompt lists ``candidates`` if there are no more of them than in training prompts. If there are more, or if the whole
    catalogue competes, it lists none. A second prompt then lists the ``shortlist`` best and ranks them again; the other items
    follow with their first scores.

    Raises:
        UserError: no item is left to rank, or the policy names items by their place in a list and there are too many to list.
    """
    trained = run.prepared.trained_list
    if shortlist > trained:
        log.warning(
            "shortlist=%d: training prompts list only %d items, and policies rank longer lists badly",
            shortlist,
            trained,
        )
    if candidates is not None:
        items = list(candidates)
        if len(items) <= trained:
            return Wanted(history, items, listed=True)
    else:
        offered = np.flatnonzero(run.prepared.items.offered).tolist()
        items = [item for item in offered if item not in excluded]
        if not items:
            raise UserError("no item is left to recommend: the history has the whole catalogue")
    naming = run.prepared.builder.naming
    if naming.by_place and isinstance(run, FinishedRun) and run.cfg.eval.ranking != "pointwise":
        raise UserError(
            f"the policy learnt to name an item by its {naming.label} in the prompt's list (prompt.label={naming.label}), so it "
            f"cannot rank {len(items):,} items at once: give up to {trained} items as candidates=[ITEM,ITEM,...]"
        )
    return Wanted(history, items, listed=False, shortlist=shortlist)


def rank_together(run: FinishedRun | FinishedBaseline, requests: Sequence[Wanted]) -> list[Ranked]:
    """The rankings of several requests, scored in as few passes as one request takes."""
    firsts = _ranked(run, [Query(one.history, one.items, one.listed) for one in requests])
    again = [place for place, one in enumerate(requests) if one.shortlist >= 2 and not one.listed]
    if not again:
        return firsts
    # In catalogue order, so that positions do not reveal the order of the first pass.
    lists = [sorted(firsts[place].items[: requests[place].shortlist].tolist()) for place in again]
    heads = _ranked(
        run, [Query(requests[place].history, own, True) for place, own in zip(again, lists, strict=True)]
    )
    for place, head in zip(again, heads, strict=True):
        first, size = firsts[place], len(head.items)
        firsts[place] = Ranked(
            np.concatenate([head.items, first.items[size:]]),
            np.concatenate([head.scores, first.scores[size:]]),
            head.reasoning,
        )
    return firsts


def score_name(run: FinishedRun | FinishedBaseline) -> str:
    """What a run's scores are, as the head of a column."""
    if isinstance(run, FinishedBaseline):
        return "score"
    settings = run.cfg.eval
    return "score" if settings.ranking == "pointwise" or calibration(settings) else "log-probability"


def _ranked(run: FinishedRun | FinishedBaseline, queries: Sequence[Query]) -> list[Ranked]:
    return [
        _ordered(query, scored, run.prepared.seed)
        for query, scored in zip(queries, run.scored(queries), strict=True)
    ]


def _ordered(query: Query, scored: Scored, seed: int) -> Ranked:
    order = order_by_score(scored.scores[None], ["recommend"], seed)[0]
    return Ranked(np.array(query.items)[order], np.asarray(scored.scores)[order], scored.reasoning)
