"""The key of a text in the CoT pipeline: tests change one ingredient, and the pipeline must ask for a new text."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest
from scribe import ITEMS, Scribe

from mllmrec.cot.base import CotKey
from mllmrec.cot.pipeline import CotPipeline
from mllmrec.cot.store import TextStore
from mllmrec.cot.wording import load_cot_wording
from mllmrec.reasoners.base import HistoryItem, Request
from mllmrec.reasoners.precomputed import PrecomputedReasoner
from mllmrec.reasoners.template import TemplateReasoner

TWINS = [CotKey("anna", ("1", "2"), "3", "anna:2"), CotKey("ben", ("1", "2"), "4", "ben:2")]


def test_texts_that_a_file_has_of_each_user_stay_that_user_s(make_pipeline, tmp_path):
    path = tmp_path / "texts.json"
    records = [
        {
            "user_id": key.user_id,
            "history_items": ["1", "2"],
            "target_item": "9",
            "reasoning": f"{key.user_id}'s",
        }
        for key in TWINS
    ]
    path.write_text(json.dumps(records))
    for _ in range(2):  # written, and found again
        drafts = make_pipeline(PrecomputedReasoner(path)).drafts(TWINS)
        assert [drafts[key].text for key in TWINS] == ["anna's", "ben's"]


def test_a_reasoner_that_is_told_the_target_tells_each_sample_its_own(make_pipeline, tmp_path):
    # A user's own wording may leave the target out of the message, but this reasoner reads the target anyway.
    wording = tmp_path / "refine.yaml"
    wording.write_text(
        "system: s\nmessage: '{history}{draft}'\nhistory_item: '{title}'\ncaption: ''\ndraft: '{draft}'\nleak: ''\n"
    )
    pipeline = make_pipeline(TemplateReasoner())
    told = CotPipeline(
        ITEMS,
        "lamp",
        pipeline._draft,
        (TemplateReasoner(), load_cot_wording("cot.refine_wording", str(wording))),
        tmp_path / "cot",
    )
    texts = told.refinements(TWINS, dict.fromkeys(TWINS, "draft"), leak=True)
    for key in TWINS:
        assert f"caption{key.target_id}" in texts[key].text


def test_another_image_in_the_same_file_is_asked_about_again(make_pipeline, tmp_path):
    class Seer(Scribe):
        sees_images = True

    picture = tmp_path / "1.png"
    picture.write_bytes(b"one")
    items = {**ITEMS, "1": dataclasses.replace(ITEMS["1"], image=picture)}
    make_pipeline(Seer("draft"), items=items).drafts(TWINS[:1])
    picture.write_bytes(b"two")
    os.utime(picture, ns=(0, 0))
    again = Seer("draft")
    make_pipeline(again, items=items).drafts(TWINS[:1])
    assert len(again.asked) == 1


def test_another_text_in_the_same_wording_file_is_asked_again(make_pipeline, tmp_path):
    wording = tmp_path / "draft.yaml"
    text = "system: Be {0}.\nmessage: '{{history}}'\nhistory_item: '{{title}}'\ncaption: ''\ndraft: ''\nleak: ''\n"
    asked = []
    for word in ("brief", "brief", "kind"):
        wording.write_text(text.format(word))
        scribe = Scribe("draft")
        refine = make_pipeline()._refine
        draft = (scribe, load_cot_wording("cot.draft_wording", str(wording)))
        CotPipeline(ITEMS, "lamp", draft, refine, tmp_path / "cot").drafts(TWINS[:1])
        asked.append(len(scribe.asked))
    assert asked == [1, 0, 1]


ITEM = HistoryItem("1", "Lamp", "red", None)
REQUEST = Request("anna:2", "anna", (ITEM,), "a draft", "system", "message", (Path("a.png"),), "Rug")
OTHER = {
    "sample_id": "anna:3",
    "user_id": "ben",
    "history": (ITEM, ITEM),
    "draft": "another",
    "system": "another",
    "message": "another",
    "images": (),
    "leak": "Chair",
    "examples": (("another", "answer"),),
}
OTHER_ITEM = {"item_id": "2", "title": "Rug", "caption": "blue", "image": Path("b.png")}


def keys_of(folder: Path, *requests: Request, reads_users: bool) -> list[str]:
    store = TextStore(folder, "draft", {"reasoner": "x"}, reads_users=reads_users)
    return [store.key(request) for request in requests]


@pytest.mark.parametrize("reads_users", [True, False])
@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Request)])
def test_everything_that_a_request_says_counts(tmp_path, name, reads_users):
    changed = dataclasses.replace(REQUEST, **{name: OTHER[name]})
    first, second = keys_of(tmp_path, REQUEST, changed, reads_users=reads_users)
    # Samples with the same request share a text. Users share it too, unless the reasoner reads who they are.
    shared = name == "sample_id" or (name == "user_id" and not reads_users)
    assert (first == second) == shared


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(HistoryItem)])
def test_everything_that_a_request_says_of_an_item_counts(tmp_path, name):
    item = dataclasses.replace(ITEM, **{name: OTHER_ITEM[name]})
    first, second = keys_of(
        tmp_path, REQUEST, dataclasses.replace(REQUEST, history=(item,)), reads_users=False
    )
    # A request carries the images that the reasoner sees.
    assert (first == second) == (name == "image")
