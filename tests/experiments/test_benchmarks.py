from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.benchmark

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
CELL = {
    "size": "XS",
    "prompt_len": 40,
    "completion_len": 6,
    "group": 4,
    "prompts": 2,
    "repeats": 2,
    "warmup": 1,
    "candidates": 5,
    "dtype": "float32",
}


def lines(script, *arguments):
    done = run(script, *arguments)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def run(script, *arguments):
    return subprocess.run(
        [sys.executable, str(EXPERIMENTS / script), *arguments], capture_output=True, text=True
    )


@pytest.mark.slow
def test_a_step_is_measured_against_trl():
    pytest.importorskip("trl")
    (line,) = lines("bench_step.py", *(f"{key}={value}" for key, value in CELL.items()))
    assert {key: line[key] for key in CELL} == CELL
    assert line["ratio"] == pytest.approx(line["trl_s"] / line["ours_s"])
    assert line["max_grad_error"] < 1e-4
    # 4 * 4 * (40 + 6) tokens against 3 * 40 + 4 * 4 * 6.
    assert line["flop_floor_ratio"] == pytest.approx(736 / 216)
    assert 0 < line["peak_fraction"] < 1
    assert set(line["peak_memory_mb"]) == {"ours", "trl"}
    for side in ("ours", "trl"):
        assert len(line[f"{side}_all_s"]) == 2
        assert all(seconds > 0 for seconds in line["parts"][side].values())
        # Of two repeats the median is the mean, and means of parts add up.
        assert sum(line["parts"][side].values()) == pytest.approx(line[f"{side}_s"])


@pytest.mark.slow
def test_ranking_is_the_same_in_every_cell():
    found = lines("bench_rank.py", "size=XS", "prompt_len=40", "answer_len=6", "candidates=5,20", "repeats=2")
    assert [line["candidates"] for line in found] == [5, 20]
    for line in found:
        assert line["same_ranking"] is True
        assert line["largest_score_difference"] < 1e-4
        assert line["ratio"] == pytest.approx(line["ours_users_per_s"] / line["forward_users_per_s"])
        assert line["generate_users_per_s"] > 0


@pytest.mark.slow
def test_ways_of_a_step_have_the_same_gradient_and_not_the_same_memory():
    (line,) = lines("bench_memory.py", "model=XS", "prompt_len=1000", "ways=whole+streambp:64", "repeats=1")
    whole, streamed = line["found"].values()
    assert whole["of_first"] == {"peak": 1, "saved": 1, "seconds": 1}
    assert max(found["gradient_error"] for found in (whole, streamed)) < 1e-4
    # The peak of so small a step is that of the libraries that it loads.
    assert streamed["peak_mb"] > 0
    assert streamed["of_first"]["saved"] < 0.4


@pytest.mark.slow
def test_a_compiled_update_has_the_same_gradient():
    found = lines("compiled.py", "size=XS", "prompt_len=40", "completion_len=6", "group=4", "repeats=1")
    assert [line["way"] for line in found] == ["plain", "compiled_plain", "shared_prefix"]
    assert all(line["gradient_error"] < 1e-4 for line in found)
    assert found[1]["first_s"] > found[1]["median_s"]  # the first update compiles


def test_ways_without_a_meaning_are_refused():
    done = run("bench_memory.py", "train=some")
    assert done.returncode == 2
    assert "train" in done.stderr


@pytest.mark.parametrize("script", ["bench_step.py", "bench_rank.py"])
@pytest.mark.parametrize("argument", ["promptlen=40", "size=L", "repeats=few", "repeats=0", "size"])
def test_wrong_use_is_said_in_one_line(script, argument):
    done = run(script, argument)
    assert done.returncode == 2
    assert argument.partition("=")[0] in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("rollout", ["free", "constrained", "enumerate"])
@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_the_step_that_is_timed_has_the_plain_gradient(monkeypatch, rollout, beta):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    from benchmark.our_side import OurSide

    side = OurSide({**CELL, "rollout": rollout, "beta": beta}, steps=2)
    side.step(0)
    assert side.clock.parts["reference"][0] > 0 or beta == 0
    assert side.gradient_error(1) < 1e-4


def test_open_tokens_of_answers_are_counted(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    from benchmark.measuring import layer_tokens

    step = {"prompt_len": 100, "completion_len": 10, "group": 4, "candidates": 5, "beta": 0.1}
    # 3 * 100 + 3 * 5 * 2, and without the reference 2 * 100 + 2 * 5 * 2.
    assert layer_tokens({**step, "rollout": "enumerate"}, "ours", 2) == 330
    assert layer_tokens({**step, "rollout": "enumerate", "beta": 0.0}, "ours", 2) == 220
    # 3 * 100 + 2 * 5 * 2 + 4 * 2.
    assert layer_tokens({**step, "rollout": "constrained"}, "ours", 2) == 328


def test_the_reward_reads_what_a_random_policy_says(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    from benchmark.models import reward_of

    # 2654435761 is 30 mod 997, and 12 · 30 is 360 mod 997; a special token has no number.
    assert reward_of("t5 <|pad|> t7") == reward_of("t12") == 360 / 997
    assert 0 <= reward_of("<|pad|>") < 1
