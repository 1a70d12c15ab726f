"""Pages show any name as text: no element, attribute or script comes from it, and each page is one file."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser

from hostile import texts
from hypothesis import given

from mllmrec.config.secret_values import redacted
from mllmrec.cot.samples_page import _item
from mllmrec.prompts.page import _fenced
from mllmrec.reasoners.base import HistoryItem
from mllmrec.reporting.tables import Cell, Table, markdown, tex


class Read(HTMLParser):
    """The elements of a page with their attributes, and all its text."""

    def __init__(self, content: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.words = ""
        self.feed(content)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, tuple(name for name, _ in attrs)))

    def handle_data(self, data):
        self.words += data


def table(row: str, caption: str) -> Table:
    return Table("Results", ["method", "HR@1"], [[Cell(row), Cell("0.5", "[0, 1]", mark="best")]], caption)


@given(texts(), texts())
def test_names_add_no_row_to_markdown_and_no_command_to_latex(row: str, caption: str) -> None:
    shown, plain = table(row, "x"), table("x", "x")
    assert len(markdown(shown).splitlines()) == len(markdown(plain).splitlines())
    assert not re.search(r"(?<!\\)[&%#_]|[~^]", tex(row))


@given(words=texts(), title=texts(3))
def test_a_piece_of_the_samples_page_is_text(words: str, title: str) -> None:
    shown = [_item(HistoryItem("1", *both, None), "div", {}) for both in ((title, words + "x"), ("a", "b"))]
    assert Read(shown[0]).elements == Read(shown[1]).elements


@given(texts(12))
def test_a_fence_holds_whatever_it_is_given(text: str) -> None:
    first, *inside, last = "\n".join(_fenced(text)).split("\n")
    assert set(last) == {"`"}
    assert first.startswith(last)
    assert not any(line.strip().startswith(last) for line in inside)


@given(texts(12))
def test_what_is_redacted_stays_so(text: str) -> None:
    assert redacted(redacted(text)) == redacted(text)
    assert html.escape(text) == html.escape(redacted(text)) or "redacted" in redacted(text)
