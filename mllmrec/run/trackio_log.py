"""Runs in Trackio (``logger=trackio``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from mllmrec.run.artifacts import artifacts_of
from mllmrec.run.folder import RunFolder
from mllmrec.run.loggers import Labels, RunLoggers, final_numbers, rollout_table, without_secrets

if TYPE_CHECKING:
    from lightning.pytorch.loggers.logger import Logger


class TrackioLoggers(RunLoggers):
    """`log.csv` and one Trackio run for the whole job; phase names prefix the metrics, and steps count on over phases.

    Trackio keeps runs in a folder of this machine (TRACKIO_DIR), to be seen with `trackio show`, or sends them to a server of
    its own or to a Hugging Face Space. It knows no failed runs: a job that fails leaves an alert.

    Args:
        project: the project's name.
        group: the common group of an experiment's runs; None for the sweep's name.
        name: what the run's name begins with; None for the run folder's. Six random characters follow.
        tags: labels, beside the choices of the main groups; Trackio shows them among the settings.
        server: address of a Trackio server; None for TRACKIO_SERVER_URL, or this machine's folder.
        space: a Hugging Face Space in place of a server.
        artifacts: whether to keep candidate sets, rankings and weights too.
    """

    needs_package = ("trackio", "'mllmrec[trackio]'")

    def __init__(
        self,
        project: str = "mllmrec",
        group: str | None = None,
        name: str | None = None,
        tags: Sequence[str] = (),
        server: str | None = None,
        space: str | None = None,
        artifacts: bool = False,
    ) -> None:
        self.project, self.group, self.name, self.tags = project, group, name, list(tags)
        self.server, self.space, self.artifacts = server, space, artifacts
        self._run: Any = None
        self._stages: Any = None  # `mllmrec.run.service_log.ServiceStages`

    def start(self, folder: RunFolder, labels: Labels, settings: Mapping[str, Any]) -> None:
        """Begin the job's run, or go on in it."""
        import trackio

        from mllmrec.run.service_log import ServiceLog, ServiceStages

        self._run = trackio.init(
            project=self.project,
            # Trackio goes on in the newest run of a name, so each job needs a name of its own.
            name=labels.known or f"{self.name or labels.name}-{uuid4().hex[:6]}",
            group=self.group or labels.group,
            config={**without_secrets(settings), "tags": [*self.tags, *labels.tags]},
            server_url=self.server,
            space_id=self.space,
            resume="never" if labels.known is None else "allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        self._stages = ServiceStages(
            lambda stages, stage: ServiceLog(stages, stage, self._write),
            folder.log_path,
            labels.known is not None,
        )

    @property
    def known(self) -> str | None:
        """The run's name."""
        return None if self._run is None else str(self._run.name)

    def log_protocol(self, protocol: Mapping[str, Any]) -> None:
        """Log the protocol as text of the run."""
        if self._run is not None:
            import trackio

            lines = "\n".join(f"- {key}: {value}" for key, value in protocol.items())
            self._run.log({"protocol": trackio.Markdown(lines)}, step=0)

    def _more(self, folder: RunFolder, stage: str) -> list[Logger]:
        return [self._stages.begin(stage)]

    def _write(self, metrics: dict[str, float], step: int, whole: int) -> None:
        self._run.log(metrics, step=whole)

    def log_results(self, folder: RunFolder) -> None:
        """Log the final numbers at the last step, the curves, the rollouts and, if asked for, the artefacts."""
        if self._run is None:
            return
        import pandas as pd
        import trackio

        self._stages.catch_up()
        shown: dict[str, Any] = dict(final_numbers(folder))
        if folder.curves_path.exists():
            shown["curves"] = trackio.Image(str(folder.curves_path))
        columns, rows = rollout_table(folder)
        if rows:
            shown["rollouts"] = trackio.Table(
                dataframe=pd.DataFrame(rows, columns=[str(name) for name in columns])
            )
        self._run.log(shown, step=self._stages.last_step)
        if self.artifacts:
            with artifacts_of(folder) as found:
                for artifact in found:
                    kept = trackio.Artifact(name=artifact.name, type=artifact.kind)
                    for name, path in artifact.files.items():
                        kept.add_file(str(path), name=name)
                    self._run.log_artifact(kept)

    def close(self, failed: bool = False) -> None:
        """Finish the run, with an alert if the job failed."""
        if self._run is None:
            return
        if failed:
            import trackio

            self._run.alert("the job failed", text="run.log says why", level=trackio.AlertLevel.ERROR)
        self._run.finish()
        self._run, self._stages = None, None
