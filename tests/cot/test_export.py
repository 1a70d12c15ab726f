from __future__ import annotations

import dataclasses
import json

import pytest
from scribe import ITEMS, Scribe

from mllmrec.captions import Precomputed
from mllmrec.cot import Built, PrecomputedCot
from mllmrec.cot.released import line_indices, write_captions, write_reasoning
from mllmrec.errors import UserError
from mllmrec.reasoners.base import Request
from mllmrec.reasoners.precomputed import PrecomputedReasoner


def test_exported_captions_are_read_as_they_were(tmp_path):
    items = {**ITEMS, "3": dataclasses.replace(ITEMS["3"], caption="")}
    path = tmp_path / "lamps_captions.json"
    write_captions(path, items)
    assert json.loads(path.read_text("utf-8"))["1"] == {"title": "Title 1", "caption": "caption1, red"}
    read = dict(Precomputed(path).caption_images((item, None) for item in items))
    assert read == {item: shown.caption or None for item, shown in items.items()}


def test_exported_reasoning_is_found_by_the_same_samples(make_pipeline, keys, tmp_path):
    policy = Built(make_pipeline(refine=Scribe("r", refuses=("u1",))))
    policy.make(keys)
    path = tmp_path / "lamps_deepseek_cot.json"
    write_reasoning(path, policy, keys, {"u2": 7})
    first, second = json.loads(path.read_text("utf-8"))
    assert first == {
        "line_idx": None,
        "user_id": "u0",
        "history_items": [{"item_id": str(item), "title": f"Title {item}"} for item in range(3)],
        "target_item": {"item_id": "3", "title": "Title 3"},
        "reasoning": "r of 0 1 2",
        "sample_id": "u0:3",
        "leak": "none",
    }
    assert second["line_idx"] == 7
    recorded = PrecomputedCot(path)
    assert [recorded.reasoning(key) for key in keys] == [policy.reasoning(key) for key in keys]
    assert recorded.reasoning(keys[1]) is None
    history = tuple(ITEMS[item] for item in keys[0].history_ids)
    ((_, text),) = PrecomputedReasoner(path).write([Request("s", "u0", history, "", "", "")])
    assert text.text == "r of 0 1 2"


@pytest.fixture
def exported(make_pipeline, keys, tmp_path):
    """``exported(leak)``: the reasoning file that build_cot leaves; for None, the file without the mark."""

    def write(leak: str | None):
        policy = Built(make_pipeline(), leak=leak or "none")
        policy.make(keys)
        path = tmp_path / f"lamps_{leak}_cot.json"
        write_reasoning(path, policy, keys, {})
        if leak is None:
            records = json.loads(path.read_text("utf-8"))
            released = [
                {name: value for name, value in record.items() if name != "leak"} for record in records
            ]
            path.write_text(json.dumps(released))
        return path

    return write


@pytest.mark.parametrize(("leak", "told"), [("none", "none"), ("target", "target"), (None, "unknown")])
def test_what_a_reasoner_was_told_travels_with_its_texts(make_pipeline, keys, exported, leak, told):
    path = exported(leak)
    assert PrecomputedCot(path).told == told
    # The mark stays if another reasoner rewrites the texts of one that knew the target.
    drafted = Built(make_pipeline(draft=PrecomputedReasoner(path)))
    drafted.make(keys)
    assert drafted.told == told
    assert {record.leak for record in drafted.records.values()} == {told}
    # A file that is not read tells nobody anything.
    assert Built(make_pipeline(refine=PrecomputedReasoner(path)), "draft").told == "none"


def test_one_text_that_knew_marks_the_file(exported, keys, tmp_path):
    honest, leaky = (json.loads(exported(leak).read_text("utf-8")) for leak in ("none", "target"))
    path = tmp_path / "mixed.json"
    path.write_text(json.dumps([*honest, leaky[0]]))
    assert PrecomputedCot(path).told == "target"
    path.write_text(json.dumps([*honest, {**leaky[0], "reasoning": ""}]))
    assert PrecomputedCot(path).told == "none"


def test_a_file_that_says_something_else_of_it_is_refused(exported, tmp_path):
    records = json.loads(exported("none").read_text("utf-8"))
    path = tmp_path / "odd.json"
    path.write_text(json.dumps([{**records[0], "leak": "a bit"}]))
    with pytest.raises(UserError, match=r"odd.json record 1: leak='a bit': .*none, target or unknown"):
        PrecomputedCot(path)


def test_a_file_that_is_not_there_cannot_say(tmp_path):
    assert PrecomputedReasoner(tmp_path / "gone.json").told == "unknown"


def test_lines_are_those_of_the_file_from_0_blank_ones_counted(tmp_path):
    (tmp_path / "train.tsv").write_text("a\t1 2 3\n\nb\t4\n\n\nc\t5 6\n")
    assert line_indices(tmp_path) == {"a": 0, "b": 2, "c": 5}


def test_other_data_has_no_lines(tmp_path):
    assert line_indices(tmp_path) == {}
    assert line_indices(None) == {}
