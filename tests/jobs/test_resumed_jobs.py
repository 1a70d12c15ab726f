"""Jobs that end in the middle, and go on in another attempt as if nothing had happened."""

from __future__ import annotations

import csv
import json
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import wandb
from offline_wandb import read_run
from safetensors.torch import load_file

from mllmrec.cache import file_fingerprint
from mllmrec.errors import UserError
from mllmrec.errors.disk import user_error_behind
from mllmrec.evaluation.protocol import Protocol
from mllmrec.phases.training_free import TrainingFree
from mllmrec.run.checkpoints import Checkpoints
from mllmrec.run.log import Resumption, resumptions
from mllmrec.run.progress import SavedProgress

STEPS = ("resume=auto", "checkpoint.steps=1", "warmup.max_steps=4", "sft.max_steps=4", "grpo.max_steps=4")


class Killed(BaseException):
    """The job ends here, without a chance to write anything."""


@pytest.fixture
def ends(monkeypatch):
    """``ends(phase, step)``: a job ends before this step of this phase; with ``by``, it calls that instead."""

    def die() -> None:
        raise Killed

    def end(phase: str | None, step: int = 0, by: Callable[[], None] = die) -> None:
        monkeypatch.undo()
        between = SavedProgress.between

        def or_end(self, at, **more):
            if self.name == phase and at == step:
                by()
            between(self, at, **more)

        monkeypatch.setattr(SavedProgress, "between", or_end)

    return end


