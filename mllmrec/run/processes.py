"""The processes of a job on several devices: how they start, what the ones beside the first write, and how they end.

The first process leads. It starts the others with its own command line, unless torchrun started all of them. Each runs the
whole job (`mllmrec.ranks`), the others without output and with a run folder that is thrown away.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import get_original_cwd

from mllmrec.config.typed import quoted
from mllmrec.errors import UserError
from mllmrec.ranks import the_ranks
from mllmrec.run.folder import RunFolder
from mllmrec.run.loggers import RunLoggers
from mllmrec.stopping import RESUMABLE, end_at_once

log = logging.getLogger(__name__)

PATIENCE = timedelta(
    days=2
)  # of a process that waits for another, which may be downloading or writing captions
_NOTICE = 10.0  # seconds in which a process sees by itself that another one ended
_SOON = 2.0  # seconds until a broken connection and the end of its process are both seen
_OFTEN = 0.5  # seconds between two looks at the others


def follows(settings: Mapping[str, Any]) -> bool:
    """Whether this process is one beside the first.

    Args:
        settings: the configuration's ``trainer``.

    Raises:
        UserError: the command cannot run on several devices as it was started.
    """
    devices = int(settings.get("devices", 1))
    if devices == 1:
        return False
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        raise UserError(
            f"trainer.devices={devices} in a multirun: each of its processes would start the whole multirun again; start one "
            "job after another, or set trainer.devices=1"
        )
    count = os.environ.get("WORLD_SIZE", str(devices))
    if count != str(devices):
        raise UserError(
            f"trainer.devices={devices}, and {count} processes were started: give torchrun --nproc-per-node={devices} on one "
            f"machine, or set trainer.devices={count}"
        )
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if tasks != "1" and not _of_torchrun():
        raise UserError(
            f"trainer.devices={devices} in {tasks} SLURM tasks: start one task (srun --ntasks=1), which starts the processes"
        )
    return os.environ.get("LOCAL_RANK", "0") != "0"


@contextmanager
def together(settings: Mapping[str, Any]) -> Iterator[None]:
    """In this block ``trainer.devices`` processes work on the job; with one device nothing changes.

    Raises:
        UserError: there are not so many devices, or another process ended early.
    """
    devices = int(settings.get("devices", 1))
    if devices == 1:
        yield
        return
    others: list[subprocess.Popen[bytes]] = []
    done = threading.Event()
    if "LOCAL_RANK" not in os.environ:
        others = _start(devices)
        threading.Thread(target=_watch_others, args=(others, done), daemon=True).start()
    _connect(settings, devices)
    try:
        yield
        the_ranks().wait()
    except UserError:
        raise
    except Exception as error:
        # Whoever waits for a process that ended sees a broken connection.
        lost = _ended(others, _SOON)
        if lost is None:
            raise
        done.set()
        raise UserError(lost) from error
    done.set()
    import torch.distributed as dist

    dist.destroy_process_group()
    for other in others:
        with suppress(subprocess.TimeoutExpired):
            other.wait(_NOTICE)


def _of_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def environment() -> Any:
    """Lightning's view of who started the processes."""
    from lightning.fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment

    return TorchElasticEnvironment() if _of_torchrun() else LightningEnvironment()


def _start(devices: int) -> list[subprocess.Popen[bytes]]:
    """Start the others with this command line, as Lightning would, but also where the command is ``mllmrec train``."""
    command = [sys.executable, "-m", "mllmrec.train", *_arguments(sys.argv[1:])]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), NODE_RANK="0", LOCAL_RANK="0", WORLD_SIZE=str(devices)
    )
    return [
        subprocess.Popen(command, env={**os.environ, "LOCAL_RANK": str(rank)}, cwd=get_original_cwd())
        for rank in range(1, devices)
    ]


def _arguments(given: Sequence[str]) -> list[str]:
    """The arguments for another process, which makes no run folder of its own; overrides stand together, before options."""
    overrides = get_args_parser().parse_args(list(given)).overrides
    known = HydraConfig.get().overrides
    if not set(known.task) <= set(overrides):
        # This is another program, whose command line says nothing of the job.
        raise UserError(
            "several devices from Python: the other processes are started with a command line, so start the job as "
            "python -m mllmrec.train, or this program with torchrun"
        )
    options = list(given)
    for override in overrides:
        options.remove(override)
    place = f"hydra.run.dir={quoted(HydraConfig.get().runtime.output_dir)}"
    return [*overrides, place, "hydra.output_subdir=null", *options]


