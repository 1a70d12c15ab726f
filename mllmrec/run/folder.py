"""The run folder of one job: the paths of its files, and the writer of `metrics.json`."""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from mllmrec.cache import remove_abandoned, write_json
from mllmrec.config.secret_values import redacted
from mllmrec.errors import UserError
from mllmrec.run.input_files import InputFiles, Record

log = logging.getLogger(__name__)
SECTIONS = (
    "protocol",
    "chance",
    "reasoning",
    "baselines",
    "stages",
    "intervals",
    "slices",
    "validity",
    "differences",
    "weights",
    "faithfulness",
    "cost",
)


def _plain(value: Any) -> Any:
    """``value`` as JSON values, with floats rounded to 6 decimals; refuses NaN and infinity."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} is not a number to report")
        return round(value, 6)
    return value


class RunFolder:
    """Paths of one run, and `metrics.json`, which grows as numbers are computed.

    Args:
        path: the folder; created if missing. Nothing in it changes until something is written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        self.metrics_path = self.path / "metrics.json"
        self.finished_path = self.path / "finished.json"
        self.failed_path = self.path / "failed.json"
        self.per_user_path = self.path / "per_user.parquet"
        self.log_path = self.path / "log.csv"
        self.rollouts_path = self.path / "rollouts.parquet"
        self.prompts_path = self.path / "prompts.md"
        self.data_path = self.path / "data.json"
        self.environment_path = self.path / "environment.json"
        self.curves_path = self.path / "curves.png"
        self.run_log_path = self.path / "run.log"
        self.hydra_path = self.path / ".hydra"
        self.resolved_config_path = self.hydra_path / "resolved.yaml"
        # Settings of a finished run that was ranked again in this folder, with that ranking's protocol and phase.
        self.evaluated_config_path = self.hydra_path / "evaluated.yaml"
        self.model_path = self.path / "model"
        self.adapters_path = self.path / "adapters"
        self.checkpoints_path = self.path / "checkpoints"
        self.skipped_path = self.path / "skipped"  # batches of updates that were not finite
        self.experience_path = self.path / "experience"  # a file for each phase that learnt some
        self.served_path = (
            self.path / "served_adapters"
        )  # what an inference server draws with while a phase trains
        self.resume_path = self.path / "resume"  # what another attempt at an unfinished job goes on from
        # Rankings of the same users among other negatives, as a folder of the same form.
        self.beside_path = self.path / "other_negatives"
        self._started = time.monotonic()

    @classmethod
    def of_finished_run(cls, path: str | Path) -> RunFolder:
        """The folder of an earlier run.

        Raises:
            UserError: the folder does not exist, or holds no metrics.
        """
        if not (Path(path) / "metrics.json").is_file():
            raise UserError(
                f"{path} is no finished run (no metrics.json in it): give the hydra.run.dir of a run as run=DIR"
            )
        return cls(path)

    def seconds(self) -> float:
        """Seconds since this object was made, that is, since the start of the job."""
        return time.monotonic() - self._started

    @property
    def is_finished(self) -> bool:
        """Whether a job finished in this folder."""
        return self.finished_path.is_file()

    def start_afresh(self) -> None:
        """Remove the files of an earlier run, so that nobody takes them for this run's."""
        remove_abandoned(self.path)
        for path in (
            self.finished_path,
            self.failed_path,
            self.metrics_path,
            self.per_user_path,
            self.log_path,
            self.rollouts_path,
            self.prompts_path,
            self.data_path,
            self.environment_path,
            self.curves_path,
            self.resolved_config_path,
            self.evaluated_config_path,
        ):
            path.unlink(missing_ok=True)
        for trained in (
            self.model_path,
            self.adapters_path,
            self.checkpoints_path,
            self.skipped_path,
            self.experience_path,
            self.beside_path,
            self.served_path,
            self.resume_path,
        ):
            shutil.rmtree(trained, ignore_errors=True)

    def go_on(self) -> None:
        """Prepare for another attempt at the job that an earlier attempt left unfinished."""
        remove_abandoned(self.path)
        self.failed_path.unlink(missing_ok=True)
        shutil.rmtree(self.served_path, ignore_errors=True)

    def forget_attempts(self) -> None:
        """Remove what only another attempt would need, once the job has finished."""
        for path in (self.resume_path, self.served_path):
            shutil.rmtree(path, ignore_errors=True)

    def finish(self, config: str, objective: float, files: Record | None = None) -> None:
        """Record that the job finished.

        Args:
            config: fingerprint of its configuration.
            objective: its return value.
            files: record of the files that its settings name; None if nobody will need it.
        """
        known = {} if files is None else {"files": files}
        write_json(self.finished_path, {"config": config, "objective": objective, **known})

    def fail(self, error: BaseException) -> None:
        """Record why the job did not finish, unless the folder still holds the results of an earlier finished job."""
        if self.is_finished:
            return
        with suppress(OSError):  # of a full disk; the error itself reports it
            write_json(self.failed_path, {"error": redacted(f"{type(error).__name__}: {error}")})

    def failure(self) -> str | None:
        """The first line of the reason why the job did not finish; None if it left none, as when it was killed."""
        if not self.failed_path.is_file():
            return None
        try:
            text = str(json.loads(self.failed_path.read_text(encoding="utf-8"))["error"])
        except (OSError, ValueError, KeyError, TypeError):
            return f"{self.failed_path.name} cannot be read"
        return (text.strip().splitlines() or ["no message"])[0]

    def finished(self, config: str, files: InputFiles | None = None) -> float | None:
        """The objective of a finished job of this configuration in this folder; None if there is none.

        Args:
            config: fingerprint of the configuration.
            files: the files that its settings name; their content must not have changed. A job of an earlier version, which
                kept no record of them, counts as finished.
        """
        try:
            content = json.loads(self.finished_path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if content.get("config") != config:
            return None
        edited = [] if files is None else files.edited(content.get("files", {}))
        if edited:
            log.warning("%s: run again, since %s was edited after it", self.path, " and ".join(edited))
            return None
        return float(content["objective"])

    def metrics(self) -> dict[str, Any]:
        """The content of `metrics.json` so far, with every section present.

        Raises:
            UserError: the file is not JSON, or holds something else.
        """
        content: Any = {}
        if self.metrics_path.exists():
            try:
                content = json.loads(self.metrics_path.read_text(encoding="utf-8"))
            except (ValueError, RecursionError) as error:
                raise UserError(
                    f"{self.metrics_path} is not JSON ({error}): remove it and run again"
                ) from error
        sections = content if isinstance(content, dict) else {"": content}
        wrong = [name for name, entries in sections.items() if not isinstance(entries, dict)]
        if wrong:
            raise UserError(
                f"{self.metrics_path} does not hold the numbers of a run: remove it and run again"
            )
        return {section: sections.get(section, {}) for section in SECTIONS}

    def _update(self, section: str, entries: Mapping[str, Any]) -> None:
        content = self.metrics()
        content[section] = {**content[section], **_plain(entries)}
        write_json(self.metrics_path, content)

    def record_protocol(self, protocol: Mapping[str, Any], chance: Mapping[str, float] | None = None) -> None:
        """Record how the coming numbers are computed, before the first of them.

        Raises:
            UserError: the folder holds numbers computed under another protocol.
        """
        before, now = self.metrics()["protocol"], _plain(protocol)
        if before and before != now:
            changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
            raise UserError(
                f"{self.metrics_path} holds numbers under another protocol ({', '.join(changed)} differ): "
                "choose another hydra.run.dir"
            )
        self._update("protocol", protocol)
        self._update("chance", chance or {})

    def record_reasoning(self, mix_ratio: float, share: float) -> None:
        """Record the requested and the actual share of training samples that carry reasoning."""
        self._update("reasoning", {"mix_ratio": mix_ratio, "share": share})

    def record_stage(
        self,
        stage: str,
        metrics: Mapping[str, float],
        intervals: Mapping[str, Sequence[float]],
        validity: Mapping[str, float],
    ) -> None:
        """Add one evaluated phase.

        Raises:
            ValueError: no protocol was recorded, since a number is not written without its protocol.
        """
        if not self.metrics()["protocol"]:
            raise ValueError(f"record the protocol before the metrics of phase {stage}")
        self._update("stages", {stage: metrics})
        self._update("intervals", {stage: intervals})
        self._update("validity", {stage: validity})

    def record_difference(self, later: str, earlier: str, difference: Mapping[str, Any]) -> None:
        """Add the paired comparison ``later - earlier`` (`intervals.paired_differences`)."""
        self._update("differences", {f"{later} - {earlier}": difference})

    def record_baseline(
        self, name: str, metrics: Mapping[str, float], intervals: Mapping[str, Sequence[float]]
    ) -> None:
        """Add a recommender that the run's phases should beat."""
        self._update("baselines", {name: {"metrics": metrics, "intervals": intervals}})

    def record_slices(self, name: str, slices: Mapping[str, Mapping[str, Any]]) -> None:
        """Add a phase's or a baseline's results for parts of the users (`slices.sliced`)."""
        self._update("slices", {name: slices})

    def record_weights(self, stage: str, compared: Mapping[str, Any]) -> None:
        """Record the results of a phase's best held-out weights and of its last weights.

        Args:
            stage: a phase whose kept weights are already evaluated.
            compared: ``kept`` (best or last); ``best`` and ``last``, each with ``step``, ``metrics`` and ``intervals``; and
                ``difference``, the paired comparison best - last, if the two are not the same weights.
        """
        self._update("weights", {stage: compared})

    def record_faithfulness(self, stage: str, compared: Mapping[str, Any]) -> None:
        """Record how a phase's policy ranks with its reasoning changed.

        Args:
            stage: a phase that is already evaluated.
            compared: for each change (none, swapped, shuffled) ``metrics``, ``intervals`` and ``difference``, the paired
                comparison own reasoning - changed reasoning.
        """
        self._update("faithfulness", {stage: compared})

    def record_cost(self, stage: str, cost: Mapping[str, float | int]) -> None:
        """Add the cost of a phase; only this section differs between identical runs."""
        self._update("cost", {stage: cost})
