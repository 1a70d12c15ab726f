from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from lightning.pytorch import LightningModule, Trainer
from omegaconf import OmegaConf

from mllmrec.run import csv_log
from mllmrec.run.csv_log import CsvLog
from mllmrec.run.curves import draw_curves
from mllmrec.run.folder import RunFolder
from mllmrec.run.loggers import Labels, RunLoggers, WandbLoggers, without_secrets
from mllmrec.run.rollouts import Rollout, RolloutWriter

LABELS = Labels("sizes", "G=8", ["method=sft"])
GROUP = Path(__file__).resolve().parents[2] / "conf" / "logger"


def rows(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


class Halving(LightningModule):
    """One weight, starting at 8; SGD of w² / 2 at rate 0.5 halves it: losses 32, 8, 2."""

    def __init__(self, fail_at=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(8.0))
        self.fail_at = fail_at

    def training_step(self, batch, index):
        if index == self.fail_at:
            raise RuntimeError("diverged")
        loss = self.weight**2 / 2
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5)


def train(stage_loggers, module=None):
    trainer = Trainer(
        accelerator="cpu",
        max_steps=3,
        log_every_n_steps=1,
        logger=stage_loggers,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module or Halving(), torch.utils.data.DataLoader(torch.zeros(3, 1)))


def test_stages_share_one_file_with_the_union_of_their_columns(tmp_path):
    folder = RunFolder(tmp_path)
    train(RunLoggers().for_stage(folder, "sft"))
    grpo = CsvLog(folder.log_path, "grpo", lambda: 12.5)
    grpo.log_metrics({"reward": 0.25, "kl": 0.0}, 0)
    grpo.log_metrics({"val/NDCG@3": 0.5}, 0)
    grpo.finalize("success")
    written = rows(folder.log_path)
    assert [(row["stage"], row["step"], row["loss"]) for row in written] == [
        ("sft", "0", "32"),
        ("sft", "1", "8"),
        ("sft", "2", "2"),
        ("grpo", "0", ""),
    ]
    assert list(written[0])[:3] == ["stage", "step", "seconds"]
    last = written[-1]
    assert (last["seconds"], last["reward"], last["kl"], last["val/NDCG@3"]) == ("12.500", "0.25", "0", "0.5")


def test_a_failing_trainer_leaves_what_was_logged(tmp_path):
    folder = RunFolder(tmp_path)
    with pytest.raises(RuntimeError, match="diverged"):
        train(RunLoggers().for_stage(folder, "sft"), Halving(fail_at=2))
    assert [row["loss"] for row in rows(folder.log_path)] == ["32", "8"]


def test_the_file_is_written_every_fifty_rows_and_not_at_each(tmp_path):
    log = CsvLog(tmp_path / "log.csv", "sft", lambda: 0.0)
    for step in range(49):
        log.log_metrics({"loss": 1.0}, step)
        log.save()  # Lightning calls this after each row
    assert not log.path.exists()
    log.log_metrics({"loss": 1.0}, 49)
    assert len(rows(log.path)) == 50


def test_the_file_is_written_when_ten_seconds_have_passed(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_log, "FLUSH_SECONDS", 0.0)
    log = CsvLog(tmp_path / "log.csv", "sft", lambda: 0.0)
    log.log_metrics({"loss": 1.0}, 0)
    assert len(rows(log.path)) == 1


def test_a_resumed_stage_replaces_the_steps_that_it_repeats(tmp_path):
    for values in ({0: 5.0, 1: 4.0, 2: 9.0}, {2: 3.0, 3: 2.0}):
        log = CsvLog(tmp_path / "log.csv", "sft", lambda: 0.0)
        for step, loss in values.items():
            log.log_metrics({"loss": loss}, step)
        log.finalize("success")
    assert [(row["step"], row["loss"]) for row in rows(log.path)] == [
        ("0", "5"),
        ("1", "4"),
        ("2", "3"),
        ("3", "2"),
    ]


# Those with a service of their own, which is optional and slow to start, are in test_service_loggers.py.
@pytest.mark.parametrize("name", sorted({path.stem for path in GROUP.glob("*.yaml")} - {"mlflow", "trackio"}))
def test_every_choice_of_the_logger_group_writes_log_csv(tmp_path, monkeypatch, name):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    folder = RunFolder(tmp_path)
    root = OmegaConf.create({"run_name": None, "logger": OmegaConf.load(GROUP / f"{name}.yaml")})
    loggers = instantiate(root.logger)
    loggers.start(folder, LABELS, {})
    train(loggers.for_stage(folder, "sft"))
    train(loggers.for_stage(folder, "grpo"))
    loggers.log_results(folder)
    loggers.close()
    assert [row["stage"] for row in rows(folder.log_path)] == ["sft"] * 3 + ["grpo"] * 3
    extra = sorted(path.name for path in tmp_path.iterdir() if path.name != "log.csv")
    assert extra == {"tensorboard": ["tensorboard"], "wandb": ["wandb"]}.get(name, [])


