from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from mllmrec.config import CONFIG_DIR, launcher_rules
from mllmrec.config.compose import compose_checked
from mllmrec.config.launcher_rules import launcher_faults, unaccounted
from mllmrec.errors import ConfigError, UserError
from mllmrec.sweep import main
from mllmrec.sweeping import local
from mllmrec.sweeping.jobs import Sweep, launching, plan
from mllmrec.sweeping.local import LocalJobs, crowded


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return compose("train", list(overrides), return_hydra_config=True)


@pytest.mark.parametrize(("launcher", "extra"), [("slurm", "slurm"), ("ray", "ray")])
def test_a_launcher_without_its_package_says_what_to_install(monkeypatch, launcher, extra) -> None:
    monkeypatch.setattr(launcher_rules, "find_spec", lambda name: None)
    expected = [f"hydra/launcher={launcher} needs: pip install 'mllmrec[{extra}]'"]
    assert launcher_faults(composed(f"hydra/launcher={launcher}")) == expected
    with pytest.raises(ConfigError, match="pip install"):
        plan("free_release", [f"hydra/launcher={launcher}"])


def test_slurm_is_refused_where_there_is_none_and_where_jobs_would_begin_anew(monkeypatch) -> None:
    monkeypatch.setattr(launcher_rules, "find_spec", lambda name: name)
    monkeypatch.setattr(launcher_rules.shutil, "which", lambda name: None)
    faults = launcher_faults(composed("hydra/launcher=slurm"))
    assert "this machine has no srun" in faults[0]
    assert "add resume=auto skip_finished=true" in faults[1]
    monkeypatch.setattr(launcher_rules.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert launcher_faults(composed("hydra/launcher=slurm", "resume=auto")) == []
    assert launcher_faults(composed("hydra/launcher=joblib")) == []


def test_a_cluster_without_accounts_is_warned_of(monkeypatch, tmp_path) -> None:
    sacct = tmp_path / "sacct"
    sacct.write_text("#!/bin/sh\nexit 0\n", encoding="utf-8")
    sacct.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert unaccounted("slurm") is None
    sacct.write_text("#!/bin/sh\necho 'accounting storage is disabled' >&2\nexit 1\n", encoding="utf-8")
    assert "(accounting storage is disabled), so a job that dies is waited for" in unaccounted("slurm")
    sacct.unlink()
    assert "sacct does not answer here" in unaccounted("hydra_plugins.mine.SlurmLauncher")
    assert unaccounted("joblib") is None


def test_a_sweep_goes_where_its_launcher_says(monkeypatch) -> None:
    monkeypatch.setattr(launcher_rules, "find_spec", lambda name: name)
    sweep = plan("free_release", ["hydra/launcher=ray"])
    assert (sweep.launcher, sweep.here) == ("ray", False)
    assert plan("free_release", []).launcher == "joblib"


@pytest.mark.parametrize(
    ("launcher", "setting"), [("slurm", "array_parallelism"), ("ray", "n_jobs"), ("joblib", "n_jobs")]
)
def test_jobs_at_a_time_is_each_launchers_own_setting(launcher, setting) -> None:
    sweep = Sweep(Path("sweep"), {}, [], launcher)
    assert f"hydra.launcher.{setting}=5" in launching(sweep, 5, 5, [])
    # Without jobs=K the launcher's own number holds.
    assert not [
        text for text in launching(sweep, None, 1, []) if text.startswith(f"hydra.launcher.{setting}")
    ]


def test_jobs_at_a_time_is_refused_where_nothing_reads_it() -> None:
    with pytest.raises(UserError, match="has no setting for jobs at a time"):
        launching(Sweep(Path("sweep"), {}, [], "submitit_local"), 2, 2, [])


@pytest.mark.parametrize(
    ("typed", "axis"),
    [("search=grpo", "grpo.beta=interval(0.0,0.1)"), ("grpo.beta=interval(0,1)", "grpo.beta=interval(0,1)")],
)
def test_an_interval_is_searched_and_not_swept(tmp_path, command, capsys, typed, axis) -> None:
    told = (
        f"{axis}: an interval has no list of values to run one by one; search it with python -m mllmrec.tune"
    )
    done = command("train", "--multirun", typed, cwd=tmp_path)
    assert done.returncode == 2
    assert told in done.stderr
    assert main(["free_release", typed]) == 2
    assert told in capsys.readouterr().err


def test_a_launcher_that_does_not_exist_is_named(capsys) -> None:
    assert main(["seeds", "hydra/launcher=slrum"]) == 2
    assert "did you mean slurm" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("at_once", "devices", "threads", "expected"),
    [
        (2, 2, None, None),
        (3, 2, None, "jobs=3 on 2 GPUs: some jobs share a GPU"),
        (2, 1, None, "jobs=2 on 1 GPU: "),
        (4, 0, None, None),
        (8, 0, None, "jobs=8 on 4 cores: jobs share a core"),
        (2, 0, "2", None),
        (2, 0, "4", "OMP_NUM_THREADS=4 each on 4 cores: more threads than cores"),
        (1, 0, "8", None),
    ],
)
def test_crowded_machines_are_told(monkeypatch, at_once, devices, threads, expected) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if threads:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
    told = crowded("jobs", at_once, devices, 4)
    assert told is None if expected is None else expected in told


