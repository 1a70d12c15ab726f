"""The loggers of training steps: always `log.csv`, and on request TensorBoard or Weights & Biases.

One object serves all phases of a job (``hydra.utils.instantiate(cfg.logger)``) and gives each phase its loggers. It is
closed at the end, so that the jobs of a multirun do not share a run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import yaml

from mllmrec.config.secret_values import is_called_secret, secret_values
from mllmrec.errors import UserError
from mllmrec.run.folder import RunFolder
from mllmrec.run.rollouts import read_rollouts

# The check of a configuration avoids Lightning, because importing it takes seconds.
if TYPE_CHECKING:
    from lightning.pytorch.loggers.logger import Logger

REDACTED = "<redacted>"


@dataclass(frozen=True)
class Labels:
    """The names of a run in services that show many runs."""

    group: str | None  # the run's sweep
    name: str
    tags: Sequence[str]
    known: str | None = None  # the service's own name for the run that an earlier attempt at the job began


class RunLoggers:
    """Only `log.csv`; the base of the other choices."""

    # A package that need not be there, and what pip installs to bring it.
    needs_package: ClassVar[tuple[str, str] | None] = None

    def start(self, folder: RunFolder, labels: Labels, settings: Mapping[str, Any]) -> None:
        """Begin the job's run.

        Args:
            folder: the run's folder.
            labels: the run's names if the configuration gives none.
            settings: the resolved configuration, for searching in services that show many runs.
        """

    def log_protocol(self, protocol: Mapping[str, Any]) -> None:
        """Hand over how the coming numbers are computed (the ``protocol`` section of `metrics.json`)."""

    def for_stage(self, folder: RunFolder, stage: str) -> list[Logger]:
        """The loggers for one phase's Trainer, `mllmrec.run.csv_log.CsvLog` first."""
        from mllmrec.run.csv_log import CsvLog

        return [CsvLog(folder.log_path, stage, folder.seconds), *self._more(folder, stage)]

    def _more(self, folder: RunFolder, stage: str) -> list[Logger]:
        return []

    def log_results(self, folder: RunFolder) -> None:
        """Hand the final numbers, the picture of the curves and the sampled rollouts to services that show them."""

    @property
    def known(self) -> str | None:
        """The service's own name for this run, with which another attempt at the job goes on in it."""
        return None

    def close(self, failed: bool = False) -> None:
        """End the job's run; ``failed`` if the job did not finish."""


class TensorBoardLoggers(RunLoggers):
    """`log.csv` and TensorBoard event files, one folder per phase, under ``tensorboard/`` in the run folder.

    The folder ``tensorboard/run`` has configuration, protocol and rollouts as text, the curves as a picture, and settings
    with final numbers for the page of hyper-parameters.
    """

    needs_package = ("tensorboard", "'mllmrec[tensorboard]'")

    def __init__(self) -> None:
        self._settings: Mapping[str, Any] = {}
        self._protocol: Mapping[str, Any] = {}

    def start(self, folder: RunFolder, labels: Labels, settings: Mapping[str, Any]) -> None:
        """Keep the settings for the end: TensorBoard shows them beside the final numbers."""
        self._settings = without_secrets(settings)

    def log_protocol(self, protocol: Mapping[str, Any]) -> None:
        """Keep the protocol for the end."""
        self._protocol = protocol

    def _more(self, folder: RunFolder, stage: str) -> list[Logger]:
        return [_tensorboard(folder, stage)]

    def log_results(self, folder: RunFolder) -> None:
        """Write the parts that concern the whole run."""
        from matplotlib.image import imread

        logger = _tensorboard(folder, "run")
        shown = {"settings": self._settings, "protocol": self._protocol}
        logger.log_hyperparams(dict(self._settings), dict(final_numbers(folder)), step=0)
        for name, content in shown.items():
            text = yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)
            logger.experiment.add_text(name, f"```\n{text}```")
        if folder.curves_path.exists():
            logger.experiment.add_image("curves", imread(folder.curves_path), dataformats="HWC")
        columns, rows = rollout_table(folder)
        if rows:
            lines: list[Sequence[Any]] = [columns, ["---"] * len(columns), *rows]
            text = "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)
            logger.experiment.add_text("rollouts", text)
        logger.finalize("success")


def _tensorboard(folder: RunFolder, version: str) -> Any:
    from lightning.pytorch.loggers import TensorBoardLogger

    try:
        return TensorBoardLogger(
            save_dir=folder.path, name="tensorboard", version=version, default_hp_metric=False
        )
    except ModuleNotFoundError as error:
        raise UserError("logger=tensorboard needs tensorboard: pip install 'mllmrec[tensorboard]'") from error


def _cell(value: object) -> str:
    """A value in a Markdown table."""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", "<br>")


