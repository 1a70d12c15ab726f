"""Run folders with ranks that a test chooses, written by the code that writes real runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from mllmrec.evaluation.metrics import expected_at_random, mean_metrics, per_user_metrics
from mllmrec.evaluation.records import StageRecords, write_stage
from mllmrec.reporting.experiment import Experiment, Question, build_experiments
from mllmrec.run.folder import RunFolder

KS = [1, 3, 5, 10]


@pytest.fixture
def write_run() -> Callable[..., Path]:
    """``write_run(folder, ranks, ...)``: a finished run; ``ranks`` of users u0, u1 … or a dict stage -> ranks."""

    def write(
        folder: Path,
        ranks: Sequence[float] | dict[str, Sequence[float]],
        *,
        seed: int = 0,
        method: str = "sft",
        users: Sequence[str] | None = None,
        settings: dict[str, Any] | None = None,
        chosen: dict[str, str] | None = None,
        typed: Sequence[str] = (),
        protocol: dict[str, Any] | None = None,
        log: str | None = None,
        seconds: float = 10.0,
        cost: dict[str, float] | None = None,
        finished: bool = True,
        slices: Sequence[Sequence[str]] | None = None,
    ) -> Path:
        stages = ranks if isinstance(ranks, dict) else {"sft": ranks}
        run = RunFolder(folder)
        count = len(next(iter(stages.values())))
        run.record_protocol(
            {
                "dataset": "toy",
                "split": "test",
                "users": count,
                "ranking": "likelihood",
                "num_candidates": 10,
                "negatives": "uniform",
                "candidates_hash": "aaaa",
                "cot": False,
                "seed": 0,
                **(protocol or {}),
            },
            expected_at_random(10, KS),
        )
        for stage, values in stages.items():
            array = np.asarray(values, dtype=float)
            ids = list(users) if users is not None else [f"u{user}" for user in range(count)]
            with write_stage(run.per_user_path, stage) as writer:
                writer.append(
                    StageRecords(
                        ids,
                        [f"target of {user}" for user in ids],
                        array,
                        [[]] * count,
                        np.full(count, 10),
                        slices=slices,
                    )
                )
            run.record_stage(stage, mean_metrics(per_user_metrics(array, KS)), {}, {})
            if slices is not None:
                run.record_slices(stage, {key: {} for key in ("cold", "head", "short", "long")})
            run.record_cost(stage, {"seconds": seconds, **(cost or {})})
        config = OmegaConf.create(
            {
                "seed": seed,
                "mix_ratio": 0.1,
                "method": {"name": method, "stages": list(stages)},
                "run_name": folder.name,
            }
        )
        for key, value in (settings or {}).items():
            OmegaConf.update(config, key, value)
        run.resolved_config_path.parent.mkdir(exist_ok=True)
        OmegaConf.save(config, run.resolved_config_path)
        choices = {"method": method, "hydra/help": "train", **(chosen or {})}
        OmegaConf.save(
            {"hydra": {"job": {"config_name": "train"}, "runtime": {"choices": choices}}},
            run.resolved_config_path.with_name("hydra.yaml"),
        )
        OmegaConf.save(
            [*typed, f"seed={seed}", "hydra.run.dir=x"], run.resolved_config_path.with_name("overrides.yaml")
        )
        if log is not None:
            run.log_path.write_text(log, encoding="utf-8")
        if finished:
            run.finish("config", 0.0)
        return folder

    return write


@pytest.fixture
def experiment() -> Callable[..., Experiment]:
    """``experiment(folder, **settings)`` with few resamples."""

    def build(folder: Path, **settings: Any) -> Experiment:
        name = settings.pop("name", "toy")
        main, *_ = build_experiments(folder, name, Question(**{"resamples": 100, **settings}))
        return main

    return build
