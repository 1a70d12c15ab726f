"""How prompts and answers name the candidates of a list, and how names are read back.

``id`` names an item everywhere by its label, ``[ITEM_<id>]``. ``letter`` and ``number`` name its place in the prompt's
list, so the same item has another name in another prompt, and items of the history have none. ``none`` leaves titles alone
to tell items apart.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mllmrec.prompts.markup import item_label, label_item

LABELS = ("id", "letter", "number", "none")
ANSWER_FORMATS = ("id", "id_title")
LETTERS = string.ascii_uppercase

_BY_ID = re.compile(r"^\[ITEM_([^\[\]\s]+)\](?:[ \t]+(\S.*?))?\s*$")
_BY_PLACE = {
    "letter": re.compile(r"^([A-Z])(?:[.)](?:[ \t]+(\S.*?))?)?\s*$"),
    "number": re.compile(r"^([1-9]\d*)(?:[.)](?:[ \t]+(\S.*?))?)?\s*$"),
}

Read = Callable[[str], "tuple[str, str] | None"]  # a line → the item id that it names and the title behind it


def read_by_id(line: str) -> tuple[str, str] | None:
    """The item id and the title, or "", of a line that begins with an item's label; None for any other line."""
    match = _BY_ID.match(line)
    return (label_item(match[1]), match[2] or "") if match else None


@dataclass(frozen=True)
class Naming:
    """How candidates are named.

    Args:
        label: one of `LABELS`.
        answer: what an answer says of an item: ``id`` its label alone, ``id_title`` its label and title.
    """

    label: str = "id"
    answer: str = "id_title"

    @property
    def by_place(self) -> bool:
        """Whether a name depends on the place in the list."""
        return self.label in _BY_PLACE

    @property
    def ends_itself(self) -> bool:
        """Whether no answer can be the beginning of another one, so that the end token says nothing about the item."""
        return self.label in ("id", "letter")

    @property
    def form(self) -> str:
        """An answer, as prompts describe it."""
        if self.label == "none":
            return "title"
        if self.label == "id":
            return "[ITEM_<id>]" if self.answer == "id" else "[ITEM_<id>] title"
        return f"<{self.label}>" if self.answer == "id" else f"<{self.label}>. title"

    def name(self, item_id: str, column: int | None) -> str:
        """The bare name of a candidate; "" if only its title names it.

        Args:
            item_id: the item's id.
            column: its place in the list, from 0; names by place need it.

        Raises:
            ValueError: the place is missing, or the alphabet has no letter for it.
        """
        if self.label == "id":
            return item_label(item_id)
        if self.label == "none":
            return ""
        if column is None:
            raise ValueError(f"item {item_id} has no {self.label} outside a list")
        if self.label == "number":
            return str(column + 1)
        if column >= len(LETTERS):
            raise ValueError(f"there are {len(LETTERS)} letters, too few for place {column + 1} of a list")
        return LETTERS[column]

    def label_of(self, item_id: str, column: int | None) -> str:
        """What stands in front of a title: in the history (no ``column``), in the list, and in answers."""
        if self.by_place:
            return "" if column is None else f"{self.name(item_id, column)}."
        return self.name(item_id, column)

    def answer_text(self, item_id: str, title: str, column: int | None = None) -> str:
        """The answer for an item.

        Args:
            item_id: the item's id.
            title: its (neutral) title; may be empty, unless only titles tell items apart.
            column: its place in the list, from 0; names by place need it.

        Raises:
            ValueError: ``answer`` is not one of `ANSWER_FORMATS`, or as in `name`.
        """
        if self.answer not in ANSWER_FORMATS:
            raise ValueError(f"answer format {self.answer!r} is none of {ANSWER_FORMATS}")
        if self.label == "none":
            return title
        name = self.name(item_id, column)
        return name if self.answer == "id" or not title else f"{self.label_of(item_id, column)} {title}"

    def shown(self, item_id: str, titles: Mapping[str, str]) -> str:
        """A candidate as its prompt's list shows it, without caption.

        Args:
            item_id: the item's id.
            titles: item id → title, in the order of the list.
        """
        column = list(titles).index(item_id) if self.by_place else None
        return f"{self.label_of(item_id, column)} {titles.get(item_id, '')}".strip()

    def reader(self, titles: Mapping[str, str]) -> Read:
        """Reads the lines of answers to a prompt.

        A well-formed name that stands for no candidate is read as an id that no candidate has.

        Args:
            titles: item id → title of the prompt's candidates, in the order of the list.
        """
        if self.label == "id":
            return read_by_id
        if self.label == "none":
            by_title = {plain(title): item_id for item_id, title in titles.items()}
            return lambda line: (by_title.get(plain(line), _unlisted(line)), line.strip())
        ids, pattern = list(titles), _BY_PLACE[self.label]

        def read(line: str) -> tuple[str, str] | None:
            match = pattern.match(line)
            if match is None:
                return None
            column = LETTERS.index(match[1]) if self.label == "letter" else int(match[1]) - 1
            return ids[column] if column < len(ids) else _unlisted(match[1]), match[2] or ""

        return read


def distinct_titles(ids: Sequence[str], titles: Sequence[str]) -> list[str]:
    """Titles that tell I items apart: the first item keeps a title, later ones get a number behind it.

    An item without a title is called by its id.

    >>> distinct_titles(["7", "8", "9"], ["Lamp", "lamp", ""])
    ['Lamp', 'lamp (2)', 'item 9']
    """
    taken = {plain(title) for title in titles if title}
    seen: set[str] = set()
    numbers: dict[str, int] = {}  # the last number behind each title
    found = []
    for item_id, title in zip(ids, titles, strict=True):
        name = own = title or f"item {item_id}"
        if not title or plain(title) in seen:
            while plain(name) in taken:
                numbers[own] = numbers.get(own, 1) + 1
                name = f"{own} ({numbers[own]})"
            taken.add(plain(name))
        seen.add(plain(title))
        found.append(name)
    return found


def plain(text: str) -> str:
    """A text in the form in which titles are compared: without case, spacing and how accents are composed."""
    return " ".join(unicodedata.normalize("NFC", text.casefold()).split())


def _unlisted(name: str) -> str:
    return f"not listed: {name}"
