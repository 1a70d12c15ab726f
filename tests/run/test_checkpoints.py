from __future__ import annotations

import errno
import logging

import pytest

from mllmrec.run.checkpoints import Checkpoints


def add(checkpoints: Checkpoints, step: int, content: str = "state") -> None:
    checkpoints.save(step, lambda path: path.write_text(f"{content} {step}"))


def test_the_latest_whole_checkpoint_counts(tmp_path, caplog):
    checkpoints = Checkpoints(tmp_path / "sft", keep=3, job="mine")
    assert checkpoints.latest() is None
    for step in (3, 20, 100):
        add(checkpoints, step)
    assert checkpoints.latest().step == 100
    # Cut off, another's, and without the file that says it was written to its end.
    cut = checkpoints.latest().path
    cut.write_text(cut.read_text()[:3])
    with caplog.at_level(logging.WARNING):
        assert checkpoints.latest().step == 20
    assert str(cut) in caplog.text
    assert "content is not as it was written" in caplog.text
    assert Checkpoints(tmp_path / "sft", job="another").latest() is None
    seal = tmp_path / "sft" / "step-000000020.json"
    seal.write_text(seal.read_text().replace("20", "21"))
    assert checkpoints.latest().step == 3
    (tmp_path / "sft" / "step-000000003.json").unlink()
    with caplog.at_level(logging.WARNING):
        assert checkpoints.latest() is None
    assert "was not written to its end" in caplog.text


def test_only_the_latest_few_stay(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in range(1, 6):
        add(checkpoints, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"step-00000000{step}.{kind}" for step in (4, 5) for kind in ("ckpt", "json")
    ]
    checkpoints.clear()
    assert checkpoints.latest() is None


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    add(checkpoints, 1)

    def full(path):
        path.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(2, full)
    assert checkpoints.latest().step == 1
    assert len(list(tmp_path.iterdir())) == 2
