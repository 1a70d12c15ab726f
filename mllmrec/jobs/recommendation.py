"""Ranking items for one history with a trained policy."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from mllmrec.data.filters import FilteredInteractions
from mllmrec.errors import UserError
from mllmrec.evaluation.calibration import calibration
from mllmrec.evaluation.metrics import order_by_score
from mllmrec.jobs.finished_run import FinishedBaseline, FinishedRun
from mllmrec.samples.prepared import Prepared

log = logging.getLogger(__name__)


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
    code_of = {item_id: code for code, item_id in enumerate(prepared.builder.ids)}
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

    The prompt lists ``candidates`` if there are no more of them than in training prompts. If there are more, or if the whole
    catalogue except ``excluded`` competes, it lists none. A second prompt then lists the ``shortlist`` best and ranks them
    again; the other items follow with their first scores.

    Raises:
        UserError: an id is unknown, or the policy names items by their place in a list and there are too many to list.
    """
    trained = run.prepared.trained_list
    if shortlist > trained:
        log.warning(
            "shortlist=%d: training prompts list only %d items, and policies rank longer lists badly",
            shortlist,
            trained,
        )
    if candidates is not None:
        items = item_codes(run.prepared, candidates)
        if len(items) <= trained:
            return _ranked(run, history, items, listed=True)
    else:
        offered = np.flatnonzero(run.prepared.items.offered).tolist()
        items = [item for item in offered if item not in excluded]
    naming = run.prepared.builder.naming
    if naming.by_place and isinstance(run, FinishedRun) and run.cfg.eval.ranking != "pointwise":
        raise UserError(
            f"the policy learnt to name an item by its {naming.label} in the prompt's list (prompt.label={naming.label}), so it "
            f"cannot rank {len(items):,} items at once: give up to {trained} items as candidates=[ITEM,ITEM,...]"
        )
    ranked = _ranked(run, history, items, listed=False)
    if shortlist < 2:
        return ranked
    # In catalogue order, so that positions do not reveal the order of the first pass.
    best = sorted(item for item, _ in ranked[:shortlist])
    return _ranked(run, history, best, listed=True) + ranked[shortlist:]


def score_name(run: FinishedRun | FinishedBaseline) -> str:
    """What a run's scores are, as the head of a column."""
    if isinstance(run, FinishedBaseline):
        return "score"
    settings = run.cfg.eval
    return "score" if settings.ranking == "pointwise" or calibration(settings) else "log-probability"


def _ranked(
    run: FinishedRun | FinishedBaseline, history: Sequence[int], items: list[int], *, listed: bool
) -> list[tuple[int, float]]:
    scores = run.scores(history, items, listed)
    order = order_by_score(scores[None], ["recommend"], run.prepared.seed)[0]
    return [(items[column], float(scores[column])) for column in order]
