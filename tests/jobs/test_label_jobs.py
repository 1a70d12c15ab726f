"""Policies that name candidates in other ways than by their ids, from the command line to a recommendation."""

from __future__ import annotations

import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest

from mllmrec.errors import UserError
from mllmrec.jobs.finished_run import open_run
from mllmrec.jobs.main import next_steps
from mllmrec.jobs.recommendation import rank_items
from mllmrec.run.folder import RunFolder

pytestmark = pytest.mark.slow

FORMS = {"letter": r"[A-C]", "none": r"[^\[]+"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return tmp_path_factory.mktemp("labels")


@pytest.fixture(params=FORMS)
def finished(request, job, folders, adapters):
    label, folder = request.param, folders / request.param
    if not folder.exists():
        job(
            folder,
            *adapters,
            "prompt.template=instruct",
            # The small model holds 512 tokens, which are little more than letters.
            "caption=none",
            "cot_policy=none",
            "mix_ratio=0",
            "prompt.max_title_words=2",
            f"prompt.label={label}",
            f"prompt.answer={'id' if label == 'letter' else 'id_title'}",
            "prompt.system=Be brief.",
            "eval.num_negatives=4",  # two lists of at most three
            small=False,
        )
    return label, folder


def test_only_such_names_are_learnt_drawn_and_measured(finished):
    label, folder = finished
    said = pq.read_table(folder / "rollouts.parquet").to_pylist()
    assert said
    for row in said:
        assert re.fullmatch(FORMS[label], row["completion"])
        assert dict(row["parts"])["format"] == 1.0
    prompts = (folder / "prompts.md").read_text(encoding="utf-8")
    assert "[ITEM_" not in prompts
    assert "<|im_start|>system\nBe brief.<|end|>" in prompts
    for block in prompts.split("### ")[1:]:
        (answer,) = re.findall(r"Answer:\n\n```text\n(.*)\n```", block)
        assert re.fullmatch(FORMS[label], answer)
        place = re.search(r"the target is candidate (\d+) of 3$", block, re.MULTILINE)
        if place and label == "letter":
            assert answer == " ABC"[int(place[1])]
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["protocol"]["listed"] == "3 at a time"
    assert metrics["stages"]["grpo"]["HR@1"] is not None


def test_recommendations_list_the_items(finished):
    label, folder = finished
    run = open_run(str(folder), None)
    assert run.policy.system == "Be brief."
    offered = run.prepared.items.ids[:3].tolist()
    ranked = rank_items(run, [0, 1], set(), candidates=offered, shortlist=3)
    assert sorted(item for item, _ in ranked) == [0, 1, 2]
    if label == "none":
        others = set(np.flatnonzero(run.prepared.items.offered).tolist()) - {0, 1}
        assert {item for item, _ in rank_items(run, [0, 1], {0, 1})} == others
        return
    _, commands = next_steps(RunFolder(folder), run.prepared, run.cfg.eval.ranking)
    assert commands[0][1].endswith(f"candidates=[{','.join(offered)}]'")
    with pytest.raises(
        UserError, match=rf"by its {label} in the prompt's list .* give up to 3 items as candidates"
    ):
        rank_items(run, [0, 1], {0, 1})