class WandbLoggers(RunLoggers):
    """`log.csv` and one Weights & Biases run for the whole job; phase names prefix the metrics.

    The run's config has the resolved configuration (secrets blanked out) and the protocol, its summary the final numbers.
    The curves are a picture and the sampled rollouts a table. ``trainer/global_step`` continues from phase to phase. wandb
    reads the key from the environment (WANDB_API_KEY) and never from a config.

    Args:
        project: the project's name.
        entity: user or team; None for the account's default.
        group: the common group of an experiment's runs; None for the sweep's name.
        name: the run's name; None for the run folder's.
        tags: labels, beside the choices of the main groups.
        offline: None for offline unless the environment has WANDB_API_KEY (or sets WANDB_MODE).
        artifacts: whether to upload candidate sets, rankings and weights too.
    """

    needs_package = ("wandb", "wandb")

    def __init__(
        self,
        project: str = "mllmrec",
        entity: str | None = None,
        group: str | None = None,
        name: str | None = None,
        tags: Sequence[str] = (),
        offline: bool | None = None,
        artifacts: bool = False,
    ) -> None:
        self.project, self.entity, self.group, self.name = project, entity, group, name
        self.tags = list(tags)
        self.offline, self.artifacts = offline, artifacts
        self._run: Any = None
        self._stages: Any = None  # `mllmrec.run.service_log.ServiceStages`

    def _mode(self) -> Any:
        if self.offline is not None:
            return "offline" if self.offline else "online"
        return os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")

    def start(self, folder: RunFolder, labels: Labels, settings: Mapping[str, Any]) -> None:
        """Begin the job's run."""
        import wandb

        from mllmrec.run.service_log import ServiceStages
        from mllmrec.run.wandb_log import WandbLog

        run = self._run = wandb.init(
            project=self.project,
            entity=self.entity,
            group=self.group or labels.group,
            name=self.name or labels.name,
            tags=[*self.tags, *labels.tags],
            config=without_secrets(settings),
            dir=str(folder.path),
            mode=self._mode(),
            reinit="create_new",
            id=labels.known,
            resume=None if labels.known is None else "allow",
        )
        self._run.define_metric("trainer/global_step")
        self._run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        self._stages = ServiceStages(
            lambda stages, stage: WandbLog(stages, stage, run), folder.log_path, labels.known is not None
        )

    @property
    def known(self) -> str | None:
        """The run's id."""
        return None if self._run is None else str(self._run.id)

    def log_protocol(self, protocol: Mapping[str, Any]) -> None:
        """Put the protocol into the run's config."""
        if self._run is not None:
            self._run.config.update({"protocol": dict(protocol)})

    def _more(self, folder: RunFolder, stage: str) -> list[Logger]:
        return [self._stages.begin(stage)]

    def log_results(self, folder: RunFolder) -> None:
        """Put the final numbers into the run's summary: ``test/<phase>/<metric>``, and the others by section."""
        if self._run is None:
            return
        import wandb

        self._stages.catch_up()
        self._run.summary.update(dict(final_numbers(folder)))
        shown: dict[str, Any] = {}
        if folder.curves_path.exists():
            shown["curves"] = wandb.Image(str(folder.curves_path))
        columns, rows = rollout_table(folder)
        if rows:
            shown["rollouts"] = wandb.Table(columns=columns, data=rows)
        if shown:
            self._run.log(shown)
        if self.artifacts:
            from mllmrec.run.artifacts import artifacts_of

            with artifacts_of(folder) as found:
                for artifact in found:
                    # Candidates are named by their content and shared; the others are the run's own.
                    own = artifact.kind != "candidates"
                    kept = wandb.Artifact(
                        f"{artifact.name}-{self._run.id}" if own else artifact.name, artifact.kind
                    )
                    for name, path in artifact.files.items():
                        kept.add_file(str(path), name=name)
                    self._run.log_artifact(kept)

    def close(self, failed: bool = False) -> None:
        """Finish the run; wandb then shows it as failed or finished. The next job of a multirun starts its own run."""
        if self._run is not None:
            self._run.finish(exit_code=int(failed))
            self._run, self._stages = None, None


def final_numbers(folder: RunFolder) -> Iterator[tuple[str, float]]:
    """Every number of `metrics.json` with a path: ``test/grpo/HR@1`` for a phase, ``cost/grpo/seconds`` and so on.

    The bounds of an interval are ``<path>/low`` and ``<path>/high``. Paths of numbers among other negatives begin with
    ``other_negatives/``.
    """
    yield from _numbers("", folder)
    beside = RunFolder(folder.beside_path) if folder.beside_path.is_dir() else None
    if beside is not None:
        yield from _numbers(f"{folder.beside_path.name}/", beside)


def _numbers(prefix: str, folder: RunFolder) -> Iterator[tuple[str, float]]:
    for section, content in folder.metrics().items():
        if section != "protocol":
            yield from _leaves(f"{prefix}{'test' if section == 'stages' else section}", content)


def _leaves(path: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(f"{path}/{name}", inner)
    elif isinstance(value, list) and len(value) == 2:
        yield from zip((f"{path}/low", f"{path}/high"), value, strict=True)
    elif isinstance(value, (int, float)):
        yield path, value


def rollout_table(folder: RunFolder) -> tuple[list[str | int], list[list[Any]]]:
    """Columns and rows of the rollouts that a run kept; each part of the reward has a column. No rollouts, no rows."""
    rollouts = read_rollouts(folder.rollouts_path) if folder.rollouts_path.exists() else []
    parts = list(dict.fromkeys(name for rollout in rollouts for name in rollout.parts))
    columns: list[str | int] = ["step", "prompt_id", "completion", "reward", *parts, "advantage"]
    rows = [
        [
            rollout.step,
            rollout.prompt_id,
            rollout.completion,
            rollout.reward,
            *(rollout.parts.get(name) for name in parts),
            rollout.advantage,
        ]
        for rollout in rollouts
    ]
    return columns, rows


def without_secrets(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the settings with secrets blanked out.

    A text counts as a secret if the name of its key says so (``api_key``, ``password``), or if it contains the value of an
    environment variable with such a name.
    """
    secrets = [value for _, value in secret_values()]

    def clean(name: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): clean(str(key), inner) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [clean(name, inner) for inner in value]
        hidden = isinstance(value, str) and (
            is_called_secret(name) or any(secret in value for secret in secrets)
        )
        return REDACTED if hidden else value

    return {str(key): clean(str(key), value) for key, value in settings.items()}
