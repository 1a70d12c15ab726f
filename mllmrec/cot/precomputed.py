"""Reasoning from a file in the layout released with MLLMRec-R1, joined by identity."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from mllmrec.cot.base import CotKey, CotPolicy
from mllmrec.data.text import require_files
from mllmrec.reasoners.records import parse_record, read_records
from mllmrec.reasoners.told import NOTHING, most_told


class PrecomputedCot(CotPolicy):
    """Records of ``user_id, history_items, target_item, reasoning``; ``line_idx`` is ignored.

    A sample gets a record of its own user and its own target. The record's history must equal the sample's history or
    its latest part. A longer recorded history that ends with the sample's history may mention items that the prompt
    does not show; such a record is used only while ``longer_history`` is True. Of several fitting records, the one
    with the longest history wins, then the first in the file.

    Each record's ``leak`` may say what the writer was told besides the history (none, target or unknown). Files of
    build_cot say it. Records that do not say it count as unknown. See `told`.

    Raises:
        UserError: the file is missing or malformed (the message names the line or the record).
    """

    def __init__(self, path: str | Path, longer_history: bool = True) -> None:
        self.path = Path(path)
        self.longer_history = longer_history
        self.empty_records = 0
        self._told = NOTHING
        self._records: dict[tuple[str, str], list[tuple[tuple[str, ...], str]]] = defaultdict(list)
        require_files([self.path], "set cot_policy.path to the file of reasoning records")
        for where, record in read_records(self.path):
            found = parse_record(record, where)
            if found.reasoning:
                self._records[found.user_id, found.target_id].append((found.history_ids, found.reasoning))
                self._told = most_told((self._told, found.leak))
            else:
                self.empty_records += 1

    @property
    def told(self) -> str:
        """What the writers knew besides the history. If one text knew the target, the whole file is marked so."""
        return self._told

    def reasoning(self, key: CotKey) -> str | None:
        """The recorded reasoning of this user, this history and this target; None if there is none."""
        return self._find(key)[0]

    def coverage(self, keys: Iterable[CotKey]) -> dict[str, int]:
        """Counts of these samples: ``matched``, ``longer_history`` (matched too), ``history_mismatch``, ``absent``.

        ``empty_record`` counts records of the file without reasoning. Zero counts are left out.
        """
        counts = Counter(self._find(key)[1] for key in keys)
        if self.empty_records:
            counts["empty_record"] = self.empty_records
        return dict(counts)

    def _find(self, key: CotKey) -> tuple[str | None, str]:
        records = self._records.get((key.user_id, key.target_id))
        if not records:
            return None, "absent"
        fitting = [(history, text) for history, text in records if self._fits(history, key.history_ids)]
        if not fitting:
            return None, "history_mismatch"
        history, text = max(fitting, key=lambda entry: len(entry[0]))
        return text, "longer_history" if len(history) > len(key.history_ids) else "matched"

    def _fits(self, recorded: tuple[str, ...], shown: tuple[str, ...]) -> bool:
        if len(recorded) > len(shown):
            return self.longer_history and len(shown) > 0 and recorded[-len(shown) :] == shown
        return len(recorded) > 0 and shown[-len(recorded) :] == recorded
