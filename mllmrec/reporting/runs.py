"""The jobs below a folder: finished runs to compare, and those that failed or never ended."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from mllmrec.errors import UserError
from mllmrec.evaluation.metrics import cutoffs_of, per_user_metrics
from mllmrec.evaluation.records import StageRecords, read_stage
from mllmrec.reasoners.told import NOTHING, UNKNOWN, most_told
from mllmrec.run.folder import RunFolder
from mllmrec.run.settings import read_settings

KEPT = "kept"  # the weights that a phase ended with


# Classes that read texts made elsewhere.
_FROM_FILES = ("PrecomputedCot", "PrecomputedReasoner")


@dataclass(frozen=True)
class Run:
    """One finished run."""

    path: Path
    metrics: dict[str, Any]  # the content of metrics.json, with every section
    config: dict[str, Any]  # resolved
    group_choices: dict[str, str]  # config group -> chosen file
    typed: tuple[str, ...]  # keys and groups overridden on the command line
    number: int = 0  # position among the jobs of its multirun, in the experiment's order

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.config["seed"])

    @property
    def protocol(self) -> dict[str, Any]:
        """How the run was evaluated."""
        return self.metrics["protocol"]

    @property
    def stages(self) -> list[str]:
        """Evaluated phases, in order."""
        return list(self.metrics["stages"])

    @cached_property
    def leak(self) -> str:
        """What the writers of its reasoning knew beside the history: none, unknown or target; none without reasoning."""
        shown = self.config.get("mix_ratio", 0) > 0 or (self.config.get("eval") or {}).get("cot") is True
        if not shown:
            return NOTHING
        if "leak" in self.protocol:
            return str(self.protocol["leak"])
        # Old protocols do not say it, so the configuration must tell.
        policy = self.config.get("cot_policy") or {}
        parts = [policy, self.config.get("draft"), self.config.get("refine")]
        if policy.get("stage") == "draft":
            parts.pop()
        from_file = any(str((part or {}).get("_target_")).rpartition(".")[2] in _FROM_FILES for part in parts)
        return most_told([str(policy.get("leak", NOTHING)), UNKNOWN if from_file else NOTHING])

    @property
    def among_other_negatives(self) -> Run | None:
        """The same run, ranked among the other kind of negatives; None if it was ranked among only one kind."""
        folder = RunFolder(self.path).beside_path
        if not (folder / "metrics.json").is_file():
            return None
        return replace(self, path=folder, metrics=RunFolder(folder).metrics())

    def records(self, stage: str, weights: str = KEPT) -> StageRecords:
        """The results of ``stage`` for each user.

        Args:
            stage: an evaluated phase.
            weights: which of its weights: kept, best (on the held-out users) or last; a phase without a choice has one set.

        Raises:
            UserError: the numbers of metrics.json do not match the users' ranks.
        """
        path = self.path / "per_user.parquet"
        compared = self.metrics["weights"].get(stage, {})
        apart = weights not in (KEPT, compared.get("kept")) and "difference" in compared
        records = read_stage(path, f"{stage}_{weights}" if apart else stage)
        means = compared[weights]["metrics"] if apart else self.metrics["stages"][stage]
        for name, values in per_user_metrics(records.ranks, self.cutoffs(stage)).items():
            written = means.get(name)
            if written is not None and abs(values.mean() - written) > 1e-5:
                raise UserError(
                    f"{path}: {name} of phase {stage} is {values.mean():.6f}, but metrics.json beside it says "
                    f"{written:.6f}: the two files are from different runs; remove the folder or run it again"
                )
        return records

    def cutoffs(self, stage: str) -> list[int]:
        """The cut-offs K of the phase's metrics."""
        return cutoffs_of(self.metrics["stages"][stage])

    def seconds(self) -> float | None:
        """Seconds of all phases together; None if they were not measured, or measured in another run."""
        if RunFolder(self.path).evaluated_config_path.is_file():
            return None
        seconds = [cost["seconds"] for cost in self.metrics["cost"].values() if "seconds" in cost]
        return float(np.sum(seconds)) if seconds else None


@dataclass(frozen=True)
class Unfinished:
    """A job without results."""

    path: Path
    error: str | None  # first line of its error; None for a job that is running or was killed


