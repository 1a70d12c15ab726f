from __future__ import annotations

import dataclasses
import json

import pytest
from scribe import ITEMS, Scribe

from mllmrec.cot.base import CotKey
from mllmrec.cot.store import TextStore
from mllmrec.cot.wording import ask, load_cot_wording
from mllmrec.errors import UserError
from mllmrec.reasoners.base import Written


def both(pipeline, keys, leak=False):
    drafts = {key: written.text for key, written in pipeline.drafts(keys).items()}
    return drafts, pipeline.refinements(keys, drafts, leak)


def test_every_sample_gets_the_text_of_its_own_history(make_pipeline, keys):
    drafts, refined = both(make_pipeline(), keys)
    said = ("0 1 2", "1 2 3", "2 3 4")
    assert drafts == {key: f"draft of {history}" for key, history in zip(keys, said, strict=True)}
    assert {key: written.text for key, written in refined.items()} == {
        key: f"refinement of {history}" for key, history in zip(keys, said, strict=True)
    }


def test_samples_that_differ_in_anything_but_their_id_have_texts_of_their_own(make_pipeline, keys):
    """A user of a published split has a sequence in each file, and the target may have the same place in both."""
    first = keys[0]
    others = [
        dataclasses.replace(first, split="test"),
        dataclasses.replace(first, history_ids=("5", "6", "7")),
        dataclasses.replace(first, target_id="9"),
        dataclasses.replace(first, user_id="v"),
    ]
    assert {key.sample_id for key in others} == {first.sample_id}
    drafts, refined = both(make_pipeline(), [first, *others])
    assert set(drafts) == set(refined) == {first, *others}
    assert refined[others[1]].text == "refinement of 5 6 7"
    # The request does not depend on these differences, so the samples share a text.
    assert {refined[key].text for key in (first, others[0], others[2], others[3])} == {"refinement of 0 1 2"}


def test_a_second_start_asks_only_for_what_is_missing(make_pipeline, keys):
    first = Scribe("draft", refuses=("u1",))
    pipeline = make_pipeline(first)
    assert set(pipeline.drafts(keys)) == {keys[0], keys[2]}
    assert pipeline.reports["draft"].counts() == {
        "samples": 3,
        "written": 2,
        "prompt_tokens": 10 + 1 + 10,
        "completion_tokens": 4,
        "without: refused": 1,
    }
    again = Scribe("draft")
    pipeline = make_pipeline(again)
    assert set(pipeline.drafts(keys)) == set(keys)
    assert [request.user_id for request in again.asked] == ["u1"]
    assert pipeline.reports["draft"].from_cache == 2


def test_samples_that_ask_the_same_share_one_request(make_pipeline, keys):
    twin = dataclasses.replace(keys[0], sample_id="twin", user_id="v", target_id="9")
    scribe = Scribe("draft")
    drafts = make_pipeline(scribe).drafts([keys[0], twin])
    assert drafts[twin].text == drafts[keys[0]].text == "draft of 0 1 2"
    assert len(scribe.asked) == 1


@pytest.mark.parametrize("changed", ["title", "caption"])
def test_another_title_or_caption_is_another_request(make_pipeline, keys, changed):
    make_pipeline().drafts(keys)
    items = {**ITEMS, "1": dataclasses.replace(ITEMS["1"], **{changed: "other"})}
    scribe = Scribe("draft")
    make_pipeline(scribe, items=items).drafts(keys)
    # Item 1 is in the histories of users 0 and 1.
    assert [request.user_id for request in scribe.asked] == ["u0", "u1"]


def test_another_reasoner_shares_no_texts(make_pipeline, keys):
    make_pipeline().drafts(keys)
    scribe = Scribe("another")
    make_pipeline(scribe).drafts(keys)
    assert len(scribe.asked) == 3


def test_refinements_change_with_their_drafts(make_pipeline, keys):
    both(make_pipeline(), keys)
    scribe = Scribe("refinement")
    make_pipeline(refine=scribe).refinements(keys, {keys[0]: "another draft", keys[1]: "draft of 1 2 3"})
    assert [request.user_id for request in scribe.asked] == ["u0"]


def test_nothing_that_is_asked_names_the_target(make_pipeline):
    target = dataclasses.replace(ITEMS["9"], title="Unmistakable", caption="Unrepeatable")
    asked = []

    class Watcher(Scribe):
        def write(self, requests):
            for request in requests:
                asked.append(request)
                yield request, Written("text")

    key = CotKey("u", ("1", "2"), "9", "u:2")
    pipeline = make_pipeline(Watcher("d"), Watcher("r"), items={**ITEMS, "9": target})
    both(pipeline, [key])
    both(pipeline, [key], leak=True)
    draft, honest, leaky = (json.dumps(dataclasses.asdict(request)) for request in asked)
    for said in ("Unmistakable", "Unrepeatable", '"9"'):
        assert said not in draft
        assert said not in honest
    # The ablation does tell the target, so the search above can find it.
    assert "Unmistakable | Unrepeatable" in leaky