def test_tensorboard_holds_the_logged_values(tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = RunFolder(tmp_path)
    train(instantiate(OmegaConf.load(GROUP / "tensorboard.yaml")).for_stage(folder, "sft"))
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard" / "sft"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(0, 32), (1, 8), (2, 2)]


def test_tensorboard_has_the_settings_the_final_numbers_the_curves_and_the_rollouts(tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = RunFolder(tmp_path)
    loggers = instantiate(OmegaConf.load(GROUP / "tensorboard.yaml"))
    loggers.start(folder, LABELS, {"seed": 3, "draft": {"api_key": "kept-out-of-it"}})
    folder.record_protocol({"users": 4}, {})
    loggers.log_protocol({"users": 4})
    train(loggers.for_stage(folder, "sft"))
    folder.record_stage("sft", {"HR@1": 0.5}, {}, {})
    draw_curves(folder.log_path, folder.curves_path)
    with RolloutWriter(folder.rollouts_path) as writer:
        writer.append([Rollout(1, "u7", "a|b\nc", 1.0, {"hit": 1.0}, 0.5)])
    loggers.log_results(folder)
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard" / "run"))
    events.Reload()

    def text(name):
        return events.Tensors(f"{name}/text_summary")[0].tensor_proto.string_val[0].decode()

    assert "seed: 3" in text("settings")
    assert "kept-out-of-it" not in text("settings")
    assert "users: 4" in text("protocol")
    assert "| 1 | u7 | a\\|b<br>c | 1 | 1 | 0.5 |" in text("rollouts")
    assert events.Images("curves")[0].width > 100
    assert [event.value for event in events.Scalars("test/sft/HR@1")] == [0.5]
    assert any(tag.startswith("_hparams_") for tag in events.summary_metadata)


def test_secrets_are_blanked_out_and_settings_that_sound_like_one_are_not(monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "0123456789abcdef")
    settings = {
        "draft": {
            "api_key": "k",
            "api_key_env": "OPENAI_API_KEY",
            "extra_body": {"Authorization": "Bearer k"},
        },
        "eval": {"max_new_tokens": 32},
        "prompt": {"item_tokens": "none", "template": "say 0123456789abcdef"},
        "servers": [{"password": "p"}],
        "hf_token": None,
    }
    assert without_secrets(settings) == {
        "draft": {
            "api_key": "<redacted>",
            "api_key_env": "OPENAI_API_KEY",
            "extra_body": {"Authorization": "<redacted>"},
        },
        "eval": {"max_new_tokens": 32},
        "prompt": {"item_tokens": "none", "template": "<redacted>"},
        "servers": [{"password": "<redacted>"}],
        "hf_token": None,
    }


def test_wandb_without_a_key_is_one_offline_run_a_job(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for job in ("job0", "job1"):
        folder = RunFolder(tmp_path / job)
        loggers = WandbLoggers(tags=["toy"])
        loggers.start(folder, LABELS, {})
        first = loggers.for_stage(folder, "sft")[1].experiment
        train(loggers.for_stage(folder, "grpo"))
        assert loggers.for_stage(folder, "grpo")[1].experiment is first
        assert first.offline
        assert first.summary["grpo/loss"] == 2
        loggers.close()
    assert [len(list((tmp_path / job / "wandb").glob("offline-run-*"))) for job in ("job0", "job1")] == [1, 1]


def test_wandb_is_told_that_a_run_failed(tmp_path, monkeypatch):
    codes = []
    for failed in (True, False):
        loggers = WandbLoggers(offline=True)
        loggers.start(RunFolder(tmp_path / str(failed)), LABELS, {})
        run = loggers.for_stage(RunFolder(tmp_path / str(failed)), "sft")[1].experiment
        finish = run.finish
        monkeypatch.setattr(
            run, "finish", lambda exit_code=None, end=finish: codes.append(exit_code) or end(exit_code)
        )
        loggers.close(failed)
    assert codes == [1, 0]


@pytest.mark.parametrize(
    ("given", "shown"), [({}, ("sizes", "G=8")), ({"group": "a", "name": "b"}, ("a", "b"))]
)
def test_runs_of_a_sweep_are_grouped_named_and_tagged(tmp_path, monkeypatch, given, shown):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    loggers = WandbLoggers(tags=["toy"], offline=True, **given)
    loggers.start(RunFolder(tmp_path), LABELS, {})
    run = loggers.for_stage(RunFolder(tmp_path), "sft")[1].experiment
    assert (run.group, run.name) == shown
    assert run.tags == ("toy", "method=sft")
    loggers.close()


@pytest.mark.parametrize(
    ("offline", "environment", "mode"),
    [
        (None, {}, "offline"),
        (None, {"WANDB_API_KEY": "k"}, "online"),
        (True, {"WANDB_API_KEY": "k"}, "offline"),
        (False, {}, "online"),
        (None, {"WANDB_API_KEY": "k", "WANDB_MODE": "disabled"}, "disabled"),
    ],
)
def test_wandb_goes_online_only_with_a_key_or_on_request(monkeypatch, offline, environment, mode):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert WandbLoggers(offline=offline)._mode() == mode


def test_curves_are_drawn_from_whatever_was_logged(tmp_path):
    log = CsvLog(tmp_path / "log.csv", "grpo", lambda: 0.0)
    for step in range(200):
        log.log_metrics({"reward": step / 200, "kl": 10.0 ** (step / 40 - 4)}, step)
    log.finalize("success")
    assert draw_curves(tmp_path / "log.csv", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_log_without_steps_has_no_picture(tmp_path):
    log = CsvLog(tmp_path / "log.csv", "sft", lambda: 0.0)
    log.finalize("success")
    assert not draw_curves(tmp_path / "log.csv", tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()
