"""A run folder that is damaged or comes from someone else is refused in one line, and no code in it runs."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from mllmrec import load_run
from mllmrec.errors import UserError
from mllmrec.jobs.finished_run import open_run
from mllmrec.reporting.experiment import Question, build_experiments
from mllmrec.run.rollouts import read_rollouts


@pytest.fixture
def copied(job, tmp_path_factory, tmp_path) -> Path:
    """A finished run that a test may damage."""
    whole = tmp_path_factory.getbasetemp() / "finished_run"
    if not whole.is_dir():
        job(whole)
    return Path(shutil.copytree(whole, tmp_path / "run"))


def edit(path: Path, before: str, after: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after), encoding="utf-8")


def test_weights_that_are_cut_or_gone(copied) -> None:
    weights = max(copied.rglob("*.safetensors"), key=lambda path: "model" in path.parts)
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(UserError, match=r"cannot be loaded|is damaged"):
        open_run(str(copied), None)
    for folder in ("model", "adapters", "checkpoints"):
        shutil.rmtree(copied / folder, ignore_errors=True)
    with pytest.raises(UserError, match="it has no weights"):
        open_run(str(copied), None)


def test_settings_that_name_python_objects_or_commands_run_nothing(copied, tmp_path) -> None:
    settings = copied / ".hydra" / "resolved.yaml"
    whole, owned = settings.read_text(encoding="utf-8"), tmp_path / "owned"
    settings.write_text(f'{whole}? !!python/object/apply:os.mkdir ["{owned}"]\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"resolved\.yaml cannot be read"):
        open_run(str(copied), None)
    settings.write_text(whole, encoding="utf-8")
    edit(
        settings,
        "  _target_: mllmrec.engine.shared_prefix.SharedPrefix",
        f"  _target_: os.mkdir\n  path: {owned}",
    )
    with pytest.raises(
        UserError, match=r"resolved\.yaml: engine\._target_=os\.mkdir: .* name code outside of mllmrec"
    ):
        open_run(str(copied), None)
    assert not owned.exists()


def test_a_pickle_inside_of_a_part_is_not_opened(copied, tmp_path) -> None:
    class Making:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    (tmp_path / "harmless.csv").write_bytes(pickle.dumps(Making()))
    settings = OmegaConf.load(copied / ".hydra" / "resolved.yaml")
    lora = {"_target_": "pandas.read_pickle", "filepath_or_buffer": str(tmp_path / "harmless.csv")}
    settings.backbone = {"_target_": "mllmrec.models.backbones.Pretrained", "path": "x", "lora": lora}
    OmegaConf.save(settings, copied / ".hydra" / "resolved.yaml")
    with pytest.raises(
        UserError, match=r"backbone\.lora\._target_=pandas\.read_pickle: .*add trust=\[pandas\]"
    ):
        open_run(str(copied), None)
    assert not (tmp_path / "owned").exists()


def test_parts_of_ones_own_are_opened_once_they_are_trusted(
    copied, tmp_path, import_from, monkeypatch
) -> None:
    import_from(tmp_path)
    (tmp_path / "ourlab.py").write_text(
        "from mllmrec.engine.shared_prefix import SharedPrefix\nclass Ours(SharedPrefix):\n    pass\n"
    )
    edit(copied / ".hydra" / "resolved.yaml", "mllmrec.engine.shared_prefix.SharedPrefix", "ourlab.Ours")
    with pytest.raises(
        UserError, match=r"engine\._target_=ourlab\.Ours: .*trust=\[ourlab\].*MLLMREC_TRUST=ourlab"
    ):
        load_run(copied).recommender()
    assert "ourlab" not in sys.modules
    assert type(load_run(copied, trust="ourlab").recommender().run.engine).__name__ == "Ours"
    monkeypatch.setenv("MLLMREC_TRUST", "otherlab, ourlab")
    assert type(open_run(str(copied), None).engine).__name__ == "Ours"


def test_settings_that_lack_a_section(copied) -> None:
    edit(copied / ".hydra" / "resolved.yaml", "prompt:\n", "promptt:\n")
    with pytest.raises(
        UserError, match=r"resolved\.yaml holds settings that this version cannot use: .*prompt"
    ):
        open_run(str(copied), None)


@pytest.mark.parametrize("content", ["[]", json.dumps({"stages": []}), "[" * 100_000])
def test_files_that_are_no_metrics_json_are_refused(copied, content: str) -> None:
    (copied / "metrics.json").write_text(content)
    with pytest.raises(UserError, match=r"metrics.json (is not JSON|does not hold the numbers of a run)"):
        build_experiments(copied, "run", Question())


def test_files_that_are_no_parquet_are_refused(copied) -> None:
    for name in ("per_user.parquet", "rollouts.parquet"):
        (copied / name).write_text("hello")
    with pytest.raises(UserError, match=r"per_user.parquet is damaged \("):
        build_experiments(copied, "run", Question())
    with pytest.raises(UserError, match=r"rollouts.parquet is damaged \("):
        read_rollouts(copied / "rollouts.parquet")


OPENED = {
    "evaluate": lambda run: open_run(str(run), None),
    "export": lambda run: open_run(str(run), None, trust=()),
    "explore": lambda run: read_rollouts(run / "rollouts.parquet"),
    "report": lambda run: build_experiments(run, "run", Question()),
}


@pytest.mark.parametrize(
    ("opened", "place"),
    [
        ("evaluate", "model/model.safetensors"),
        ("evaluate", "model/tokenizer.json"),
        ("evaluate", "model/config.json"),
        ("export", "model/pytorch_model.bin"),
        ("explore", "rollouts.parquet"),
        ("report", "per_user.parquet"),
        ("report", "metrics.json"),
    ],
)
def test_a_pickle_in_place_of_a_file_is_refused_and_does_not_run(
    copied, payload, tmp_path, opened, place
) -> None:
    owned = tmp_path / "owned"
    assert torch.load(io.BytesIO(payload(tmp_path / "shown")), weights_only=False)
    assert (tmp_path / "shown").is_dir()  # it would run
    (copied / place).write_bytes(payload(owned))
    if place.endswith(".bin"):
        (copied / "model" / "model.safetensors").unlink()
    with pytest.raises(UserError) as refused:
        OPENED[opened](copied)
    assert "\n" not in str(refused.value)
    assert not owned.exists()
