"""``python -m mllmrec.reproduce run=DIR out=DIR2``: runs a finished run again, and says whether its results agree.

The exit status is 0 if all are equal and 1 if any differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mllmrec.stopping import stoppable

if TYPE_CHECKING:
    from omegaconf import DictConfig

DIFFERENT = 1  # exit status


def reproduce(cfg: DictConfig) -> None:
    """Run again, compare and print; leaves with status 1 if anything differs."""
    from pathlib import Path

    from mllmrec.config.trust import trusted
    from mllmrec.errors import UserError
    from mllmrec.jobs.compared_runs import compared_runs
    from mllmrec.jobs.reproduction import finished_run, refuse_other_settings, run_again, typed_for
    from mllmrec.run.environment import environment_differences, read_environment
    from mllmrec.screen.console import make_console, relative, rows_table

    run, out = finished_run(cfg.run, "run"), Path(cfg.out)
    if out.exists() and out.samefile(run.path):
        raise UserError(f"out={cfg.out} is the run itself: choose another folder")
    if cfg.threads is not None and (not isinstance(cfg.threads, int) or cfg.threads < 1):
        raise UserError(
            f"threads={cfg.threads}: must be a whole number from 1, or null for as many as the run had"
        )
    trust = trusted(cfg.trust)
    typed = typed_for(run, cfg.more, trust)
    refuse_other_settings(run, typed, trust)
    before = read_environment(run.environment_path)
    if cfg.rerun:
        if (out / "finished.json").is_file():
            raise UserError(
                f"out={cfg.out} holds a finished run: choose another folder, or compare: rerun=false"
            )
        run_again(typed, out, cfg.threads or (before or {}).get("threads"))
    again = finished_run(cfg.out, "out")
    console = make_console()
    results = compared_runs(run, again)
    rows = [(one.what, one.values, one.result, one.where) for one in results]
    console.print(rows_table(f"{relative(run.path)} again", ("what", "values", "result", "largest"), rows))
    apart = environment_differences(before, read_environment(again.environment_path))
    if apart:
        console.print(rows_table("Environments that differ", ("what", "the run", "again"), apart))
    elif before is None:
        console.print(f"{relative(run.path)} has no environment.json: its versions and machine are unknown")
    else:
        console.print("The environments are equal: versions, commit, hardware, threads", highlight=False)
    if any(one.differing for one in results):
        raise SystemExit(DIFFERENT)


def main() -> None:
    """Entry point."""
    with stoppable("mllmrec.reproduce"):
        from mllmrec.cli import run_app

        run_app(reproduce, "reproduce")


if __name__ == "__main__":
    main()
