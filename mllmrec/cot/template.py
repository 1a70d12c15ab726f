"""Reasoning made by counting words in the history's texts. It uses no model."""

from __future__ import annotations

from collections.abc import Mapping

from mllmrec.cot.base import CotKey, CotPolicy
from mllmrec.reasoners.counting import template_reasoning


class Template(CotPolicy):
    """`template_reasoning` of each history item's caption; of its details if it has none, else of its title.

    The mappings go from item id to text. The target's id is never looked up.
    """

    wants = ("captions", "details", "titles")

    def __init__(
        self,
        captions: Mapping[str, str] | None = None,
        details: Mapping[str, str] | None = None,
        titles: Mapping[str, str] | None = None,
    ) -> None:
        self.sources = [source for source in (captions, details, titles) if source]

    def reasoning(self, key: CotKey) -> str | None:
        """Reasoning over the history; None if no item of it has any text."""
        return template_reasoning([self._text(item) for item in key.history_ids]) or None

    def _text(self, item: str) -> str:
        return next((source[item] for source in self.sources if source.get(item)), "")