def test_a_multirun_of_joblib_gives_each_process_a_device(tmp_path, monkeypatch, caplog) -> None:
    claimed = []
    monkeypatch.setattr(local, "gpus", lambda: ["4", "6"])
    monkeypatch.setattr(local, "end_with_parent", lambda: None)
    monkeypatch.setattr(local, "claim_device", lambda *given: claimed.append(given))
    for launcher, told in (("joblib", [(tmp_path, ["4", "6"], 3)]), ("basic", [])):
        claimed.clear()
        config = composed(f"hydra/launcher={launcher}", f"hydra.sweep.dir={tmp_path}", "trainer=auto")
        if launcher == "joblib":
            config.hydra.launcher.n_jobs = 3
        around = LocalJobs()
        around.on_multirun_start(config)
        around.on_job_start(config)
        assert claimed == told
    assert "hydra.launcher.n_jobs=3 on 2 GPUs" in caplog.text
    config.trainer.accelerator = "cpu"
    around = LocalJobs()
    around.on_multirun_start(config)
    assert around.devices == []


def test_the_slurm_file_asks_for_what_a_requeued_job_needs(tmp_path) -> None:
    """The file that sbatch gets: time limit, a signal before it, requeue, and so many jobs of the array at a time."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install 'mllmrec[slurm]'")
    from submitit.slurm.slurm import _make_sbatch_string

    config = composed("hydra/launcher=slurm", f"hydra.sweep.dir={tmp_path}").hydra.launcher
    told = dict(config)
    own = {
        "_target_",
        "submitit_folder",
        "max_num_timeout",
        "name",
        "timeout_min",
        "mem_gb",
        "tasks_per_node",
    }
    text = _make_sbatch_string(
        command="work",
        folder=tmp_path,
        map_count=40,
        time=config.timeout_min,
        **{key: value for key, value in told.items() if key not in own},
    )
    for line in ("--time=240", "--requeue", "--signal=USR2@120", "--array=0-39%16", "--gpus-per-node=1"):
        assert f"#SBATCH {line}\n" in text


ROOT = CONFIG_DIR.parent
TYPED = [
    line.split(" ", 1)[1]
    for line in (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("./sweep.sh")
]


@pytest.mark.parametrize("typed", TYPED)
def test_the_sweeps_of_the_page_compose(monkeypatch, typed: str) -> None:
    monkeypatch.setattr(launcher_rules, "find_spec", lambda name: name)
    monkeypatch.setattr(launcher_rules.shutil, "which", lambda name: name)
    name, *given = typed.split()
    own = [text for text in given if not text.startswith("jobs=")]
    composed = compose_checked("train", [f"experiment={name}", "resume=auto", *own], CONFIG_DIR)
    assert composed.faults + launcher_rules.launcher_faults(composed.config) == []
