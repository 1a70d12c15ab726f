"""What the service's thread does: a batch of histories to rankings, and the rankings that it keeps."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mllmrec.errors import UserError
from mllmrec.jobs.finished_run import FinishedBaseline, FinishedRun
from mllmrec.jobs.recommendation import Ranked, item_codes, rank_together, wanted


@dataclass(frozen=True)
class Question:
    """A history of item codes, oldest first, and the codes to rank; None: the catalogue without the history."""

    history: tuple[int, ...]
    candidates: tuple[int, ...] | None


class Rankings:
    """Ranks as `mllmrec.recommend` does, many histories at once; one thread ranks at a time, as engines change the model's layers.

    It keeps the latest results, not encodings of prompts. A kept result is exactly what was computed for the same question,
    and takes a few kB. An encoding would take megabytes, would only serve other candidates behind the same history, and
    results behind it would differ by rounding.
    """

    def __init__(
        self,
        run: FinishedRun | FinishedBaseline,
        *,
        shortlist: int | None = None,
        longest: int = 1000,
        kept: int = 1000,
        looked_up: Callable[[bool], None] = lambda found: None,
    ) -> None:
        """Set what to rank with.

        Args:
            run: a finished run.
            shortlist: as in `mllmrec.jobs.recommendation.wanted`; None: as many as training prompts list.
            longest: how many items of a ranking are given, the best first.
            kept: how many results are kept.
            looked_up: is told of each question whether its result was kept.
        """
        self.run = run
        self.shortlist = run.prepared.trained_list if shortlist is None else shortlist
        self.longest, self.kept, self.looked_up = longest, kept, looked_up
        self._results: OrderedDict[Question, Ranked] = OrderedDict()
        self._lock = threading.Lock()

    def question(self, history: Sequence[str | int], candidates: Sequence[str | int] | None) -> Question:
        """The question of item ids.

        Raises:
            UserError: an id is unknown, or given twice among the candidates, or a list is empty.
        """
        codes = tuple(item_codes(self.run.prepared, history))
        if candidates is None:
            return Question(codes, None)
        among = tuple(item_codes(self.run.prepared, candidates))
        if len(set(among)) < len(among):
            ids = [str(item) for item in candidates]
            twice = next(item for place, item in enumerate(ids) if item in ids[:place])
            raise UserError(f"candidates name item {twice} twice: name each item once")
        return Question(codes, among)

    def kept_result(self, question: Question) -> Ranked | None:
        """The result of the same question asked before, if it was kept."""
        with self._lock:
            found = self._results.get(question)
            if found is not None:
                self._results.move_to_end(question)
        self.looked_up(found is not None)
        return found

    def rank(self, questions: Sequence[Question]) -> list[Ranked | Exception]:
        """The rankings, or for a question that cannot be answered its `UserError`."""
        found: dict[Question, Ranked | Exception] = {}
        asked = {}
        for question in dict.fromkeys(questions):
            try:
                asked[question] = wanted(
                    self.run,
                    question.history,
                    set(question.history),
                    candidates=question.candidates,
                    shortlist=self.shortlist,
                )
            except UserError as error:
                found[question] = error
        if asked:
            for question, ranked in zip(asked, rank_together(self.run, [*asked.values()]), strict=True):
                found[question] = self._keep(question, ranked)
        return [found[question] for question in questions]

    def _keep(self, question: Question, ranked: Ranked) -> Ranked:
        # Copies: a slice would keep the whole ranking of the catalogue in memory.
        ranked = replace(
            ranked, items=ranked.items[: self.longest].copy(), scores=ranked.scores[: self.longest].copy()
        )
        with self._lock:
            self._results[question] = ranked
            while len(self._results) > self.kept:
                self._results.popitem(last=False)
        return ranked
