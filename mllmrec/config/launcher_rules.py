"""The faults of Hydra's launchers: what a multirun needs in order to run elsewhere than in this process."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig

# Class of a launcher -> the package that it needs, and the extra of this package that brings it.
_NEEDS = {
    "SlurmLauncher": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
    "LocalLauncher": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
    "RayLauncher": ("ray", "ray"),
}


def launcher_faults(config: DictConfig) -> list[str]:
    """The faults of ``hydra.launcher``.

    Args:
        config: a composed configuration of `mllmrec.train` with its ``hydra`` section.
    """
    hydra = config.hydra
    name = hydra.runtime.choices.get("hydra/launcher")
    launcher = str(hydra.launcher.get("_target_")).rpartition(".")[2]
    if launcher not in _NEEDS:
        return []
    package, extra = _NEEDS[launcher]
    if find_spec(package) is None:
        return [f"hydra/launcher={name} needs: pip install 'mllmrec[{extra}]'"]
    faults = []
    if launcher == "SlurmLauncher" and shutil.which("srun") is None:
        faults.append(
            f"hydra/launcher={name}: this machine has no srun; start the sweep on a login node of the cluster, or choose another "
            "launcher"
        )
    if config.get("resume") == "never":
        faults.append(
            f"hydra/launcher={name} starts a job again that was pre-empted or killed, and with resume=never it would begin anew: "
            "add resume=auto skip_finished=true"
        )
    return faults


def unaccounted(launcher: str) -> str | None:
    """What is wrong with a Slurm cluster that keeps no accounts; None if it keeps some, or the launcher is another.

    submitit asks ``sacct`` whether a job still runs. Where it gets no answer, it waits for the job's results without end.

    Args:
        launcher: name of the launcher, or the ``_target_`` of its class.
    """
    if launcher not in ("slurm", "submitit_slurm") and not launcher.endswith(".SlurmLauncher"):
        return None
    try:
        subprocess.run(["sacct", "--noheader", "--allocations"], check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error).encode()
        return (
            f"sacct does not answer here ({said.decode(errors='replace').strip().splitlines()[-1]}), so a job that dies is waited for "
            "without end: if squeue lists no job of the sweep any more, press Ctrl-C and start the same command again"
        )
    return None


def interval_faults(overrides: Sequence[str], config: DictConfig) -> list[str]:
    """The axes of a multirun that have no list of values.

    Args:
        overrides: as typed.
        config: the composed configuration with its ``hydra`` section, which may hold further axes.
    """
    axes = [f"{key}={values}" for key, values in (config.hydra.sweeper.params or {}).items()]
    parser, found = OverridesParser.create(), []
    for text in [*axes, *overrides]:
        with suppress(HydraException):
            override = parser.parse_override(text)
            if override.is_sweep_override() and not override.is_discrete_sweep():
                found.append(
                    f"{text}: an interval has no list of values to run one by one; search it with python -m mllmrec.tune"
                )
    return found
