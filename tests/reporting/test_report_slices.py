from __future__ import annotations

import numpy as np
import pytest

from mllmrec.reporting.page import make_section
from mllmrec.reporting.tables import slices
from mllmrec.run.folder import RunFolder

NAMES = [["cold", "short"], ["head", "short"], ["head", "long"], ["cold", "long"], ["head", "long"]]


def test_every_row_is_shown_in_every_slice(tmp_path, write_run, experiment):
    write_run(tmp_path / "a", [1, 9, 9, 9, 9], typed=["method=sft"], slices=NAMES)
    # Two seeds, averaged by user; the second run has the same users in another order.
    write_run(tmp_path / "b", [1, 1, 9, 1, 9], method="grpo_only", typed=["method=grpo_only"], slices=NAMES)
    write_run(
        tmp_path / "c",
        [9, 9, 9, 1, 1],
        seed=1,
        method="grpo_only",
        typed=["method=grpo_only"],
        users=["u4", "u3", "u2", "u1", "u0"],
        slices=NAMES[::-1],
    )
    study = experiment(tmp_path)
    table = slices(study)
    assert table.header == ["method", "cold (n = 2)", "head (n = 3)", "short (n = 2)", "long (n = 3)"]
    shown = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
    # sft: u0 alone. grpo_only: u0, u1 with both seeds, u3 with one of two.
    assert shown == {
        "sft": ["0.500", "0.000", "0.500", "0.000"],
        "grpo_only": ["0.750", "0.333", "1.000", "0.167"],
    }
    assert "Too few users to say much: cold, head, short, long." in table.caption
    assert study.as_json()["slices"][0]["means"] == pytest.approx([0.5, 0.75])
    section = make_section(study, [])
    assert section.slices in section.tables


def test_a_baseline_stands_above_the_rows(tmp_path, write_run, experiment):
    folder = write_run(tmp_path / "a", np.ones(30), slices=[["head"]] * 29 + [["cold"]])
    run = RunFolder(folder)
    run.record_baseline("item_knn", {"NDCG@3": 0.4}, {"NDCG@3": [0.3, 0.5]})
    run.record_slices(
        "item_knn", {"head": {"metrics": {"NDCG@3": 0.41}, "intervals": {"NDCG@3": [0.31, 0.51]}}}
    )
    table = slices(experiment(tmp_path))
    assert [(cell.text, cell.detail) for cell in table.rows[0]] == [
        ("item_knn", ""),
        ("–", ""),
        ("0.410", "[0.310, 0.510]"),
    ]
    # A single user has no interval.
    assert [cell.detail for cell in table.rows[1]] == ["", "", "[1.000, 1.000]"]
    assert "Too few users to say much: cold." in table.caption


def test_runs_of_earlier_versions_have_no_such_table(tmp_path, write_run, experiment):
    write_run(tmp_path / "a", [1, 9, 9, 9])
    study = experiment(tmp_path)
    assert slices(study) is None
    assert make_section(study, []).slices is None
