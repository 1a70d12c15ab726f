"""The faults of Hydra's launchers: what a multirun needs in order to run elsewhere than in this process."""

from __future__ import annotations

import shutil
from importlib.util import find_spec

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
