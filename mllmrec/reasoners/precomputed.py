"""Texts that were written elsewhere, in the layout released with MLLMRec-R1. They are joined by user and history."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from mllmrec.cache import file_fingerprint
from mllmrec.data.text import require_files
from mllmrec.reasoners.base import Reasoner, Request, Written
from mllmrec.reasoners.records import parse_record, read_records
from mllmrec.reasoners.told import NOTHING, UNKNOWN, most_told


class PrecomputedReasoner(Reasoner):
    """Gives the first record of the same user with a history that equals the request's or ends with it.

    The join does not use the target. A user without records, and a user with records but none for this history, are
    two different problems. Released records were written by a reasoner that was told the target (``paper_*``
    experiments read them through ``cot_policy=precomputed``, without refinement or assessment).
    """

    free = True
    reads_users = True

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._records: dict[str, list[tuple[tuple[str, ...], str]]] | None = None
        self._told = NOTHING

    @property
    def told(self) -> str:
        """What the writers knew besides the history, as the file says; unknown if there is no file."""
        if not self.path.is_file():
            return UNKNOWN
        self._load()
        return self._told

    def identity(self) -> dict[str, object]:
        """The fingerprint of the file's bytes."""
        self._require()
        return {"reasoner": "precomputed", "file": file_fingerprint(self.path)}

    def write(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Written]]:
        """Look every request up.

        Raises:
            UserError: the file is missing or malformed (the message names the line or the record).
        """
        records = self._load()
        for request in requests:
            shown = tuple(item.item_id for item in request.history)
            own = records.get(request.user_id, [])
            fitting = [text for history, text in own if shown and history[-len(shown) :] == shown]
            if fitting:
                yield request, Written(fitting[0])
            else:
                yield (
                    request,
                    Written("", problem="other history in the file" if own else "user not in the file"),
                )

    def _load(self) -> dict[str, list[tuple[tuple[str, ...], str]]]:
        if self._records is None:
            self._require()
            found: dict[str, list[tuple[tuple[str, ...], str]]] = defaultdict(list)
            for where, record in read_records(self.path):
                parsed = parse_record(record, where)
                if parsed.reasoning:
                    found[parsed.user_id].append((parsed.history_ids, parsed.reasoning))
                    self._told = most_told((self._told, parsed.leak))
            self._records = dict(found)
        return self._records

    def _require(self) -> None:
        require_files([self.path], "set draft.path or refine.path to the file of reasoning records")
