"""The command ``python -m mllmrec.tune``: runs a search, says how each trial ended, and gives the best settings."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from mllmrec.errors import UserError
from mllmrec.screen.console import make_console, relative, rows_table
from mllmrec.sweeping.command import flag
from mllmrec.sweeping.local import crowded, gpus

USAGE = """\
NAME
  mllmrec.tune - search hyper-parameters with Optuna

SYNOPSIS
  python -m mllmrec.tune search=NAME [trials=N] [jobs=K] [--config-dir DIR] [key=value ...]

DESCRIPTION
  Optuna proposes values, python -m mllmrec.train runs each trial, and the trial's
  NDCG on validation users is what is maximised. Test users are never ranked. A
  trial that ranks held-out users worse than the median of the others at the same
  step is ended early. Started again, the command keeps what has finished, goes on
  with what was running, and runs failed trials again.

SETTINGS
  search=NAME       axes of a file in conf/search
  key=AXIS          an axis: interval(0.0,0.1), tag(log,interval(1e-5,1e-3)),
                    choice(4,8,16), or 4,8,16; quoted for the shell
  key=value         a setting for all trials: method=sasrec, scale=small
  trials=N          trials in all, with those of earlier calls (20)
  jobs=K            trials at a time (1)
  study.KEY=VALUE   seed, sampler and pruner: conf/tune.yaml
  hydra/launcher=slurm  each trial as a Slurm job; =ray as a task of Ray
  hydra.sweep.dir=DIR   another folder for the search

FILES
  searches/NAME[-SCALE]/   the search's folder
    study.db               Optuna's study
    trials.csv             every trial with its values
    best.txt               the best settings as a command
    trial-NNN/             run folder of a trial; output.log is what it printed

EXIT STATUS
  0    all trials ended, and one finished
  1    no trial finished
  2    wrong use, or trials only fail
  130  interrupted, 143 terminated; start it again to continue
"""


def run_command(given: list[str]) -> int:
    """Run the command with the arguments after its name; return its exit status.

    Raises:
        UserError: wrong use, or trials only fail.
    """
    if {"-h", "--help"} & set(given):
        print(USAGE, end="", flush=True)
        return 0
    if find_spec("optuna") is None:
        raise UserError("mllmrec.tune needs optuna: pip install 'mllmrec[tune]'")
    config_dir = flag(given, "--config-dir")
    unknown = [text for text in given if text.startswith("-") or ("=" not in text and text[0] != "~")]
    if unknown:
        raise UserError(f"{unknown[0]}: settings are given as key=value")
    from joblib import cpu_count

    from mllmrec.tuning.plan import plan
    from mllmrec.tuning.results import best_command, rows, write_trials
    from mllmrec.tuning.study import Study

    search = plan(given, config_dir)
    console = make_console()
    jobs = search.settings.jobs
    devices = gpus() if search.here and search.accelerator != "cpu" else []
    console.print(
        f"{len(search.axes)} axes, {search.settings.trials} trials in {relative(search.folder)}, {jobs} at a time; "
        f"maximises {search.metric} of validation users",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    warning = crowded("jobs", jobs, len(devices), cpu_count()) if search.here else None
    if warning:
        console.print(warning, highlight=False, markup=False, soft_wrap=True)

    def tell(trial: Any) -> None:
        console.print(_line(trial, search.metric), highlight=False, markup=False, soft_wrap=True)

    study = Study(search, devices, tell).run()
    table = rows(study, search)
    write_trials(search.folder, study, search)
    console.print(rows_table(f"Trials, best first ({search.metric} of validation users)", *table))
    command = best_command(study, search)
    if command is None:
        console.print("no trial finished", highlight=False)
        return 1
    console.print(
        "The best settings, for a run that ranks test users:", highlight=False, markup=False, soft_wrap=True
    )
    console.print(command, highlight=False, markup=False, soft_wrap=True)
    return 0


def _line(trial: Any, metric: str) -> str:
    values = ", ".join(f"{key}={_short(value)}" for key, value in trial.params.items())
    state = trial.state.name
    if state == "COMPLETE":
        came_out = f"{metric} {trial.value:.4f}"
    elif state == "PRUNED":
        came_out = f"ended early at step {trial.last_step}"
    else:
        came_out = f"failed: {trial.user_attrs.get('error')}"
    return f"trial {trial.number}: {came_out} ({trial.user_attrs.get('seconds', 0):.0f} s): {values}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