def _connect(settings: Mapping[str, Any], devices: int) -> None:
    import lightning
    from lightning.fabric.strategies import DDPStrategy
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    for announces in ("lightning.fabric", "lightning.pytorch"):
        logging.getLogger(announces).setLevel(logging.WARNING)
    try:
        fabric = lightning.Fabric(
            accelerator=settings["accelerator"],
            devices=devices,
            strategy=DDPStrategy(timeout=PATIENCE, process_group_backend=_backend(settings)),
            plugins=[environment()],
        )
        fabric.launch()
    except (MisconfigurationException, ValueError) as error:
        raise UserError(f"trainer.devices={devices}: {error}") from error


def _backend(settings: Mapping[str, Any]) -> str:
    """What processes talk through: tensors on GPUs through NCCL, everything else through gloo."""
    import torch

    on_gpus = settings["accelerator"] != "cpu" and torch.cuda.is_available()
    return "cpu:gloo,cuda:nccl" if on_gpus else "gloo"


def _watch_others(others: Sequence[subprocess.Popen[bytes]], done: threading.Event) -> None:
    """End this process if another one failed and this one did not notice, as in a collective operation on GPUs."""
    while not done.wait(_OFTEN):
        lost = _ended(others, 0.0)
        if lost is not None and not done.wait(_NOTICE):
            print(f"mllmrec.train: {lost}", file=sys.stderr)
            end_at_once(1)


def _ended(others: Sequence[subprocess.Popen[bytes]], seconds: float) -> str | None:
    """Which of the others ended early, and how; None if within these seconds none has."""
    until = time.monotonic() + seconds
    while True:
        for rank, other in enumerate(others, 1):
            if code := other.poll():
                how = f"with status {code}" if code > 0 else f"by {signal.Signals(-code).name}"
                memory = ", as when memory runs out" if code == -signal.SIGKILL else ""
                return f"process {rank} of this job ended {how}{memory}; {RESUMABLE}"
        if time.monotonic() >= until:
            return None
        time.sleep(_OFTEN / 5)


def _watch_leader(leader: int, scratch: str) -> None:
    """End this process when the one that leads has ended: its message counts."""
    while os.getppid() == leader:
        time.sleep(_OFTEN)
    shutil.rmtree(scratch, ignore_errors=True)
    end_at_once(0)


def dismiss(settings: Mapping[str, Any]) -> None:
    """Tell the processes that torchrun started beside this one that there is nothing to do."""
    if _of_torchrun() and int(settings.get("devices", 1)) > 1:
        with together(settings):
            the_ranks().of_leader(lambda: None)


@contextmanager
def following() -> Iterator[Path]:
    """Run the block as a process beside the first: quietly, and with a folder that is removed afterwards.

    A fault that all processes have is told by the first one.
    """
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - to the end of the process
    with tempfile.TemporaryDirectory(prefix="mllmrec-process-") as scratch:
        if not _of_torchrun():
            threading.Thread(target=_watch_leader, args=(os.getppid(), scratch), daemon=True).start()
        try:
            yield Path(scratch)
        except BaseException:
            # The first process has the same fault, or has caused it, and tells of it. If not, it lives on.
            time.sleep(_NOTICE)
            raise


class FollowersFolder(RunFolder):
    """The run folder of a process beside the first. Nobody reads it; what an earlier attempt left is read from the run's own.

    Args:
        path: a folder that is thrown away.
        resume: where the run keeps what another attempt goes on from.
    """

    def __init__(self, path: Path, resume: Path) -> None:
        super().__init__(path)
        self.resume_path = resume

    def start_afresh(self) -> None:
        """Do nothing: the folder is empty."""

    def go_on(self) -> None:
        """Do nothing: the folder is empty."""


class NoLoggers(RunLoggers):
    """The loggers of a process beside the first."""

    def for_stage(self, folder: RunFolder, stage: str) -> list[Any]:
        """None."""
        return []
