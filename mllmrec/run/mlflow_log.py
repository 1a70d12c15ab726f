"""Runs in MLflow (``logger=mlflow``)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mllmrec.run.artifacts import artifacts_of
from mllmrec.run.folder import RunFolder
from mllmrec.run.loggers import Labels, RunLoggers, final_numbers, rollout_table, without_secrets

if TYPE_CHECKING:
    from lightning.pytorch.loggers.logger import Logger

LONGEST_PARAMETER = 500  # characters that every version of MLflow accepts
MOST_PARAMETERS, MOST_METRICS = 100, 1000  # in one request


class MlflowLoggers(RunLoggers):
    """`log.csv` and one MLflow run for the whole job; phase names prefix the metrics, and steps are those of the phase.

    Settings are the run's parameters (secrets blanked out), the sweep and the choices of the main groups its tags; the
    protocol, the curves and the rollouts are files of the run. MLflow refuses ``@`` in names, so HR@3 is ``HR_at_3``.

    Args:
        experiment: name of the experiment.
        uri: server or store; None for MLFLOW_TRACKING_URI, or MLflow's own default.
        name: the run's name; None for the run folder's.
        tags: labels, beside the choices of the main groups.
        artifacts: whether to keep candidate sets, rankings and weights too.
    """

    needs_package = ("mlflow", "'mllmrec[mlflow]'")

    def __init__(
        self,
        experiment: str = "mllmrec",
        uri: str | None = None,
        name: str | None = None,
        tags: Sequence[str] = (),
        artifacts: bool = False,
    ) -> None:
        self.experiment, self.uri, self.name = experiment, uri, name
        self.tags, self.artifacts = list(tags), artifacts
        self._client: Any = None
        self._run_id: str | None = None
        self._stages: Any = None  # `mllmrec.run.service_log.ServiceStages`

    def start(self, folder: RunFolder, labels: Labels, settings: Mapping[str, Any]) -> None:
        """Begin the job's run, or go on in it."""
        from mlflow import MlflowClient
        from mlflow.entities import Param

        from mllmrec.run.service_log import ServiceLog, ServiceStages

        self._client = MlflowClient(self.uri)
        if labels.known is not None:
            self._client.update_run(labels.known, status="RUNNING")
            self._run_id = labels.known
        else:
            known = self._client.get_experiment_by_name(self.experiment)
            place = self._client.create_experiment(self.experiment) if known is None else known.experiment_id
            tags = {"group": labels.group} if labels.group else {}
            for label in [*self.tags, *labels.tags]:
                key, _, value = label.partition("=")
                tags[key] = value or "true"
            run = self._client.create_run(place, run_name=self.name or labels.name, tags=tags)
            self._run_id = run.info.run_id
            found = [
                Param(key, str(value)[:LONGEST_PARAMETER]) for key, value in _flat(without_secrets(settings))
            ]
            for first in range(0, len(found), MOST_PARAMETERS):
                self._client.log_batch(self._run_id, params=found[first : first + MOST_PARAMETERS])
        self._stages = ServiceStages(
            lambda stages, stage: ServiceLog(stages, stage, self._write),
            folder.log_path,
            labels.known is not None,
        )

    @property
    def known(self) -> str | None:
        """The run's id."""
        return self._run_id

    def log_protocol(self, protocol: Mapping[str, Any]) -> None:
        """Keep the protocol as a file of the run."""
        if self._run_id is not None:
            self._client.log_dict(self._run_id, dict(protocol), "protocol.json")

    def _more(self, folder: RunFolder, stage: str) -> list[Logger]:
        return [self._stages.begin(stage)]

    def _write(self, metrics: dict[str, float], step: int, whole: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        found = [Metric(name.replace("@", "_at_"), value, now, step) for name, value in metrics.items()]
        for first in range(0, len(found), MOST_METRICS):
            self._client.log_batch(self._run_id, metrics=found[first : first + MOST_METRICS])

    def log_results(self, folder: RunFolder) -> None:
        """Log the final numbers, the curves, the rollouts and, if asked for, the artefacts."""
        if self._run_id is None:
            return
        self._stages.catch_up()
        self._write({name: float(value) for name, value in final_numbers(folder)}, 0, 0)
        if folder.curves_path.exists():
            self._client.log_artifact(self._run_id, str(folder.curves_path))
        columns, rows = rollout_table(folder)
        if rows:
            table = {str(name): [row[place] for row in rows] for place, name in enumerate(columns)}
            self._client.log_table(self._run_id, table, "rollouts.json")
        if self.artifacts:
            with artifacts_of(folder) as found:
                for artifact in found:
                    for name, path in artifact.files.items():
                        inside = "/".join([artifact.name, *name.split("/")[:-1]])
                        self._client.log_artifact(self._run_id, str(path), inside)

    def close(self, failed: bool = False) -> None:
        """Finish the run; MLflow then shows it as failed or finished."""
        if self._run_id is not None:
            self._client.set_terminated(self._run_id, "FAILED" if failed else "FINISHED")
            self._run_id, self._stages = None, None


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            found += _flat(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", value))
    return found
