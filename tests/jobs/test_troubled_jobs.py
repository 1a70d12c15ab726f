"""Jobs that go wrong on purpose: what the user reads, and the exit status."""

from __future__ import annotations

import json

from mllmrec.run.log_rows import read_log

BROKEN = """
from mllmrec.rl.regularizers import Regularizer

class Broken(Regularizer):
    def weight(self, step):
        return 1.0

    def __call__(self, inputs):
        return inputs.logprobs * (1e-3 if inputs.step == 0 else float("nan"))
"""


def test_a_loss_that_stays_no_number_ends_the_command_with_one_line_and_the_batches(
    command, import_from, overrides, tmp_path
):
    (tmp_path / "broken_part.py").write_text(BROKEN, encoding="utf-8")
    import_from(tmp_path)
    folder = tmp_path / "run"
    ended = command(
        "train",
        *(*overrides, f"hydra.run.dir={folder}"),
        *("grpo.max_steps=5", "warnings.skipped=2", "+regularizers.mine._target_=broken_part.Broken"),
        cwd=tmp_path,
    )
    assert ended.returncode == 2
    (line,) = [line for line in ended.stderr.splitlines() if "error:" in line]
    assert "phase grpo diverged: 2 updates in a row had a loss or a gradient that is not finite" in line
    assert "lower grpo.learning_rate" in line
    assert "grpo: update 1 was skipped" in (folder / "run.log").read_text(encoding="utf-8")
    skipped = {
        int(row["step"]): float(row["skipped_steps"])
        for row in read_log(folder / "log.csv")
        if "skipped_steps" in row
    }
    assert skipped == {1: 1.0}
    kept = [json.loads((folder / "skipped" / f"grpo-{update}.json").read_text("utf-8")) for update in (1, 2)]
    assert [one["loss"] for one in kept] == ["nan", "nan"]
    assert all(len(one["completions"]) == 4 * 4 and len(one["prompts"]) == 4 for one in kept)
    assert "phase grpo diverged" in json.loads((folder / "failed.json").read_text("utf-8"))["error"]
