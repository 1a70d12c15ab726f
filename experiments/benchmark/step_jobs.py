"""The jobs of the step benchmark, each in a process of its own: ``python -m benchmark.step_jobs JOB SETTINGS``."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from statistics import median
from typing import Any

import torch

from benchmark.measuring import (
    PARTS,
    StepClock,
    added_memory,
    device,
    layer_tokens,
    matmul_peak,
    run_job,
    step_flops,
    versions,
)
from benchmark.our_side import OurSide


def time_steps(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Run both sides alternately, a step of TRL and one of ours, after a warm-up of each."""
    from benchmark.trl_side import TrlSide, trl_settings

    steps = settings["warmup"] + settings["repeats"]
    ours = OurSide(settings, steps + 1)
    with tempfile.TemporaryDirectory() as folder:
        trl = TrlSide(settings, steps, folder, between=ours.step)
        trl.take_adapters(ours.policy.model)
        trl.train()
    peak = matmul_peak(settings["dtype"])
    decided = ours.decided_tokens()
    ours_s, trl_s = _median(settings, ours.clock.seconds), _median(settings, trl.clock.seconds)
    return {
        "ours_s": ours_s,
        "trl_s": trl_s,
        "ratio": trl_s / ours_s,
        "parts": {"ours": _parts(settings, ours.clock), "trl": _parts(settings, trl.clock)},
        "flop_floor_ratio": layer_tokens(settings, "trl", decided) / layer_tokens(settings, "ours", decided),
        "peak_fraction": step_flops(settings, decided) / ours_s / peak,
        "max_grad_error": ours.gradient_error(steps),
        "matmul_peak_gflops": peak / 1e9,
        "ours_all_s": ours.clock.seconds[settings["warmup"] :],
        "trl_all_s": trl.clock.seconds[settings["warmup"] :],
        "trl": trl_settings(settings, tuned=True),
        "device": torch.cuda.get_device_name() if device().type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "versions": versions("trl"),
    }


def time_stock(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Time TRL alone, with its own defaults."""
    from benchmark.trl_side import TrlSide, trl_settings

    with tempfile.TemporaryDirectory() as folder:
        trl = TrlSide(settings, settings["warmup"] + settings["repeats"], folder, tuned=False)
        trl.train()
    return {
        "trl_stock_s": _median(settings, trl.clock.seconds),
        "trl_stock": trl_settings(settings, tuned=False),
    }


def memory_of_ours(settings: Mapping[str, Any]) -> dict[str, float]:
    """MiB of our first step; see `added_memory`."""
    ours = OurSide(settings, 1)
    return {"ours": added_memory(lambda: ours.step(0))}


def memory_of_trl(settings: Mapping[str, Any]) -> dict[str, float]:
    """MiB of TRL's first step; see `added_memory`."""
    from benchmark.trl_side import TrlSide

    with tempfile.TemporaryDirectory() as folder:
        trl = TrlSide(settings, 1, folder)
        return {"trl": added_memory(trl.train)}


def _median(settings: Mapping[str, Any], seconds: list[float]) -> float:
    return median(seconds[settings["warmup"] :])


def _parts(settings: Mapping[str, Any], clock: StepClock) -> dict[str, float]:
    return {part: _median(settings, clock.parts[part]) for part in PARTS}


if __name__ == "__main__":
    run_job(time_steps, time_stock, memory_of_ours, memory_of_trl)