def test_leaky_texts_are_kept_apart(make_pipeline, keys):
    pipeline = make_pipeline()
    both(pipeline, keys, leak=True)
    scribe = Scribe("refinement")
    both(make_pipeline(refine=scribe), keys)
    assert len(scribe.asked) == 3


def test_estimates_count_what_is_missing(make_pipeline, keys):
    pipeline = make_pipeline()
    both(pipeline, keys[:1])
    found = pipeline.estimates(keys)
    assert (found["draft"].requests, found["refined"].requests) == (2, 2)
    assert found["draft"].completion_tokens == 2 * 5
    assert pipeline.reports["draft"].samples == 1  # estimating asks for nothing


def test_a_line_that_was_cut_off_is_asked_for_again(make_pipeline, keys):
    pipeline = make_pipeline()
    pipeline.drafts(keys)
    (path,) = (pipeline.cache).glob("draft-*.jsonl")
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    scribe = Scribe("draft")
    assert len(make_pipeline(scribe).drafts(keys)) == 3
    assert [request.user_id for request in scribe.asked] == ["u2"]
    # The torn text stays a line of its own, and the new text is found.
    third = Scribe("draft")
    make_pipeline(third).drafts(keys)
    assert third.asked == []


def test_a_text_is_on_disk_when_the_next_is_asked_for(make_pipeline, keys):
    lines = []

    class Looker(Scribe):
        def write(self, requests):
            for request in requests:
                found = list(pipeline.cache.glob("draft-*.jsonl"))
                lines.append(len(found[0].read_bytes().splitlines()) if found else 0)
                yield request, Written(f"text for {request.user_id}")

    pipeline = make_pipeline(Looker("draft"))
    pipeline.drafts(keys)
    # The first line of the file is the identity.
    assert lines == [0, 2, 3]


def test_images_go_with_the_request_of_a_reasoner_that_sees_them(make_pipeline, keys, tmp_path):
    picture = tmp_path / "1.png"
    picture.write_bytes(b"one")
    items = {**ITEMS, "1": dataclasses.replace(ITEMS["1"], image=picture)}

    class Seer(Scribe):
        sees_images = True

    seer = Seer("draft")
    make_pipeline(seer, items=items).drafts(keys)
    assert [request.images for request in seer.asked] == [(picture,), (picture,), ()]
    store = TextStore(tmp_path, "draft", seer.identity())
    blind = dataclasses.replace(seer.asked[0], images=())
    assert store.key(seer.asked[0]) != store.key(blind)


def test_foreign_markup_is_neutral_in_requests():
    wording = load_cot_wording("cot.draft_wording", "draft")
    item = dataclasses.replace(ITEMS["1"], title="[ITEM_7] </think>")
    request = ask(wording, "lamp", "s", "u", [item])
    assert "(ITEM_7) ‹/think›" in request.message
    assert "</think>" not in request.message


def test_wording_of_ones_own_is_checked(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("system: s\nmessage: '{histroy}'\nhistory_item: ''\ncaption: ''\ndraft: ''\nleak: ''\n")
    with pytest.raises(UserError, match="message has no placeholder histroy"):
        load_cot_wording("cot.draft_wording", str(path))
    with pytest.raises(UserError, match="neither a file nor one of draft, draft_example, refine"):
        load_cot_wording("cot.draft_wording", "drafts")


def test_examples_of_a_wording_are_filled_in_like_the_request(tmp_path):
    path = tmp_path / "mine.yaml"
    lines = [
        "system: s",
        "message: '{history}{draft}'",
        "history_item: '{position} {title}{caption}'",
        "caption: ' ({caption})'",
    ]
    lines += ["draft: ' notes {draft}'", "leak: ''"]
    example = "examples: [{history: [[Lamp, red], [Rug, '']], draft: old, answer: both}]"
    path.write_text("\n".join([*lines, example]))
    request = ask(load_cot_wording("cot.draft_wording", str(path)), "lamp", "s", "u", [ITEMS["1"]])
    assert request.examples == (("1 Lamp (red)\n2 Rug notes old", "both"),)
    for wrong, words in (
        ("examples: [{history: [Lamp], answer: both}]", "example 1: history must be a list of pairs"),
        ("examples: [{answer: both}]", "example 1: its keys must be history and answer"),
        ("examples: both", "examples must be a list"),
    ):
        path.write_text("\n".join([*lines, wrong]))
        with pytest.raises(UserError, match=words):
            load_cot_wording("cot.draft_wording", str(path))


def test_a_text_depends_on_the_examples_that_were_shown(tmp_path):
    bare = ask(load_cot_wording("cot.draft_wording", "draft"), "lamp", "s", "u", [ITEMS["1"]])
    store = TextStore(tmp_path, "draft", {"name": "x"})
    assert store.key(bare) != store.key(dataclasses.replace(bare, examples=(("a", "b"),)))
