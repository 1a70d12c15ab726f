from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.benchmark

SCRIPT = Path(__file__).parents[2] / "experiments" / "bench_batching.py"


def run(*arguments):
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True)


@pytest.mark.slow
def test_batches_write_what_single_requests_do():
    # Five items in batches of two leave one over.
    sizes = ["size=XS", "items=5", "batch=2", "prompt_len=20", "image_side=64", "answer_len=6", "repeats=2"]
    done = run("what=hf,vlm", *sizes)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["what"] for line in found] == ["hf", "vlm"]
    for line in found:
        assert (line["same_texts"], line["texts_that_differ"], line["distinct_texts"]) == (True, 0, 5)
        assert line["ratio"] == pytest.approx(line["single_s"] / line["batched_s"])
        assert line["cpu_ratio"] > 0
        assert {side: len(seconds) for side, seconds in line["all_s"].items()} == {"single": 2, "batched": 2}


@pytest.mark.parametrize("argument", ["what=tgi", "batch=1", "size=L", "prompts=3"])
def test_wrong_use_is_said_in_one_line(argument):
    done = run(argument)
    assert done.returncode == 2
    assert argument.partition("=")[0] in done.stderr
    assert len(done.stderr.splitlines()) == 1
