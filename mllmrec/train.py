"""``python -m mllmrec.train``: prepare → the stages of the method → an evaluation after each.

The heavy imports happen inside `train`, so that help and configuration errors answer at once.
"""

from __future__ import annotations

from omegaconf import DictConfig

from mllmrec.cli import run_app


def train(cfg: DictConfig) -> float:
    """Run the job that ``cfg`` describes; returns the last stage's objective for sweepers."""
    from mllmrec.pipeline import run

    return run(cfg)


def main() -> None:
    """Entry point."""
    run_app(train, "train")


if __name__ == "__main__":
    main()