@dataclass(frozen=True)
class Jobs:
    """The jobs below one folder, ordered by path; jobs of a multirun are in the order of its axes."""

    folder: Path
    runs: list[Run]
    unfinished: list[Unfinished]


def find_jobs(folder: str | Path) -> Jobs:
    """Every job of mllmrec.train in ``folder`` or below it; everything inside a job's folder belongs to that job.

    Raises:
        UserError: the folder does not exist, or holds no finished run.
    """
    root = Path(folder)
    if not str(folder) or not root.is_dir():
        raise UserError(f"runs={folder}: no such folder; give the folder of a run, or one above several")
    runs: list[Run] = []
    unfinished: list[Unfinished] = []
    for current, inner, files in os.walk(root):
        inner.sort(key=_natural)
        path = Path(current)
        evaluated = "metrics.json" in files and "per_user.parquet" in files
        if not evaluated and "failed.json" not in files and not _is_training(path):
            continue
        if "failed.json" in files:
            unfinished.append(Unfinished(path, RunFolder(path).failure()))
        elif not evaluated or (_is_training(path) and "finished.json" not in files):
            unfinished.append(Unfinished(path, None))
        else:
            runs.append(read_run(path))
        inner.clear()
    if not runs:
        state = f"; jobs there that failed or have not ended: {len(unfinished)}" if unfinished else ""
        raise UserError(
            f"runs={folder}: no finished run in it or below it{state}; give the hydra.run.dir of mllmrec.train, or "
            "the folder of a multirun"
        )
    multiruns = list(dict.fromkeys(run.path.parent for run in runs))
    runs.sort(key=lambda run: (multiruns.index(run.path.parent), run.number))
    return Jobs(root, runs, unfinished)


def _natural(name: str) -> list[tuple[int, str]]:
    """A sort key that puts 2 before 10, as multirun numbers its jobs."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _is_training(path: Path) -> bool:
    """Whether Hydra started mllmrec.train here; other commands have their own folders."""
    described = path / ".hydra" / "hydra.yaml"
    if not described.is_file():
        return (path / ".hydra").is_dir()
    return OmegaConf.select(read_settings(described), "hydra.job.config_name") in (None, "train")


def read_run(path: Path) -> Run:
    """The run in a folder of mllmrec.train or mllmrec.evaluate.

    Raises:
        UserError: its settings or its numbers are missing or damaged.
    """
    folder = RunFolder(path)
    metrics = folder.metrics()
    described_by = [
        found for found in (folder.resolved_config_path, folder.evaluated_config_path) if found.is_file()
    ]
    if not described_by:
        raise UserError(
            f"{path} has no .hydra/{folder.resolved_config_path.name}, so the run's settings are unknown: give folders "
            "of mllmrec.train or mllmrec.evaluate"
        )
    if not metrics["stages"] or not metrics["protocol"]:
        raise UserError(
            f"{folder.metrics_path} holds no phase or no protocol: remove the folder, or run it again"
        )
    config: Any = OmegaConf.to_container(read_settings(described_by[0]))
    config.setdefault("seed", metrics["protocol"].get("seed", 0))
    hydra_folder = folder.resolved_config_path.parent
    described: Any = OmegaConf.create()
    if (hydra_folder / "hydra.yaml").is_file():
        described = read_settings(hydra_folder / "hydra.yaml")
    # Outside a multirun the number is missing.
    number = OmegaConf.select(described, "hydra.job.num", throw_on_missing=False) or 0
    return Run(path, metrics, config, _choices(described), _typed(hydra_folder), number)


def _choices(described: Any) -> dict[str, str]:
    chosen: Any = OmegaConf.select(described, "hydra.runtime.choices") or {}
    ours = {str(group).split("@")[0]: name for group, name in chosen.items()}
    return {group: "null" if name is None else str(name) for group, name in ours.items() if "/" not in group}


def _typed(hydra_folder: Path) -> tuple[str, ...]:
    path = hydra_folder / "overrides.yaml"
    if not path.is_file():
        return ()
    texts: Any = OmegaConf.to_container(read_settings(path))
    keys = [str(text).split("=", 1)[0].lstrip("+~").split("@")[0] for text in texts or []]
    return tuple(dict.fromkeys(key for key in keys if key.split(".")[0] != "hydra"))
