from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mllmrec.run.folder import RunFolder
from mllmrec.run.log_rows import read_log, write_log
from mllmrec.store.trained_once import alone, hand_over, is_whole, keeping, place_of

PARTS = {"seed": 0, "learning rate": 0.1, "ks": (1, 3)}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.record_cost("sft", {"seconds": 2.0})
    folder.log_path.write_text("stage,step,seconds,loss\nsft,0,0.1,3.5\n")
    return folder


@pytest.fixture
def place(tmp_path: Path, run: RunFolder) -> Path:
    kept = place_of(tmp_path / "kept", PARTS)
    with keeping(kept, PARTS, run, ["sft"]) as folder:
        save_file({"weight": torch.arange(64.0)}, folder / "weights.safetensors")
        (folder / "steps.json").write_text("{}")
    return kept


def test_what_was_kept_is_whole_and_names_what_made_it(place):
    assert is_whole(place, PARTS, "sft")
    assert is_whole(place, json.loads(json.dumps(PARTS)), "sft")
    made_from = json.loads((place / "made_from.json").read_text())
    assert made_from["parts"] == {"seed": 0, "learning rate": 0.1, "ks": [1, 3]}
    assert set(made_from["files"]) == {"cost.json", "log.csv", "steps.json", "weights.safetensors"}


def test_what_is_not_there_is_not_whole_and_nothing_is_said(tmp_path, caplog):
    assert not is_whole(tmp_path / "nowhere", PARTS, "sft")
    assert caplog.text == ""


def test_a_run_gets_log_and_cost_of_what_it_takes(place, tmp_path):
    other = RunFolder(tmp_path / "other")
    hand_over(place, other)
    assert other.metrics()["cost"] == {"sft": {"seconds": 2.0}}
    assert other.log_path.read_text() == "stage,step,seconds,loss\nsft,0,0.1,3.5\n"


def test_a_run_keeps_its_own_log_and_cost_of_earlier_phases(tmp_path, run):
    write_log(
        run.log_path, [{"stage": "grpo", "step": 0, "seconds": 9.0, "loss": 1.0}, *read_log(run.log_path)]
    )
    run.record_cost("grpo", {"seconds": 9.0})
    kept = place_of(tmp_path / "both", PARTS)
    with keeping(kept, PARTS, run, ["grpo", "sft"]):
        pass
    other = RunFolder(tmp_path / "other")
    write_log(other.log_path, [{"stage": "grpo", "step": 0, "seconds": 5.0, "loss": 1.0}])
    other.record_cost("grpo", {"seconds": 5.0})
    hand_over(kept, other)
    assert [(row["stage"], float(row["seconds"])) for row in read_log(other.log_path)] == [
        ("grpo", 5.0),
        ("sft", 0.1),
    ]
    assert other.metrics()["cost"] == {"grpo": {"seconds": 5.0}, "sft": {"seconds": 2.0}}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full as on Linux")
def test_a_full_disk_keeps_nothing_and_takes_nothing_from_the_run(tmp_path, run, caplog):
    with keeping(tmp_path / "kept" / "a", PARTS, run, ["sft"]) as folder:
        (folder / "steps.json").symlink_to("/dev/full")
        (folder / "steps.json").write_text("{}")
    assert f"sft: not kept for other jobs: {tmp_path / 'kept' / 'a'}: the disk is full" in caplog.text
    assert list((tmp_path / "kept").iterdir()) == []
    assert run.metrics()["cost"] == {"sft": {"seconds": 2.0}}


def cut_short(place: Path) -> None:
    path = place / "weights.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def other_shapes(place: Path) -> None:
    path = place / "weights.safetensors"
    weights = {name: torch.cat([weight, weight]) for name, weight in load_file(path).items()}
    path.unlink()
    save_file(weights, path)


def one_bit(place: Path) -> None:
    content = bytearray((place / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (place / "weights.safetensors").write_bytes(content)


def no_folder(place: Path) -> None:
    for path in place.iterdir():
        path.unlink()
    place.rmdir()
    place.write_text("a file")


def made_from_else(place: Path) -> None:
    path = place / "made_from.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut short": (cut_short, "weights.safetensors is not as it was written"),
    "of other shapes": (other_shapes, "weights.safetensors is not as it was written"),
    "a flipped bit": (one_bit, "weights.safetensors is not as it was written"),
    "gone": (lambda place: (place / "weights.safetensors").unlink(), "weights.safetensors is missing"),
    "no JSON": (lambda place: (place / "cost.json").write_text("{"), "cost.json is not as it was written"),
    "log gone": (lambda place: (place / "log.csv").unlink(), "log.csv is missing"),
    "one more": (lambda place: (place / "more.json").write_text("{}"), "more.json is not as it was written"),
    "list no JSON": (lambda place: (place / "made_from.json").write_text("{"), "made_from.json: "),
    "list of another kind": (lambda place: (place / "made_from.json").write_text("[1]"), "made_from.json: "),
    "list gone": (lambda place: (place / "made_from.json").unlink(), "made_from.json: "),
    "made from something else": (made_from_else, "made from something else"),
    "a file in its place": (no_folder, "made_from.json: "),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_named_in_one_line_and_made_again(place, run, caplog, damage):
    damaging, words = DAMAGES[damage]
    damaging(place)
    with caplog.at_level(logging.WARNING):
        assert not is_whole(place, PARTS, "sft")
    (record,) = caplog.records
    said = record.getMessage()
    assert said.startswith(f"sft: what an earlier job kept in {place} is damaged ({words}")
    assert said.endswith("); it is trained again")
    assert "\n" not in said
    assert not place.exists()
    with keeping(place, PARTS, run, ["sft"]) as folder:
        save_file({"weight": torch.arange(64.0)}, folder / "weights.safetensors")
    assert is_whole(place, PARTS, "sft")


def keep_half(place: Path, run: RunFolder) -> None:
    with keeping(place, PARTS, run, ["sft"]) as folder:
        (folder / "weights").write_text("half")
        raise RuntimeError("full")


def test_what_fails_while_it_is_kept_leaves_nothing(tmp_path, run):
    place = place_of(tmp_path / "kept", PARTS)
    with pytest.raises(RuntimeError, match="full"):
        keep_half(place, run)
    assert list(place.parent.iterdir()) == []


def test_one_job_at_a_time_trains_the_same_weights(tmp_path):
    from filelock import FileLock, Timeout

    place = tmp_path / "kept" / "place"
    with alone(place, "sft"), pytest.raises(Timeout):
        FileLock(f"{place}.lock").acquire(timeout=0)
    with FileLock(f"{place}.lock").acquire(timeout=0):
        pass
