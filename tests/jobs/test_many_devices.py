"""One job on two devices, started as on the command line, beside the same job on one."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mllmrec.config import CONFIG_DIR
from mllmrec.config.checks import plain_faults
from mllmrec.config.compose import compose_checked
from mllmrec.config.rules import broken_rules, deepspeed_can_divide
from mllmrec.evaluation.records import read_stage
from mllmrec.run.folder import RunFolder
from mllmrec.run.log_rows import read_log

JOB = [
    *(
        "trainer.accelerator=cpu",
        "method=grpo_only",
        "warmup.max_steps=2",
        "warmup.dropout=0.1",
        "grpo.max_steps=2",
    ),
    *(
        "grpo.prompts_per_step=3",
        "heldout.keep=last",
        "eval.max_users=33",
        "checkpoint.steps=1",
        "logger=csv",
    ),
]


@pytest.mark.slow
def test_two_processes_make_the_run_of_one(job, overrides, tmp_path):
    one = RunFolder(job(tmp_path / "one", *JOB))
    place = tmp_path / "two"
    command = [
        sys.executable,
        "-m",
        "mllmrec.train",
        *overrides,
        *JOB,
        "trainer=ddp",
        f"hydra.run.dir={place}",
    ]
    command.append("trainer.accelerator=cpu")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("Data") == 1  # the other process says nothing
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
    two = RunFolder(place)
    names = [{path.relative_to(run.path) for path in run.path.rglob("*.*")} for run in (one, two)]
    assert {str(name) for name in names[0] ^ names[1]} <= {
        *(".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml")
    }
    assert two.metrics()["stages"] == one.metrics()["stages"]
    assert (
        two.metrics()["cost"]["grpo"]["tokens_per_prompt"]
        == one.metrics()["cost"]["grpo"]["tokens_per_prompt"]
    )
    for stage in ("zero_shot", "warmup", "grpo"):
        records, alone = (read_stage(run.per_user_path, stage) for run in (two, one))
        assert list(records.user_ids) == list(alone.user_ids)
        assert len(set(records.user_ids)) == 33
        assert records.ranks.tolist() == alone.ranks.tolist()
    rows, alone_rows = read_log(two.log_path), read_log(one.log_path)
    assert len(rows) == len(alone_rows)
    for row, alone_row in zip(rows, alone_rows, strict=True):
        for name in {*row, *alone_row} - {"stage", "seconds"}:
            assert float(row[name] or "nan") == pytest.approx(
                float(alone_row[name] or "nan"), abs=1e-4, nan_ok=True
            )


@pytest.mark.parametrize(
    "given",
    [
        ["method=sasrec"],
        ["method=training_free"],
        ["method=llara"],
        ["trainer.accelerator=mps"],
    ],
    ids=lambda given: given[0],
)
def test_what_one_device_alone_can_do_is_refused(given):
    composed = compose_checked("train", ["trainer=ddp", *given], CONFIG_DIR)
    assert any("trainer.devices=1" in fault for fault in plain_faults(composed.config))
    composed = compose_checked("train", ["trainer=ddp", "trainer.devices=1", *given], CONFIG_DIR)
    assert not any("trainer.devices" in fault for fault in plain_faults(composed.config))


@pytest.mark.parametrize(
    ("here", "given", "said"),
    [
        (None, [], "needs deepspeed: pip install 'mllmrec[deepspeed]'"),
        ("0.18.9", [], "needs a later DeepSpeed than 0.18.9"),
        ("0.19.8", ["trainer.precision=bf16-mixed"], "set trainer.precision=bf16-true or 32-true"),
        ("0.19.8", ["backbone=qwen3_0.6b", "backbone.quantization=4bit"], "use trainer=ddp"),
        ("0.19.8", [], None),
        (None, ["trainer.devices=1"], None),
    ],
)
def test_what_deepspeed_cannot_do_is_refused(here, given, said, monkeypatch):
    monkeypatch.setattr("mllmrec.config.rules.find_spec", lambda name: here)
    monkeypatch.setattr("mllmrec.config.rules.version", lambda name: here)
    composed = compose_checked("train", ["trainer=deepspeed", *given], CONFIG_DIR)
    assert (composed.config["trainer"]["strategy"], composed.faults) == ("deepspeed", [])
    faults = broken_rules(composed.config, (deepspeed_can_divide,))
    assert len(faults) == (said is not None)
    assert said is None or said in faults[0]


def test_a_multirun_is_refused_since_each_process_would_start_it_again(command, tmp_path):
    done = command("train", "-m", "trainer=ddp", "debug=fast", "method=sft,dpo", cwd=tmp_path)
    assert done.returncode == 2
    assert "trainer.devices=2 in a multirun" in done.stderr


def test_several_devices_from_python_need_torchrun(job, tmp_path, monkeypatch):
    from mllmrec.errors import UserError

    monkeypatch.setattr(sys, "argv", ["notebook.py"])
    with pytest.raises(UserError, match="torchrun"):
        job(tmp_path / "run", *JOB, "trainer=ddp", "trainer.accelerator=cpu")


def test_other_numbers_of_processes_are_named(job, tmp_path, monkeypatch):
    from mllmrec.errors import UserError

    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError, match=r"trainer\.devices=2, and 3 processes were started"):
        job(tmp_path / "run", *JOB, "trainer=ddp", "trainer.accelerator=cpu")