@contextmanager
def no_room(size: int) -> Iterator[Callable[[], None]]:
    """A function after which no file may become larger than ``size`` bytes, until the block ends."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def content(folder: Path) -> dict:
    """All results of a run, but for times."""
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics.pop("cost")
    with (folder / "log.csv").open() as stream:
        rows = [{**row, "seconds": ""} for row in csv.DictReader(stream)]
    weights = {
        path.relative_to(folder).as_posix(): {name: one.tolist() for name, one in load_file(path).items()}
        for path in sorted(folder.rglob("*.safetensors"))
    }
    tables = {path.name: pq.read_table(path).to_pylist() for path in sorted(folder.glob("*.parquet"))}
    return {"metrics": metrics, "log": rows, "weights": weights, "tables": tables}


def refuses_a_payload(run: Path, file: str, payload, go_on) -> None:
    """A file of an earlier attempt that would make a folder when it is read as a pickle is refused in one line."""
    copied, owned = run.with_name("copied"), run.with_name("owned")
    shutil.copytree(run, copied)
    path = copied / "resume" / file
    path.write_bytes(payload(owned))
    seal = path.with_suffix(".json")
    if seal.exists():  # a stranger would write that too
        seal.write_text(json.dumps({**json.loads(seal.read_text()), "content": file_fingerprint(path)}))
    with pytest.raises(UserError, match=f"{path.name} does not hold what this package writes"):
        go_on(copied)
    assert not owned.exists()


def test_a_job_goes_on_in_every_phase_from_its_last_whole_checkpoint(job, ends, payload, tmp_path):
    command = (*STEPS, "grpo.iterations=2", "sampler=dynamic", "reference=ema")
    whole = content(job(tmp_path / "whole", *command))
    with no_room(100_000) as fill:
        ends("warmup", 3, fill)
        with pytest.raises(OSError, match="too large") as full:
            job(tmp_path / "run", *command)
    last = tmp_path / "run" / "resume" / "warmup" / "step-000000003.ckpt"
    assert str(user_error_behind(full.value)).startswith(f"{last}: no file may become so large here")
    assert Checkpoints(last.parent).latest().step == 2
    for phase in ("sft", "grpo"):
        ends(phase, 3)
        with pytest.raises(Killed):
            job(tmp_path / "run", *command)
    damaged = tmp_path / "run" / "resume" / "grpo" / "step-000000002.ckpt"
    ends(None)
    refuses_a_payload(tmp_path / "run", f"grpo/{damaged.name}", payload, lambda run: job(run, *command))
    foreign = damaged.with_name("step-000000003.ckpt")
    foreign.write_bytes(damaged.read_bytes())
    seal = json.loads(damaged.with_suffix(".json").read_text())
    foreign.with_suffix(".json").write_text(json.dumps({**seal, "step": 3, "job": "another"}))
    damaged.write_bytes(damaged.read_bytes()[:1000])
    assert content(job(tmp_path / "run", *command)) == whole
    assert not (tmp_path / "run" / "resume").exists()
    log = (tmp_path / "run" / "run.log").read_text()
    assert log.count("goes on from an earlier attempt") == 3
    assert "warmup: goes on at step 2" in log
    assert f"{damaged} is not used: its content is not as it was written" in log
    assert f"{foreign} is not used: it is of a run with other settings" in log
    assert "grpo: goes on at step 1" in log
    expected = [Resumption("warmup", 2), Resumption("sft", 2), Resumption("grpo", 1)]
    assert resumptions(tmp_path / "run" / "run.log") == expected


def test_answers_that_a_later_phase_learns_are_there_in_another_attempt(job, ends, payload, tmp_path):
    command = (*STEPS, "variant=grpo_sft_grpo")
    whole = content(job(tmp_path / "whole", *command))
    ends("sft_on_grpo", 1)
    with pytest.raises(Killed):
        job(tmp_path / "run", *command)
    ends(None)
    refuses_a_payload(tmp_path / "run", "grpo-answers.pt", payload, lambda run: job(run, *command))
    assert content(job(tmp_path / "run", *command)) == whole


@pytest.mark.parametrize("kind", ["adapters", "expert iteration"])
def test_other_kinds_go_on(job, ends, tmp_path, adapters, kind):
    if kind == "adapters":
        command, phase = (*adapters, "resume=auto", "checkpoint.steps=1", "backbone.lora.dropout=0.1"), "grpo"
    else:
        few = "expert_iteration.prompts_per_round=8"
        command, phase = (*STEPS, "method=expert_iteration", few), "expert_iteration"
    small = kind != "adapters"
    whole = content(job(tmp_path / "whole", *command, small=small))
    ends(phase, 2)
    with pytest.raises(Killed):
        job(tmp_path / "run", *command, small=small)
    ends(None)
    assert content(job(tmp_path / "run", *command, small=small)) == whole


def test_training_free_goes_on_and_practises_no_step_twice(job, ends, tmp_path, monkeypatch):
    few = ("training_free.max_steps=4", "training_free.prompts_per_step=8", "experience.least_groups=1")
    command = (*STEPS, "method=training_free", *few, "heldout.every=1", "heldout.keep=last")
    whole = job(tmp_path / "whole", *command)
    ends("training_free", 2)
    with pytest.raises(Killed):
        job(tmp_path / "run", *command)
    ends(None)
    practised, rank = [], Protocol.rank
    step = TrainingFree.step
    monkeypatch.setattr(
        TrainingFree,
        "step",
        lambda self, some, number, *more: practised.append(number) or step(self, some, number, *more),
    )

    def ended(self, name, *more):
        if name == "training_free":
            raise Killed
        return rank(self, name, *more)

    monkeypatch.setattr(Protocol, "rank", ended)
    with pytest.raises(Killed):
        job(tmp_path / "run", *command)
    monkeypatch.setattr(Protocol, "rank", rank)
    assert content(job(tmp_path / "run", *command)) == content(whole)
    assert practised == [1, 2, 3]  # step 1 had no checkpoint yet
    experience = Path("experience") / "training_free.json"
    assert (tmp_path / "run" / experience).read_bytes() == (whole / experience).read_bytes()
    assert json.loads((whole / experience).read_text())["experiences"]


def test_a_recommender_goes_on_and_is_ranked_once(job, ends, tmp_path, monkeypatch):
    command = ("method=sasrec", "resume=auto", "checkpoint.steps=1", "method.recommender.max_epochs=3")
    command = (*command, "method.recommender.batch_size=16", "method.recommender.every=1")
    whole = content(job(tmp_path / "whole", *command))
    ends("sasrec", 6)
    with pytest.raises(Killed):
        job(tmp_path / "run", *command)
    ends(None)
    ranked = []
    rank = Protocol.rank
    monkeypatch.setattr(
        Protocol, "rank", lambda self, name, *more: ranked.append(name) or rank(self, name, *more)
    )
    assert content(job(tmp_path / "run", *command)) == whole
    assert ranked == ["sasrec"]  # and not what the first attempt had ranked


def test_another_attempt_goes_on_in_the_same_wandb_run(job, ends, tmp_path, monkeypatch):
    begun = []
    init = wandb.init
    ends("sft", 3)
    monkeypatch.setattr("wandb.init", lambda **given: begun.append(given) or init(**given))
    with pytest.raises(Killed):
        job(tmp_path / "run", *STEPS, "logger=wandb")
    (first,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    first.parent.rename(tmp_path / "first attempt")
    ends(None)
    monkeypatch.setattr("wandb.init", lambda **given: begun.append(given) or init(**given))
    job(tmp_path / "run", *STEPS, "logger=wandb")
    assert begun[0]["id"] is None
    assert (f"run-{begun[1]['id']}.wandb", begun[1]["resume"]) == (first.name, "allow")
    history = read_run(tmp_path / "run").history
    # The first attempt has logged the warm-up, whose steps count on.
    assert not any("warmup/loss" in row for row in history)
    assert [row["trainer/global_step"] for row in history if "grpo/loss" in row] == [7, 8, 9, 10]
