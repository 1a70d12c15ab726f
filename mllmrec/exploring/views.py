"""What the pages show, as plain values: a user, a ranking, slices, rollouts."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any, Literal

from mllmrec.errors import UserError
from mllmrec.evaluation.metrics import metric_names
from mllmrec.exploring.opened import OpenedRun
from mllmrec.exploring.stored import Key, StoredRun, UserRow
from mllmrec.exploring.training import Timeline, chosen, slice_rows, timeline
from mllmrec.jobs.recommendation import item_codes

log = logging.getLogger(__name__)

State = Literal["waiting", "open", "closed"]


class Explored:
    """One run on the pages: its folder, and its data and weights as far as they can be opened.

    Args:
        name: what the pages call it.
        stored: its folder.
        trust: packages outside of mllmrec, and servers, that the run's settings may name.
    """

    def __init__(self, name: str, stored: StoredRun, trust: Sequence[str] = ()) -> None:
        self.name = name
        self._stored = {False: stored}
        self.opened = OpenedRun(stored, trust)
        self.data_state: State = "waiting"
        self.data_problem = ""  # why the data is closed, as a sentence

    def stored(self, other: bool = False) -> StoredRun:
        """The folder's rankings, or those among the other kind of negatives.

        Raises:
            UserError: there is only one kind.
        """
        if other not in self._stored:
            self._stored[other] = StoredRun(self._stored[False].path, other)
        return self._stored[other]

    def open(self) -> None:
        """Read the data, once. Where that fails, the folder's own files are still shown."""
        if self.data_state != "waiting":
            return
        try:
            _ = self.opened.prepared
            self.data_state = "open"
        except Exception as error:
            # Of a stranger's run anything may fail here: its data is elsewhere, its parts are not installed.
            if not isinstance(error, UserError):
                log.exception("the data of %s cannot be opened", self._stored[False].path)
            self.data_problem = " ".join(str(error).split()) or type(error).__name__
            self.data_state = "closed"

    def title_of(self, item_id: str) -> str:
        """An item's title; its id where the data is not open."""
        return self.opened.item_of(item_id).title if self.data_state == "open" else item_id

    def item(self, item_id: str) -> dict[str, Any]:
        """An item for the pages."""
        if self.data_state == "open":
            return asdict(self.opened.item_of(item_id))
        return {"id": item_id, "title": item_id, "caption": "", "pictured": False}

    def row(self, row: UserRow) -> dict[str, Any]:
        """A row of the table of rankings, with the target's title."""
        return {
            **row.key._asdict(),
            "target_title": self.title_of(row.key.target),
            "slices": row.slices,
            "num_candidates": row.num_candidates,
            "ranks": row.ranks,
        }

    @cached_property
    def timeline(self) -> Timeline:
        """Its sampled rollouts."""
        return timeline(self._stored[False].path)

    def described(self) -> dict[str, Any]:
        """What the head of the pages says."""
        stored = self._stored[False]
        run, protocol = stored.run, stored.run.metrics["protocol"]
        last = stored.phases[-1].name
        return {
            "name": self.name,
            "folder": str(stored.path),
            "method": str((run.config.get("method") or {}).get("name", "")),
            "seed": run.seed,
            "dataset": str(protocol.get("dataset", "")),
            "ranking": str(protocol.get("ranking", "")),
            "lists": int((run.config.get("prompt") or {}).get("places", 1)) > 1,
            "negatives": str(protocol.get("negatives", "")),
            "other_negatives": str(self.stored(True).run.metrics["protocol"].get("negatives", ""))
            if stored.has_other_negatives
            else None,
            "users": len(stored.keys),
            "num_candidates": protocol.get("num_candidates"),
            "stages": [
                {name: getattr(stage, name) for name in ("name", "title", "kind", "saved", "measure")}
                for stage in stored.stages
            ],
            "slices": stored.slice_names,
            "means": run.metrics["stages"][last],
            "alone": stored.alone,
            "data_state": self.data_state,
            "data_problem": self.data_problem,
        }


def user_view(one: Explored, key: Key, other: bool) -> dict[str, Any]:
    """Everything that is stored about a user: history, candidates after every phase, target, reasoning."""
    one.open()
    stored = one.stored(other)
    row = stored.row(key)
    found = stored.rankings(key)
    named = dict.fromkeys([key.target, *(item for ranking in found for item in ranking.items)])
    view: dict[str, Any] = {
        **one.row(row),
        "target": one.item(key.target),
        "history": None,
        "problem": one.data_problem,
        "stages": [
            {
                **asdict(ranking.stage),
                "items": ranking.items,
                "values": ranking.values,
                "complete": ranking.complete,
                "rank": ranking.rank,
                "text": ranking.text,
            }
            for ranking in found
        ],
    }
    if one.data_state == "open":
        try:
            case = one.opened.case(key, other)
        except UserError as error:
            view["problem"] = str(error)
        else:
            first = len(case.history) - case.shown
            view["history"] = [
                {**asdict(one.opened.item(code)), "shown": place >= first}
                for place, code in enumerate(case.history)
            ]
    view["items"] = {item: one.item(item) for item in named}
    return view


