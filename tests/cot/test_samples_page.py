from __future__ import annotations

import base64
import dataclasses
import io
import re
from html.parser import HTMLParser

import pytest
from PIL import Image
from scribe import ITEMS, Scribe

from mllmrec.cot import Built, Confident
from mllmrec.cot.samples_page import write_samples_page
from mllmrec.reasoners.base import Written

GOOD = "Signals: red in most. Preference: mostly red lamps. Look for: red and blue lamps."


class Page(HTMLParser):
    """The page's words, its pictures, and every address in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words, self.pictures, self.addresses, self.classes, self.open = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)
        for name, value in attrs:
            if name == "class":
                self.classes += value.split()
            if name in ("src", "href"):
                (self.pictures if value.startswith("data:image/jpeg;base64,") else self.addresses).append(
                    value
                )

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture
def written(make_pipeline, keys, tmp_path):
    """``written(policy class, **settings)``: the page of two samples, both with item 1, which has a big picture."""
    Image.new("RGB", (400, 800), "red").save(tmp_path / "1.png")
    (tmp_path / "2.png").write_text("no picture")
    items = {
        **ITEMS,
        "1": dataclasses.replace(ITEMS["1"], image=tmp_path / "1.png", title="<b>Lamp</b> & Son"),
        "2": dataclasses.replace(ITEMS["2"], image=tmp_path / "2.png"),
        "0": dataclasses.replace(ITEMS["0"], caption=""),
    }

    def write(make, draft=None, refine=None, **settings) -> Page:
        policy = make(make_pipeline(draft, refine, items), **settings)
        policy.make(keys[:2])
        path = tmp_path / "samples.html"
        write_samples_page(path, policy, [policy.records[key] for key in keys[:2]], "lamps", "2 of 3")
        text = path.read_text("utf-8")
        assert "<script" not in text
        page = Page(text)
        assert page.open == []
        return page

    return write


def test_a_sample_shows_history_texts_and_what_came_next(written):
    page = written(Built)
    # User 0's history is items 0, 1, 2 and the target 3; user 1's 1, 2, 3 and 4.
    assert "User u0 sample u0:3 kept History, oldest first no image Title 0 0 no caption" in page.text
    assert "<b>Lamp</b> & Son 1 caption1, red" in page.text
    assert "unreadable image Title 2 2" in page.text
    assert "What came next not shown to the reasoner no image Title 3 3" in page.text
    assert "Draft draft of 0 1 2" in page.text
    assert "Refinement refinement of 0 1 2 What the model thought first thought" in page.text
    assert "TOLD" not in page.text
    assert "told" not in page.classes


def test_pictures_lie_in_the_page_and_are_small(written):
    page = written(Built)
    assert page.addresses == []
    # Item 1 is in both histories.
    assert len(page.pictures) == 2
    data = base64.b64decode(page.pictures[0].partition(",")[2])
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.size == (80, 160)


def test_a_target_that_was_told_is_marked(written):
    page = written(Built, leak="target")
    assert page.text.count("TOLD TO THE REASONER") == 2
    assert page.classes.count("told") == 2
    assert "not shown" not in page.text


def test_texts_from_a_file_are_not_said_to_be_written_blind(written):
    class FromFile(Scribe):
        told = "unknown"

    assert "may have been written knowing it" in written(Built, refine=FromFile("r")).text


def test_why_a_sample_was_dropped_stands_beside_it(written):
    page = written(Built, refine=Scribe("r", refuses=("u0",)))
    assert "sample u0:3 dropped: no text (refused)" in page.text
    assert "sample u1:3 kept" in page.text


def test_scores_stand_with_floor_and_weight_and_the_veto_is_marked(written):
    class Author(Scribe):
        def write(self, requests):
            for request in requests:
                yield request, Written(GOOD if request.user_id == "u0" else GOOD.replace("red", "<i>red</i>"))

    page = written(Confident, draft=Author("d"), refine=Author("r"), top_share=0.5)
    assert re.search(r"sample u0:3 kept confidence [01]\.\d{3} ", page.text)
    assert "sample u1:3 dropped: form: no_markup" in page.text
    assert "no markup 0.000 1" in page.text
    assert page.classes.count("veto") == 1
    assert "draft agreement 1.000 1" in page.text
    assert "lift not measured 1" in page.text
