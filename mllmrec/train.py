"""``python -m mllmrec.train``: prepare → the phases of the method → an evaluation after each.

The heavy imports happen inside `train`, so that help and configuration errors answer at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mllmrec.stopping import stoppable

if TYPE_CHECKING:
    from omegaconf import DictConfig


def train(cfg: DictConfig) -> float:
    """Run the job that ``cfg`` describes; return the last phase's objective for sweepers."""
    from mllmrec.jobs.main import run

    return run(cfg)


def main() -> None:
    """Entry point."""
    with stoppable("mllmrec.train"):
        from mllmrec.cli import run_app

        run_app(train, "train")


if __name__ == "__main__":
    main()
