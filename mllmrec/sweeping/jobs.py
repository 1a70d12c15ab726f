"""The jobs of a named sweep; all are composed and checked before the first one starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig

from mllmrec.config import CONFIG_DIR
from mllmrec.config.checks import plain_faults
from mllmrec.config.compose import VERSION_BASE, compose_checked
from mllmrec.config.launcher_rules import interval_faults, launcher_faults
from mllmrec.config.messages import nearest, readable
from mllmrec.config.places import further_places, group_choices
from mllmrec.config.typed import quoted
from mllmrec.errors import ConfigError, UserError, choices
from mllmrec.sweeping.callback import SweepCallback
from mllmrec.sweeping.names import PRESETS, job_name

ROOT = "train"
ELSEWHERE = (
    "slurm",
    "submitit_slurm",
    "submitit_local",
    "ray",
)  # launchers that find room for the jobs themselves
# The settings of launchers for jobs at a time.
_AT_ONCE = {
    "joblib": "n_jobs",
    "slurm": "array_parallelism",
    "submitit_slurm": "array_parallelism",
    "ray": "n_jobs",
}


@dataclass(frozen=True)
class Job:
    """One combination of the axes.

    Attributes:
        config: the composed configuration.
        overrides: the overrides that make the job.
    """

    config: DictConfig
    overrides: list[str]


@dataclass(frozen=True)
class Sweep:
    """The jobs that a sweep will run.

    Attributes:
        folder: the sweep's folder.
        jobs: jobs by the names of their folders in it, in starting order.
        overrides: the overrides that make all jobs, including the axes.
        launcher: Hydra's launcher, which runs the jobs.
    """

    folder: Path
    jobs: dict[str, Job]
    overrides: list[str]
    launcher: str = "joblib"

    @property
    def here(self) -> bool:
        """Whether the jobs run on this machine, in processes of this command."""
        return self.launcher not in ELSEWHERE


def experiments(overrides: Sequence[str] = (), config_dir: str | None = None) -> list[str]:
    """The names of experiments that can be run, including those in additional configuration folders."""
    with initialize_config_dir(str(CONFIG_DIR), job_name=ROOT, version_base=VERSION_BASE):
        return sorted(group_choices("experiment", ROOT, overrides, config_dir))


def plan(name: str, overrides: Sequence[str], config_dir: str | None = None) -> Sweep:
    """Compose every job of the experiment ``name`` with additional ``overrides``.

    Args:
        name: a file in ``conf/experiment``; its ``hydra.sweeper.params`` are the axes, and without them it is one job.
        overrides: as typed, single values or axes (``seed=0,1,2``); they replace the experiment's own.
        config_dir: an additional folder of configuration files, as in Hydra's ``--config-dir``.

    Raises:
        UserError: there is no such experiment.
        ConfigError: the overrides or the settings of at least one job are wrong; it names all faults.
    """
    places = further_places(overrides, config_dir)
    if places.faults:
        raise ConfigError(places.faults)
    known = experiments(overrides, config_dir)
    if name not in known:
        raise UserError(f"{name}: no such experiment{nearest(name, known)}; choose {choices(known)}")
    given = [
        f"experiment={name}",
        "skip_finished=true",
        "overwrite=true",
        "share_stages=true",
        "resume=auto",
        *overrides,
    ]
    # Check overrides as typed first, which gives the best message about a value that replaces the experiment's.
    composed = compose_checked(ROOT, given, CONFIG_DIR, config_dir)
    faults_of_all = [
        *composed.faults,
        *launcher_faults(composed.config),
        *interval_faults(given, composed.config),
    ]
    if faults_of_all:
        raise ConfigError(faults_of_all)
    axes = [f"{key}={values}" for key, values in (composed.config.hydra.sweeper.params or {}).items()]
    with initialize_config_dir(str(CONFIG_DIR), job_name=ROOT, version_base=VERSION_BASE):
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        parsed = [text for text in parser.parse_overrides([*axes, *given]) if not text.is_hydra_override()]
        jobs: dict[str, Job] = {}
        faults: dict[str, None] = {}
        for of_job in BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]:
            where = job_name(of_job)
            try:
                jobs[where] = Job(compose(ROOT, [*places.search, *of_job]), of_job)
            except (HydraException, ValueError) as error:
                cause = f": {readable(error.__cause__)}" if error.__cause__ else ""
                faults[f"job {where}: {readable(error)}{cause}"] = None
                continue
            faults.update({f"job {where}: {fault}": None for fault in plain_faults(jobs[where].config)})
    if faults:
        raise ConfigError(list(faults))
    launcher = composed.config.hydra.runtime.choices["hydra/launcher"]
    if launcher == "basic" and not any(text.startswith("hydra/launcher=") for text in given):
        launcher = "joblib"
    return Sweep(_folder(name, given, composed.config), jobs, given, launcher)


def _folder(name: str, given: Sequence[str], config: DictConfig) -> Path:
    """``hydra.sweep.dir`` if given, else a folder named by the experiment and the presets."""
    if any(text.startswith("hydra.sweep.dir=") for text in given):
        return Path(config.hydra.sweep.dir)
    presets = [
        text.split("=", 1)[1] for preset in PRESETS[1:] for text in given if text.startswith(f"{preset}=")
    ]
    return Path("sweeps", "-".join([name, *presets]))


def launching(sweep: Sweep, at_once: int | None, slots: int, devices: Sequence[str]) -> list[str]:
    """The overrides with which Hydra runs jobs of a sweep, each in its own folder.

    Args:
        sweep: the sweep that the jobs belong to.
        at_once: jobs of this multirun at a time; None for what the launcher's own settings say.
        slots: jobs of the sweep at a time.
        devices: devices to distribute to the jobs.

    Raises:
        UserError: the launcher has no setting for jobs at a time.
    """
    callback = "+hydra.callbacks.sweep"
    added = [
        f"hydra.sweep.dir={quoted(str(sweep.folder))}",
        "hydra.sweep.subdir='${job_name:${hydra.overrides.task}}'",
        f"{callback}._target_={SweepCallback.__module__}.{SweepCallback.__name__}",
        f"{callback}.devices=[{','.join(map(quoted, devices))}]",
        f"{callback}.slots={slots}",
    ]
    if sweep.launcher == "joblib":
        # One by one: after short jobs at the start, such as finished ones, joblib would bundle the long jobs that follow.
        added += ["hydra/launcher=joblib", "hydra.launcher.batch_size=1"]
    if at_once is not None and sweep.launcher != "basic":
        if sweep.launcher not in _AT_ONCE:
            raise UserError(
                f"jobs={at_once}: hydra/launcher={sweep.launcher} has no setting for jobs at a time"
            )
        added.append(f"hydra.launcher.{_AT_ONCE[sweep.launcher]}={at_once}")
    return added
