"""The table of `experiments/variants_table.py` from a file of results, with figures that can be checked in the head."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "experiments" / "variants_table.py"


def table(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True)


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    from variants_table import Job, write_results

    first, second, last = (np.array(ranks, dtype=np.uint16) for ranks in ([1, 1], [4, 1], [0, 9]))
    jobs = [
        Job("grpo", 0, "likelihood, SFT", 100, 10.0, {"last": second, "kept": second, "sft": second}),
        Job("grpo", 1, "likelihood, SFT", 100, 10.0, {"last": last, "kept": second, "sft": last}),
        Job("better", 0, "likelihood, SFT", 300, 20.0, {"last": first, "kept": first, "sft": second}),
        Job("better", 1, "likelihood, SFT", 100, 40.0, {"last": second, "kept": second, "sft": last}),
        Job("alone", 7, "likelihood, SFT", 100, 10.0, {"last": first, "kept": first}),
    ]
    write_results(tmp_path / "results.parquet", jobs, ["ann", "bob"])
    return tmp_path / "results.parquet"


def test_systems_stand_beside_plain_grpo_seed_by_seed(results: Path) -> None:
    done = table(f"results={results}", f"picture={results.with_suffix('.png')}")
    assert done.returncode == 0, done.stderr
    lines = {line.split(" | ")[0]: line for line in done.stdout.splitlines()}
    # NDCG@3 is 1 for a target at place 1 and 0 beyond place 3: better has (1 + 0.5) / 2, plain GRPO (0.5 + 0) / 2.
    assert "| better | 0.750 | +0.500" in lines["| better"]
    assert "| +0.500, +0.500 |" in lines["| better"]
    assert lines["| better"].endswith("| 200 | 3.0 |")
    assert "| grpo | 0.250 | +0.000 [+0.000, +0.000]" in lines["| grpo"]
    assert "| alone" not in lines, "plain GRPO has no seed 7"
    assert results.with_suffix(".png").stat().st_size > 0
    kept = table(f"results={results}", "weights=kept", "seeds=1").stdout
    assert "| better | 0.500 | +0.000 [+0.000, +0.000]" in kept


def test_two_jobs_of_one_system_and_seed_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import variants_table

    runs = [SimpleNamespace(path=tmp_path / name) for name in ("all-steps", "79-steps")]
    found = SimpleNamespace(runs=runs, unfinished=[])
    monkeypatch.setattr(variants_table, "find_jobs", lambda folder: found)
    job = variants_table.Job("rere", 0, "likelihood, SFT", 0, 1.0, {})
    monkeypatch.setattr(variants_table, "read_job", lambda run, users: job)
    with pytest.raises(
        variants_table.WrongUse, match=r"all-steps and .*79-steps are both variant=rere seed=0"
    ):
        variants_table.gathered(variants_table.Settings(sweep=str(tmp_path)))


def test_a_table_without_plain_grpo_is_refused(results: Path, tmp_path: Path) -> None:
    done = table(f"results={results}", "seeds=5")
    assert done.returncode == 2
    assert "no finished job of variant=grpo" in done.stderr
    assert table(f"sweep={tmp_path / 'nothing'}").returncode == 2
