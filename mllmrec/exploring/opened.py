"""A run's data and its policies, opened when they are first needed."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from mllmrec.config.phases import phases_of
from mllmrec.errors import UserError
from mllmrec.evaluation.protocols import beside_protocol, main_protocol
from mllmrec.exploring.stages import Measure, shown_values
from mllmrec.exploring.stored import Key, StoredRun
from mllmrec.jobs.finished_run import FinishedBaseline, FinishedRun, Query, open_run, settings_of_run
from mllmrec.jobs.judge import open_judge
from mllmrec.jobs.recommendation import item_codes, rank_items, score_name
from mllmrec.prompts.examples import Examples
from mllmrec.samples.prepare import prepare
from mllmrec.samples.prepared import Prepared

_AT_ONCE = 16  # prompts of one pass
_KEPT = 2  # policies that stay loaded


@dataclass(frozen=True)
class Item:
    """An item as people see it. Its texts are those of the dataset, which may hold anything."""

    id: str
    title: str
    caption: str
    pictured: bool


@dataclass(frozen=True)
class Case:
    """What a run ranked for one user: a history and candidates, as item codes."""

    history: list[int]  # oldest first, all of it
    shown: int  # the prompt shows the last so many of them
    candidates: list[int]  # in the order of the prompt
    target: int


@dataclass(frozen=True)
class Weighed:
    """Items with their probabilities or scores behind one history."""

    items: list[str]  # ids
    values: list[float | None]
    measure: Measure
    reasoning: tuple[str, ...] = ()


@dataclass(frozen=True)
class LeftOut:
    """The items of a ranking behind a whole history, and behind the history without each of its items."""

    whole: Weighed
    without: list[Weighed]  # in the order of the history


class OpenedRun:
    """What needs a run's data or its weights. All methods may be called from any thread; one works at a time.

    Args:
        stored: the run's folder.
        trust: packages outside of mllmrec, and servers, that the run's settings may name.
    """

    def __init__(self, stored: StoredRun, trust: Sequence[str] = ()) -> None:
        self.stored, self.trust = stored, trust
        self._lock = threading.RLock()
        self._policies: OrderedDict[str, FinishedRun | FinishedBaseline] = OrderedDict()
        self._examples: dict[bool, tuple[Examples, dict[Key, int]]] = {}

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.stored.path

    @cached_property
    def _settings(self) -> DictConfig:
        return settings_of_run(str(self.path), self.trust, evaluated=True)

    @cached_property
    def _prepared(self) -> Prepared:
        return prepare(self._settings, training=False, open_judge=partial(open_judge, trust=self.trust))

    @property
    def prepared(self) -> Prepared:
        """The run's data; read at the first call.

        Raises:
            UserError: the data is not where the run's settings say, or the settings are refused.
        """
        with self._lock:
            return self._prepared

    def item(self, code: int) -> Item:
        """An item by its code."""
        items = self.prepared.items
        name = str(items.ids[code])
        title = str(items.titles[code]) or f"(no title) {name}"
        return Item(name, title, self.prepared.captions.get(name, ""), name in items.images)

    def item_of(self, item_id: str) -> Item:
        """An item by its id; one that the data does not have is shown by its id."""
        code = self.prepared.code_of.get(item_id)
        return Item(item_id, item_id, "", False) if code is None else self.item(code)

    def picture(self, item_id: str) -> Path | None:
        """The image file of an item; None if it has none."""
        return self.prepared.items.images.get(item_id)

    def search(self, text: str, limit: int = 20) -> list[Item]:
        """Items whose id, title or caption has every word of ``text`` in it; those with the words in the title first."""
        words = text.casefold().split()
        if not words:
            return []
        titled, others = [], []
        for code, (name, title, caption) in enumerate(self._texts):
            if name == text.strip() or all(word in title for word in words):
                titled.append(code)
            elif all(word in name or word in title or word in caption for word in words):
                others.append(code)
            if len(titled) >= limit:
                break
        return [self.item(code) for code in [*titled, *others][:limit]]

    @cached_property
    def _texts(self) -> list[tuple[str, str, str]]:
        items, captions = self.prepared.items, self.prepared.captions
        return [
            (str(name), str(title).casefold(), captions.get(str(name), "").casefold())
            for name, title in zip(items.ids, items.titles, strict=True)
        ]

    def case(self, key: Key, other_negatives: bool = False) -> Case:
        """What the run ranked for a user.

        Raises:
            UserError: the data has no such user and target, so it is not the data that was ranked.
        """
        with self._lock:
            examples, places = self._ranked(other_negatives)
            if key not in places:
                raise UserError(
                    f"the data has no user {key.user} with target {key.target}: it is not the data that this run ranked"
                )
            index = places[key]
            history = [int(item) for item in examples.samples.history(index)]
            candidates, _ = examples.candidates_of(index)
            length = len(history) if self._counts else min(len(history), self.prepared.history_length)
            return Case(history, length, [int(item) for item in candidates], examples.samples.target(index))

    @property
    def _counts(self) -> bool:
        """Whether the run is of a classical recommender, which sees whole histories."""
        return self.stored.run.config["method"].get("recommender") is not None

    def _ranked(self, other_negatives: bool) -> tuple[Examples, dict[Key, int]]:
        if other_negatives not in self._examples:
            prepared, settings = self.prepared, self._settings
            asked = (settings.eval, settings.candidates.weighting, settings.protocol_seed, prepared)
            protocol = beside_protocol(*asked) if other_negatives else main_protocol(*asked)
            if protocol is None:
                raise UserError(f"{self.path} was ranked among one kind of negatives only")
            places: dict[Key, int] = {}
            samples, ids = protocol.examples.samples, prepared.builder.ids
            for index in protocol.ordered:
                pair, nth = (samples.user_id(index), ids[samples.target(index)]), 0
                while Key(*pair, nth) in places:
                    nth += 1
                places[Key(*pair, nth)] = index
            self._examples[other_negatives] = protocol.examples, places
        return self._examples[other_negatives]

    def training_case(self, sample_id: str) -> Case | None:
        """History and target of a training sample; None if the data has no such sample."""
        with self._lock:
            index = self._training.get(sample_id)
            if index is None:
                return None
            samples = self.prepared.samples["train"]
            history = [int(item) for item in samples.history(index, self.prepared.history_length)]
            return Case(history, len(history), [], samples.target(index))

    @cached_property
    def _training(self) -> dict[str, int]:
        samples = self.prepared.samples["train"]
        return {sample_id: index for index, sample_id in enumerate(samples.sample_ids)}

    def policy(self, stage: str) -> FinishedRun | FinishedBaseline:
        """The policy after a phase; the last two that were asked for stay loaded.

        Raises:
            UserError: the run keeps no weights of the phase, or they are damaged.
        """
        with self._lock:
            known = self.stored.stage(stage)
            if self.stored.alone is not None:
                raise UserError(self.stored.alone)
            if not known.saved:
                raise UserError(f"a run does not keep the weights of {known.title}: choose a later phase")
            if stage not in self._policies:
                # Learnt experience is a part of the prompts, so phases that learnt some cannot share them.
                apart = any(not phase.kind.trains for phase in phases_of(self._settings))
                while len(self._policies) >= _KEPT:
                    self._policies.popitem(last=False)
                self._policies[stage] = open_run(
                    str(self.path), stage, trust=self.trust, prepared=None if apart else self.prepared
                )
            self._policies.move_to_end(stage)
            return self._policies[stage]

    def seen(self, history: Sequence[int]) -> list[int]:
        """The part of a history of item codes that decides: what a prompt shows, or all of it for a classical recommender."""
        return list(history) if self._counts else list(history)[-self.prepared.history_length :]

    def weigh(
        self, stage: str, histories: Sequence[Sequence[int]], items: Sequence[int], target: int | None = None
    ) -> list[Weighed]:
        """The probabilities or scores of the same items behind several histories, by the policy after a phase.

        A prompt lists all items. If there are more than training prompts listed, the first so many are taken, and ``target``.

        Args:
            stage: a phase whose weights the run keeps.
            histories: item codes, oldest first.
            items: C item codes.
            target: an item that is kept in any case; None: nothing is cut, and a longer list is refused.

        Raises:
            UserError: there are no such weights, a history or the list is empty, or the list names an item twice or is too
                long.
        """
        if not items or not all(len(history) for history in histories):
            raise UserError("a history needs at least one item, and something has to be ranked")
        if len(set(items)) < len(items):
            raise UserError("the list to rank names an item twice: name each item once")
        with self._lock:
            run = self.policy(stage)
            ranked = list(items)
            most = run.prepared.trained_list
            if len(ranked) > most and not isinstance(run, FinishedBaseline):
                if target is None:
                    raise UserError(
                        f"prompts of this run list up to {most} items, not {len(ranked)}: rank fewer"
                    )
                ranked = ranked[:most]
                if target not in ranked:
                    ranked[-1] = target
                ranked.sort()  # so that places say nothing about the ranking
            queries = [Query(history, ranked, listed=True) for history in histories]
            found = [
                scored
                for start in range(0, len(queries), _AT_ONCE)
                for scored in run.scored(queries[start : start + _AT_ONCE])
            ]
            measure: Measure = "probability" if score_name(run) == "log-probability" else "score"
            ids = [run.prepared.builder.ids[item] for item in ranked]
            return [
                Weighed(ids, shown_values(scored.scores, measure), measure, scored.reasoning)
                for scored in found
            ]

    def leave_one_out(
        self, stage: str, history: Sequence[int], items: Sequence[int], target: int | None = None
    ) -> LeftOut:
        """What each item of a history does: the ranking behind the history without it.

        Args:
            stage: a phase whose weights the run keeps.
            history: at least two item codes, oldest first; those that a prompt shows.
            items: C item codes.
            target: an item that is ranked in any case.

        Raises:
            UserError: as in `weigh`, or the history has one item.
        """
        if len(history) < 2:
            raise UserError("a history of one item cannot do without it: add another item")
        shorter = [[*history[:place], *history[place + 1 :]] for place in range(len(history))]
        whole, *without = self.weigh(stage, [history, *shorter], items, target)
        return LeftOut(whole, without)

    def best(self, stage: str, history: Sequence[str], k: int = 10) -> Weighed:
        """The best items of the whole catalogue behind a history of item ids.

        A language model first ranks all of them without a list, then lists the best together, which gives the probabilities.

        Raises:
            UserError: an id is unknown, or the policy cannot rank the whole catalogue.
        """
        with self._lock:
            codes = item_codes(self.prepared, history)
            run = self.policy(stage)
            shown = self.seen(codes)
            size = k if self._counts else min(k, run.prepared.trained_list)
            ranked = rank_items(run, shown, set(codes), shortlist=size)[:size]
            (found,) = self.weigh(stage, [shown], sorted(item for item, _ in ranked))
            order = np.argsort(
                [-(value if value is not None else -np.inf) for value in found.values], kind="stable"
            )
            return Weighed(
                [found.items[place] for place in order],
                [found.values[place] for place in order],
                found.measure,
                found.reasoning,
            )
