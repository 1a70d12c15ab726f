"""Fills the disk of a small run at random moments, makes room again, goes on with ``resume=auto``, and compares.

    mount -t tmpfs -o size=64m tmpfs /mnt/tiny
    python experiments/full_disk.py disk=/mnt/tiny times=4 seed=0

The run folder lies on a small file system of its own; the cache and the uninterrupted runs do not. Each line is one run: what it was
doing, its exit status, its last words, how many of its checkpoints are whole, and what differs from the uninterrupted run.
"""

from __future__ import annotations

import random
import re
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path

from command_line import WrongUse, read_settings
from killed import FIRST, LIBRARIES, RUNS, beside, differences, followed, phase_of, reached, typed

from mllmrec.run.attempt import begun_job
from mllmrec.run.checkpoints import Checkpoints
from mllmrec.run.folder import RunFolder

MOST = 2**30  # bytes of a disk that this script agrees to fill


@dataclass(frozen=True)
class Settings:
    """The command line."""

    disk: str = "/mnt/tiny"  # a small file system, which is filled
    times: int = 4  # runs
    seed: int = 0  # of the moments
    folder: str = "/tmp/full_disk"  # of caches, output and uninterrupted runs
    runs: str = "default,sasrec,training-free,expert iteration"  # which ones, in turn


def filled(disk: Path) -> Path:
    """Leave no room at all."""
    ballast = disk / "ballast"
    for size in (2**20, 2**12, 1):
        with suppress(OSError), ballast.open("ab", buffering=0) as stream:
            while True:
                stream.write(b"x" * size)
    return ballast


def met(name: str, folder: Path, disk: Path, limit: float) -> tuple[int, str]:
    """Start a run, and fill its disk once it has got so far; its status, and what it was doing."""
    process = get_context("fork").Process(target=typed, args=(name, folder))
    process.start()
    assert process.pid is not None
    ballast, moment = None, "never"
    while process.is_alive():
        if ballast is None and reached(process.pid, folder) >= limit:
            ballast, moment = filled(disk), phase_of(folder)
        process.join(0.005)
    if ballast is not None:
        ballast.unlink()
    return int(process.exitcode or 0), moment


def main() -> int:
    """Run the experiment; status 1 if anything differs or a run ended in another way than with status 2."""
    try:
        given = read_settings(Settings, sys.argv[1:], {"runs": list(RUNS)})
        disk, root = Path(given.disk), Path(given.folder)
        if not disk.is_dir() or shutil.disk_usage(disk).total > MOST:
            raise WrongUse(f"disk={disk}: must be a file system of at most a gigabyte, for it is filled")
    except WrongUse as error:
        print(error, file=sys.stderr)
        return 2
    for module in LIBRARIES:
        import_module(module)
    root.mkdir(parents=True, exist_ok=True)
    draw, names, wrong = random.Random(given.seed), given.runs.split(","), 0
    ends: dict[str, float] = {}
    print(
        "| run | full in | status | last words | whole checkpoints | against the run with room |\n|---|---|---|---|---|---|"
    )
    for number in range(given.times):
        name = names[number % len(names)]
        whole, folder = (
            root / f"{kind}-{re.sub('[^a-z0-9]+', '_', name)}" for kind in ("whole", f"full-{number}")
        )
        if name not in ends:
            status, ends[name] = followed(name, whole)
            if status:
                raise SystemExit(f"{name}: failed with room, see {beside(whole, 'log')}")
        # The folder is a link, so that what lies beside it has room.
        (disk / folder.name).mkdir()
        folder.symlink_to(disk / folder.name)
        status, moment = met(name, folder, disk, draw.uniform(FIRST[0], 1.0) * ends[name])
        words = beside(folder, "log").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1]
        found = [path for path in folder.glob("resume/*") if [*path.glob("step-*.ckpt")]]
        checkpoints = sum(
            Checkpoints(path, job=begun_job(RunFolder(folder))).latest() is not None for path in found
        )
        if status:
            again, _ = followed(name, folder)
            status = status if again == 0 else again
        differ = differences(whole, folder)
        wrong += bool(differ) or status not in (0, 2)
        cells = [
            name,
            moment,
            str(status),
            words,
            f"{checkpoints} of {len(found)}",
            ", ".join(differ) or "equal",
        ]
        print(f"| {' | '.join(cells)} |", flush=True)
        folder.unlink()
        shutil.rmtree(disk / folder.name)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
