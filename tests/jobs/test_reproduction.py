"""A finished run is run again and compared; what differs is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mllmrec.errors import UserError
from mllmrec.jobs.compared_runs import compared_runs
from mllmrec.jobs.reproduction import refuse_other_settings, typed_for
from mllmrec.run.folder import RunFolder

LIGHT = ["method=popularity", "caption=none", "cot_policy=none", "heldout.users=0", "trainer=cpu"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("light") / "run"


@pytest.fixture
def light(job, shared: Path) -> Callable[[Path], Path]:
    """``light(folder)`` makes ``folder`` a copy of a finished run that only counts."""
    if not shared.exists():
        job(shared, *LIGHT)
    return lambda folder: Path(shutil.copytree(shared, folder))


def edit(path: Path, before: str, after: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after, 1), encoding="utf-8")


@pytest.mark.slow
def test_a_run_that_is_run_again_is_equal(job, command, tmp_path) -> None:
    folder = job(tmp_path / "run", "eval.weighting=both", "share_stages=true", "run_name=first")
    done = command("reproduce", "run=run", "out=again", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    shown = [
        line for line in done.stdout.splitlines() if ("json" in line or "parquet" in line or "csv" in line)
    ]
    assert len(shown) == 6
    assert all(" equal " in line for line in shown)
    assert "The environments are equal" in done.stdout
    # No phase of the first run was taken over, and its name was not given to the second.
    assert "share_stages=true" in (folder / ".hydra" / "overrides.yaml").read_text()
    settings = (tmp_path / "again" / ".hydra" / "resolved.yaml").read_text()
    assert "share_stages: false" in settings
    assert "run_name: null" in settings


def test_a_number_that_differs_is_named_and_ends_with_status_1(job, light, command, tmp_path) -> None:
    light(tmp_path / "run")
    job(tmp_path / "again", *LIGHT)
    assert not any(
        one.differing for one in compared_runs(RunFolder(tmp_path / "run"), RunFolder(tmp_path / "again"))
    )
    metrics = tmp_path / "run" / "metrics.json"
    content = json.loads(metrics.read_text())
    content["stages"]["popularity"]["HR@1"] += 0.25
    content["cost"]["popularity"]["seconds"] += 9
    metrics.write_text(json.dumps(content))
    edit(tmp_path / "run" / "environment.json", '"torch": "', '"torch": "1.0 and ')
    done = command("reproduce", "run=run", "out=again", "rerun=false", cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "differ," in line]
    assert "1 differ, numbers by at most 0.25" in line
    assert "stages.popularity.HR@1: " in line
    assert "versions.torch" in done.stdout


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("protocol_seed: 0", "protocol_seed: 7", "protocol_seed (7 in the run, 0 here)"),
        ("protocol_seed: 0", "protocol_seed: 0\nspeed: 1", "speed (1 in the run, not there here)"),
    ],
)
def test_settings_that_this_version_composes_differently_are_refused(
    light, command, tmp_path, before, after, told
) -> None:
    folder = light(tmp_path / "run")
    edit(folder / ".hydra" / "resolved.yaml", before, after)
    done = command("reproduce", "run=run", "out=again", cwd=tmp_path)
    assert done.returncode == 2
    assert f"other settings than the run had: {told}. Check out " in done.stderr
    assert "more=" in done.stderr
    assert not (tmp_path / "again").exists()


def test_values_of_the_run_can_be_given(light, tmp_path) -> None:
    run = RunFolder(light(tmp_path / "run"))
    edit(run.resolved_config_path, "protocol_seed: 0", "protocol_seed: 7")
    with pytest.raises(UserError, match="protocol_seed"):
        refuse_other_settings(run, typed_for(run, ["protocol_seed=6"]))
    refuse_other_settings(run, typed_for(run, ["protocol_seed=7"]))


def test_another_cache_is_no_other_setting(light, tmp_path) -> None:
    run = RunFolder(light(tmp_path / "run"))
    stored = OmegaConf.load(run.resolved_config_path)
    assert stored.dataset.cache_dir == stored.cache_dir
    typed = typed_for(run, [f"cache_dir={tmp_path / 'elsewhere'}", "warnings.steps=3"])
    refuse_other_settings(run, typed)
    # The second run still uses the cache that was asked for.
    assert f"cache_dir={tmp_path / 'elsewhere'}" in typed.command(tmp_path / "again")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run=nowhere", "out=again"], "nowhere is no finished run"),
        (["run=run", "out=run"], "out=run is the run itself"),
        (["run=run", "out=other"], "out=other holds a finished run"),
        (["run=run", "out=again", "rerun=false"], "again is no finished run"),
        (["run=run", "out=again", "threads=0"], "threads=0: must be a whole number"),
        (["run=broken", "out=again"], "run=broken: it was killed"),
    ],
)
def test_wrong_use_is_refused_before_anything_runs(light, command, tmp_path, arguments, told) -> None:
    for name in ("run", "other", "broken"):
        if f"run={name}" in arguments or f"out={name}" in arguments:
            light(tmp_path / name)
    if "run=broken" in arguments:
        (tmp_path / "broken" / "finished.json").unlink()
    done = command("reproduce", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert told in done.stderr
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    ("file", "before", "after", "told"),
    [
        # Hydra would build this one before any setting is checked.
        ("overrides", "", "- +hydra.callbacks.own._target_=ourlab.Own\n", "+hydra.callbacks.own._target_=ourlab.Own is no"),
        ("overrides", "", "- --config-dir=elsewhere\n", "--config-dir=elsewhere is no setting of a job"),
        ("overrides", "", "- +method.recommender.more={_target_:ourlab.Own}\n", "add trust=[ourlab]"),
        ("hydra", "provider: main", "provider: command-line", "add trust=[/"),
        ("hydra", "config_name: train", "config_name: ../elsewhere", "hydra.job.config_name=../elsewhere: no name"),
        ("hydra", "    hydra: []\n", "    hydra:\n    - hydra.searchpath=[pkg://ourlab.conf]\n", "add trust=[ourlab]"),
    ],
)  # fmt: skip
def test_what_a_stranger_typed_runs_nothing(light, command, tmp_path, file, before, after, told) -> None:
    path = light(tmp_path / "run") / ".hydra" / f"{file}.yaml"
    written = path.read_text(encoding="utf-8")
    assert before in written
    path.write_text(written.replace(before, after, 1) if before else written + after, encoding="utf-8")
    (tmp_path / "ourlab.py").write_text("from pathlib import Path\nPath('owned').touch()\n")
    done = command("reproduce", "run=run", "out=again", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert told in done.stderr
    assert not (tmp_path / "again").exists()
    assert not (tmp_path / "owned").exists()
