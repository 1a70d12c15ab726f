from __future__ import annotations

import pytest
from PIL import Image
from scribe import Scribe

from mllmrec.cot import Built, Confident
from mllmrec.cot.funnel import cot_funnel, draw_funnel, funnel_json, funnel_rows
from mllmrec.reasoners.base import Written

CAPTIONS = {"captioned": 7, "from_cache": 4, "no_image": 2, "unreadable_image": 1, "without: HTTP 400": 2}
GOOD = "Signals: red in {0}. Preference: mostly red lamps. Look for: red and caption{0} lamps."


class Author(Scribe):
    """Writes the text that it is given for each user."""

    def __init__(self, name, texts):
        super().__init__(name)
        self.texts = texts

    def write(self, requests):
        for request in requests:
            yield request, Written(self.texts[request.user_id])


def counts(stages):
    return {stage.stage: (stage.entered, stage.kept, dict(stage.dropped)) for stage in stages}


def test_what_one_stage_keeps_goes_into_the_next(make_pipeline, keys):
    policy = Built(make_pipeline(Scribe("d", refuses=("u0",)), Scribe("r", refuses=("u2",))))
    policy.make(keys)
    assert counts(cot_funnel(policy, keys, CAPTIONS)) == {
        # 7 + 2 + 1 + 2 items; items from the cache are captioned like the rest.
        "caption": (12, 7, {"no image": 2, "unreadable image": 1, "HTTP 400": 2}),
        "draft": (3, 2, {"refused": 1}),
        "refined": (2, 1, {"refused": 1}),
    }


def test_the_assessment_drops_by_veto_and_by_rank(make_pipeline, keys):
    texts = {
        "u0": GOOD.format(1),
        "u1": "Signals: <b>red</b> in most. Preference: red. Look for: red lamps again.",
        "u2": GOOD.format(2),
    }
    # User 2's draft says nothing that its refinement says.
    drafts = {**texts, "u2": "Signals: wood. Preference: oak or beech. Look for: a long and low oaken table."}
    policy = Confident(make_pipeline(Author("d", drafts), Author("r", texts)), top_share=1 / 3)
    policy.make(keys)
    assert counts(cot_funnel(policy, keys, {}))["assess"] == (
        3,
        1,
        {"form: no_markup": 1, "less confident": 1},
    )


def test_only_the_samples_asked_for_are_counted(make_pipeline, keys):
    policy = Built(make_pipeline(Scribe("d", refuses=("u0",))), "draft")
    policy.make(keys[:1])
    policy.make(keys[1:])
    found = counts(cot_funnel(policy, keys[1:], {"captioned": 3}))
    assert found == {"caption": (3, 3, {}), "draft": (2, 2, {})}


def test_told_refinements_carry_the_name_of_the_ablation(make_pipeline, keys):
    policy = Built(make_pipeline(refine=Scribe("r", refuses=("u1",))), leak="target")
    policy.make(keys)
    assert counts(cot_funnel(policy, keys, {}))["leaky"] == (3, 2, {"refused": 1})


def test_rows_and_json_say_the_same(make_pipeline, keys):
    policy = Built(make_pipeline(Scribe("d", refuses=("u0",))), "draft")
    policy.make(keys)
    stages = cot_funnel(policy, keys, {"captioned": 1200, "no_image": 34})
    assert funnel_rows(stages) == [
        ("caption", "items", 1234, 1200, 34, "no image 34"),
        ("draft", "samples", 3, 2, 1, "refused 1"),
    ]
    assert funnel_json(stages)[1] == {
        "stage": "draft",
        "unit": "samples",
        "in": 3,
        "kept": 2,
        "dropped": 1,
        "reasons": {"refused": 1},
    }


@pytest.mark.parametrize("captions", [CAPTIONS, {}])
def test_the_picture_is_drawn_whatever_is_empty(make_pipeline, keys, tmp_path, captions):
    policy = Built(make_pipeline(Scribe("d", refuses=("u0", "u1", "u2"))))
    policy.make(keys)
    draw_funnel(cot_funnel(policy, keys, captions), tmp_path / "funnel.png")
    with Image.open(tmp_path / "funnel.png") as picture:
        assert picture.width > 600
