"""Pages show any name as text: no element, attribute or script comes from it, and each page is one file."""

from __future__ import annotations

import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

from hostile import texts
from hypothesis import example, given
from hypothesis import strategies as st

from mllmrec.config.secret_values import redacted
from mllmrec.cot.samples_page import _item
from mllmrec.prompts.page import _fenced
from mllmrec.reasoners.base import HistoryItem
from mllmrec.reporting.charts import Chart, Entry
from mllmrec.reporting.page import Section, page
from mllmrec.reporting.pictures import Picture
from mllmrec.reporting.tables import Cell, Table, markdown, tex

HOSTILE = '"></script><!--<script>alert(1)</script><img src=x onerror=alert(1)>{{ 7*7 }}\u2028'
NAMES = ("title", "name", "row", "note", "caption")


class Read(HTMLParser):
    """The elements of a page with their attributes, and all its text."""

    def __init__(self, content: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.words = ""
        self.data: list[str] = []  # what stands in elements for data
        self.feed(content)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, tuple(name for name, _ in attrs)))

    def handle_data(self, data):
        self.words += data
        if self.elements[-1:] == [("script", ("type",))]:
            self.data.append(data)


def table(row: str, caption: str) -> Table:
    return Table("Results", ["method", "HR@1"], [[Cell(row), Cell("0.5", "[0, 1]", mark="best")]], caption)


def written(folder: Path, title: str, name: str, row: str, note: str, caption: str) -> Read:
    """A report's page of one section with a table and a chart."""
    drawn = folder / "empty.png"
    drawn.touch()
    study = SimpleNamespace(name=name, rows=[], repeated=[], unfinished=[], differing={row: []})
    picture = Picture("p", title, caption, drawn, Chart([Entry(row, "#123456", "")]))
    made = Section(study, table(row, caption), *[None] * 5, notes=[note], pictures=[picture])
    return Read(page(title, "today", [made], folder))


@given(words=st.fixed_dictionaries(dict.fromkeys(NAMES, texts())))
@example(words=dict.fromkeys(NAMES, HOSTILE))
def test_a_report_shows_what_runs_are_called_as_text(tmp_path_factory, words: dict[str, str]) -> None:
    folder = tmp_path_factory.getbasetemp()
    plain, hostile = written(folder, **dict.fromkeys(NAMES, "x")), written(folder, **words)
    assert hostile.elements == plain.elements
    assert not {name for _, names in hostile.elements for name in names if name.startswith("on")}
    data, *_behind = hostile.data
    assert json.loads(data)["entries"][0]["label"] == words["row"]


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