def weighed(one: Explored, phase: str, key: Key, other: bool, without: Sequence[int] = ()) -> dict[str, Any]:
    """The candidates of a user by the policy after a phase, behind the history that its prompt shows, or a part of it.

    Args:
        one: the run.
        phase: a phase whose weights it keeps.
        key: the user.
        other: whether among the other kind of negatives.
        without: places in the shown history that are left out, from 0.

    Raises:
        UserError: nothing of the history is left, or there are no such weights or data.
    """
    history, items, target = _asked(one, key, other)
    left = [item for place, item in enumerate(history) if place not in set(without)]
    if not left:
        raise UserError("the whole history is left out: keep at least one item")
    (found,) = one.opened.weigh(phase, [left], items, target)
    return asdict(found)


def left_out(one: Explored, phase: str, key: Key, other: bool) -> dict[str, Any]:
    """What each item of a user's shown history does; see `OpenedRun.leave_one_out`."""
    history, items, target = _asked(one, key, other)
    return asdict(one.opened.leave_one_out(phase, history, items, target))


def _asked(one: Explored, key: Key, other: bool) -> tuple[list[int], list[int], int]:
    """The shown history, the candidates (those that the last phase ranks best first where one prompt cannot list all), the target."""
    _require_data(one)
    case = one.opened.case(key, other)
    items = case.candidates
    if len(items) > one.opened.prepared.trained_list:
        stored = one.stored(other)
        ranking = stored.ranking(stored.phases[-1].name, key)
        code_of = one.opened.prepared.code_of
        items = [] if ranking is None else [code_of[item] for item in ranking.items if item in code_of]
    return case.history[len(case.history) - case.shown :], items, case.target


def own_ranking(
    one: Explored, phase: str, history: Sequence[str], candidates: Sequence[str] | None, k: int
) -> dict[str, Any]:
    """The best ``k`` items behind a history of item ids, or these candidates, with their items.

    Raises:
        UserError: an id is unknown, or there are no such weights or data.
    """
    _require_data(one)
    if candidates is None:
        found = one.opened.best(phase, history, k)
    else:
        prepared = one.opened.prepared
        seen = one.opened.seen(item_codes(prepared, history))
        (found,) = one.opened.weigh(phase, [seen], item_codes(prepared, candidates))
    return {**asdict(found), "named": {item: one.item(item) for item in found.items}}


def _require_data(one: Explored) -> None:
    one.open()
    if one.data_state != "open":
        raise UserError(f"this needs the run's data, which cannot be opened: {one.data_problem}")


def slices_view(stored: StoredRun) -> dict[str, Any]:
    """Every stage in every slice."""
    names = stored.run.metrics["stages"][stored.phases[0].name]
    ordered = [name for name in metric_names(stored.run.cutoffs(stored.phases[0].name)) if name in names]
    return {"metrics": ordered, "rows": [asdict(row) for row in slice_rows(stored.run)]}


def timeline_view(one: Explored) -> dict[str, Any]:
    """The rewards and advantages of all sampled rollouts, without their texts."""
    line = one.timeline
    return {
        "steps": line.steps,
        "parts": line.parts,
        "logged": line.logged,
        "rollouts": [
            {
                "number": sampled.number,
                "step": sampled.rollout.step,
                "reward": _finite(sampled.rollout.reward),
                "advantage": _finite(sampled.rollout.advantage),
            }
            for sampled in line.rollouts
        ],
    }


def rollouts_view(one: Explored, step: int | None, text: str, limit: int) -> list[dict[str, Any]]:
    """Sampled rollouts with their texts, and with the history and target of their prompts where the data has them."""
    one.open()
    found = []
    for sampled in chosen(one.timeline, step, text, limit):
        case = one.opened.training_case(sampled.rollout.prompt_id) if one.data_state == "open" else None
        found.append(
            {
                "number": sampled.number,
                **asdict(sampled.rollout),
                "reward": _finite(sampled.rollout.reward),
                "advantage": _finite(sampled.rollout.advantage),
                "parts": {name: _finite(value) for name, value in sampled.rollout.parts.items()},
                "history": [] if case is None else [asdict(one.opened.item(code)) for code in case.history],
                "target": None if case is None else asdict(one.opened.item(case.target)),
            }
        )
    return found


def _finite(value: float) -> float | None:
    """The value; None for what JSON cannot say."""
    return value if math.isfinite(value) else None
