"""``python -m mllmrec.train``: prepare → the phases of the method → an evaluation after each.

The heavy imports happen inside `train`, so that help and configuration errors answer at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from mllmrec import api
from mllmrec.stopping import RESUMABLE, stoppable

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from mllmrec.api import LoadedRun


class _Callable(ModuleType):
    """``from mllmrec import train`` gives this module; calling it is `mllmrec.api.train`."""

    def __call__(
        self,
        overrides: str | Sequence[str] = (),
        *,
        folder: str | Path | None = None,
        config_dir: str | Path | None = None,
    ) -> LoadedRun:
        """Run the main job in this process and load the run; see `mllmrec.api.train`."""
        return api.train(overrides, folder=folder, config_dir=config_dir)


sys.modules[__name__].__class__ = _Callable


def train(cfg: DictConfig) -> float:
    """Run the job that ``cfg`` describes; return the last phase's objective for sweepers."""
    from mllmrec.jobs.main import run

    return run(cfg)


def main() -> None:
    """Entry point."""
    with stoppable("mllmrec.train", RESUMABLE):
        from mllmrec.cli import run_app

        run_app(train, "train")


if __name__ == "__main__":
    main()
