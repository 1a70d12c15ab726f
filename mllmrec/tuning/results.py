"""What a search found: a table of its trials, and the best settings as a command."""

from __future__ import annotations

import csv
import io
import shlex
from pathlib import Path
from typing import Any

from mllmrec.cache import atomic_path
from mllmrec.config.typed import typed
from mllmrec.sweeping.jobs import ROOT
from mllmrec.tuning.plan import Search

SHOWN = 20  # trials on the screen
_STATES = {"COMPLETE": "finished", "PRUNED": "ended early", "FAIL": "failed"}


def rows(study: Any, search: Search) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """Head and rows of the best trials, for the screen."""
    head = ("trial", search.metric, "state", *(axis.key for axis in search.axes))
    table = [
        (
            trial.number,
            f"{trial.value:.4f}" if _finished(trial) else "",
            _STATES.get(trial.state.name, trial.state.name.lower()),
            *(_short(trial.params.get(axis.key, "")) for axis in search.axes),
        )
        for trial in _sorted(study)[:SHOWN]
    ]
    return head, table


def write_trials(folder: Path, study: Any, search: Search) -> None:
    """Write `trials.csv`, every trial with all its digits, and `best.txt`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    keys = [axis.key for axis in search.axes]
    writer.writerow(["trial", "state", search.metric, "last_step", "seconds", "folder", "error", *keys])
    for trial in study.trials:
        kept = trial.user_attrs
        writer.writerow(
            [
                trial.number,
                _STATES.get(trial.state.name, trial.state.name.lower()),
                trial.value if _finished(trial) else "",
                "" if trial.last_step is None else trial.last_step,
                *(kept.get(name, "") for name in ("seconds", "folder", "error")),
                *(trial.params.get(key, "") for key in keys),
            ]
        )
    files = {"trials.csv": text.getvalue(), "best.txt": (best_command(study, search) or "") + "\n"}
    for name, content in files.items():
        with atomic_path(folder / name) as temporary:
            temporary.write_text(content, encoding="utf-8")


def best_command(study: Any, search: Search) -> str | None:
    """The command that trains with the best settings and ranks test users; None if no trial finished."""
    done = [trial for trial in _sorted(study) if _finished(trial)]
    if not done:
        return None
    fixed = [text for text in search.fixed if not text.startswith(("hydra.", "hydra/"))]
    best = [typed(axis.key, done[0].params[axis.key]) for axis in search.axes]
    return " ".join(["python", "-m", f"mllmrec.{ROOT}", *map(shlex.quote, fixed), *best])


def _sorted(study: Any) -> list[Any]:
    """Finished trials first, the best of them at the top; of equal ones the earlier."""
    found = [trial for trial in study.trials if trial.state.is_finished()]
    finished = [trial for trial in found if _finished(trial)]
    others = [trial for trial in found if not _finished(trial)]
    return sorted(finished, key=lambda trial: (-trial.value, trial.number)) + others


def _finished(trial: Any) -> bool:
    """Whether the trial has a value of its own. Optuna gives one that ended early its last measure."""
    return trial.state.name == "COMPLETE"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
