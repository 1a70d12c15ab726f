from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mllmrec.errors import UserError
from mllmrec.reporting.runs import find_jobs


def test_runs_are_found_at_any_depth_and_what_lies_inside_one_belongs_to_it(tmp_path, write_run):
    write_run(tmp_path / "a" / "0", [1, 2, 3])
    deep = write_run(tmp_path / "b" / "c" / "d", [1, 2, 3], seed=7)
    shutil.copytree(deep, deep / "evaluations" / "2026-01-31_12-00-00")
    jobs = find_jobs(tmp_path)
    assert [run.path.relative_to(tmp_path).as_posix() for run in jobs.runs] == ["a/0", "b/c/d"]
    assert [run.seed for run in jobs.runs] == [0, 7]
    assert jobs.unfinished == []
    assert [run.path for run in find_jobs(deep).runs] == [deep]


def test_jobs_stand_in_the_order_in_which_multirun_numbered_them(tmp_path, write_run):
    for number in ("10", "2", "a1", "a10", "a9"):
        write_run(tmp_path / number, [1, 2])
    assert [run.path.name for run in find_jobs(tmp_path).runs] == ["2", "10", "a1", "a9", "a10"]


def test_jobs_named_by_their_overrides_stand_in_the_order_of_the_axis(tmp_path, write_run):
    for number, name in enumerate(["method-random", "method-gru4rec", "method-dpo"]):
        described = write_run(tmp_path / name, [1, 2]) / ".hydra" / "hydra.yaml"
        settings = OmegaConf.load(described)
        OmegaConf.update(settings, "hydra.job.num", number)
        OmegaConf.save(settings, described)
    names = [run.path.name for run in find_jobs(tmp_path).runs]
    assert names == ["method-random", "method-gru4rec", "method-dpo"]


def test_failed_and_open_jobs_are_named_and_take_no_part(tmp_path, write_run):
    write_run(tmp_path / "good", [1, 2, 3])
    write_run(tmp_path / "cut", [1, 2, 3], finished=False)
    died = write_run(tmp_path / "died", [1, 2, 3], finished=False)
    (died / "failed.json").write_text(json.dumps({"error": "UserError: data.csv line 3\n  more"}))
    # Failed before anything was written.
    (tmp_path / "early" / ".hydra").mkdir(parents=True)
    (tmp_path / "early" / "failed.json").write_text('{"error": "KeyError: x"}')
    jobs = find_jobs(tmp_path)
    assert [run.path.name for run in jobs.runs] == ["good"]
    assert [(job.path.name, job.error) for job in jobs.unfinished] == [
        ("cut", None),
        ("died", "UserError: data.csv line 3"),
        ("early", "KeyError: x"),
    ]


def test_folders_of_other_commands_are_no_jobs(tmp_path, write_run):
    write_run(tmp_path / "run", [1, 2, 3])
    (tmp_path / "report" / ".hydra").mkdir(parents=True)
    OmegaConf.save(
        {"hydra": {"job": {"config_name": "report"}}}, tmp_path / "report" / ".hydra" / "hydra.yaml"
    )
    jobs = find_jobs(tmp_path)
    assert (len(jobs.runs), jobs.unfinished) == (1, [])


def test_no_run_is_refused_with_what_was_there(tmp_path):
    for absent in (tmp_path / "absent", ""):
        with pytest.raises(UserError, match="no such folder"):
            find_jobs(absent)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "failed.json").write_text('{"error": "E"}')
    with pytest.raises(UserError, match=r"no finished run .*; jobs there that failed or have not ended: 1"):
        find_jobs(tmp_path)


def test_metrics_of_another_run_beside_the_ranks_are_refused(tmp_path, write_run):
    folder = write_run(tmp_path / "run", [1, 2, 3, 9])
    path = folder / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["stages"]["sft"]["HR@3"] = 0.5
    path.write_text(json.dumps(metrics))
    run = find_jobs(tmp_path).runs[0]
    # Ranks 1, 2, 3 of four are within 3.
    with pytest.raises(
        UserError, match=r"HR@3 of phase sft is 0\.750000, but metrics\.json beside it says 0\.5"
    ):
        run.records("sft")


FILE = {"_target_": "mllmrec.cot.PrecomputedCot"}
READER = {"_target_": "mllmrec.reasoners.precomputed.PrecomputedReasoner"}
MADE = {"_target_": "mllmrec.cot.Built", "leak": "none"}


@pytest.mark.parametrize(
    ("protocol", "settings", "leak"),
    [
        ({"leak": "target"}, {"cot_policy": FILE}, "target"),
        ({"leak": "unknown"}, {"cot_policy": FILE}, "unknown"),
        ({"leak": "none"}, {"cot_policy": FILE}, "none"),
        # No prompt carries any reasoning.
        ({"leak": "target"}, {"cot_policy": FILE, "mix_ratio": 0}, "none"),
        ({"leak": "target"}, {"cot_policy": FILE, "mix_ratio": 0, "eval": {"cot": True}}, "target"),
        ({"leak": "target"}, {"cot_policy": FILE, "mix_ratio": 0, "eval": {"cot": "auto"}}, "none"),
        # Runs with a protocol that does not say it.
        ({}, {"cot_policy": {"leak": "target"}}, "target"),
        ({}, {"cot_policy": {"leak": "none"}}, "none"),
        ({}, {}, "none"),
        ({}, {"cot_policy": FILE}, "unknown"),
        ({}, {"cot_policy": MADE, "draft": READER}, "unknown"),
        ({}, {"cot_policy": MADE, "refine": READER}, "unknown"),
        ({}, {"cot_policy": {**MADE, "stage": "draft"}, "refine": READER}, "none"),
    ],
)
def test_a_run_leaks_if_its_reasoning_knew_the_target(tmp_path: Path, write_run, protocol, settings, leak):
    write_run(tmp_path / "run", [1, 2], settings=settings, protocol=protocol)
    assert find_jobs(tmp_path).runs[0].leak == leak
