"""Runs a search: Optuna proposes, `mllmrec.train` runs each trial in a process of its own, and the study is on disk.

The study is an SQLite file. A trial has a run folder, so that whatever ends the search, a trial that has finished is never run
again, and one that was running goes on where it was.
"""

from __future__ import annotations

import inspect
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from filelock import FileLock, Timeout
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig

from mllmrec.errors import UserError
from mllmrec.run.folder import RunFolder
from mllmrec.stopping import CHILDREN_SECONDS
from mllmrec.tuning.curve import curve
from mllmrec.tuning.plan import Search
from mllmrec.tuning.process import TrialProcess
from mllmrec.tuning.space import described

POLL_SECONDS = 0.5
FAILURES = 3  # failed trials in a row that end the search
STUDY = "study.db"
_FOLDER, _ERROR, _SECONDS, _AGAIN = (
    "folder",
    "error",
    "seconds",
    "again",
)  # what a trial's user attributes hold

Tell = Callable[[Any], None]


@dataclass
class _Running:
    trial: Any
    process: TrialProcess
    seen: set[int]  # steps that Optuna knows


class Study:
    """A search on disk. One process at a time works in its folder.

    Args:
        search: what is searched.
        devices: values of ``CUDA_VISIBLE_DEVICES``, one for each trial at a time; empty for the CPU.
        tell: called with each trial of Optuna that ended.
    """

    def __init__(self, search: Search, devices: list[str], tell: Tell) -> None:
        self.search, self.devices, self.tell = search, devices, tell
        self._settings: DictConfig = search.settings.study
        self._running: list[_Running] = []
        self._failed_in_a_row = 0
        self._exhausted = False  # whether the sampler has no further values

    def run(self) -> Any:
        """Run what is missing; return Optuna's study.

        Raises:
            UserError: another search runs in the folder, the folder holds another search, or trials only fail.
        """
        self.search.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.search.folder / ".search.lock")
        try:
            held = lock.acquire(timeout=0)
        except Timeout:
            raise UserError(
                f"{self.search.folder}: another search is running here; wait for its end, or set hydra.sweep.dir=DIR"
            ) from None
        with held:
            self.study = self._open()
            try:
                self._work()
            finally:
                self._stop()
        return self.study

    def _open(self) -> Any:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(
            storage=f"sqlite:///{self.search.folder / STUDY}",
            study_name="search",
            direction="maximize",
            load_if_exists=True,
            pruner=_built(self._settings.pruner),
        )
        now = {"axes": dict(described(self.search.axes)), "fixed": sorted(_of_results(self.search.fixed))}
        before = study.user_attrs.get("search", now)
        if before != now:
            raise UserError(
                f"{self.search.folder} holds a search of other axes or settings ({_changes(before, now)}): restore them to go "
                "on, or set hydra.sweep.dir=DIR"
            )
        study.set_user_attr("search", now)
        study.set_user_attr("metric", self.search.metric)
        return study

    def _work(self) -> None:
        left = self._ask_again()
        asked = len(self.study.trials) - len(self._superseded())
        while True:
            while len(self._running) < self.search.settings.jobs and (left or self._more(asked)):
                if left:
                    trial = left.pop(0)
                else:
                    trial = self._ask()
                    asked += 1
                self._start(trial)
            if not self._running and not left and not self._more(asked):
                return
            time.sleep(POLL_SECONDS)
            for running in list(self._running):
                self._follow(running)

    def _more(self, asked: int) -> bool:
        return asked < self.search.settings.trials and not self._exhausted

    def _tell(self, trial: Any, value: float | None = None, state: Any = None) -> None:
        try:
            self.study.tell(trial, value, state)
        except RuntimeError as error:
            # A sampler that has tried everything stops the study, which Optuna allows in its own loop only. The trial is stored.
            if "Study.stop" not in str(error):
                raise
            self._exhausted = True

    def _ask_again(self) -> list[Any]:
        """Trials that an earlier call left running, and new ones in place of those that failed."""
        from optuna.trial import Trial, TrialState

        for frozen in self.study.get_trials(states=(TrialState.RUNNING,)):
            if frozen.params.keys() != {axis.key for axis in self.search.axes}:
                # The earlier call ended while it drew the values.
                self.study.tell(frozen.number, state=TrialState.FAIL)
        superseded = self._superseded()
        for failed in self.study.get_trials(states=(TrialState.FAIL,)):
            if failed.number not in superseded:
                again = {_AGAIN: failed.number, _FOLDER: _folder(failed)}
                self.study.enqueue_trial(failed.params, again)
        waiting = len(self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))
        running = self.study.get_trials(states=(TrialState.RUNNING,))
        left = [Trial(self.study, frozen._trial_id) for frozen in running]
        return left + [self._ask() for _ in range(waiting)]

    def _superseded(self) -> set[int]:
        return {trial.user_attrs[_AGAIN] for trial in self.study.trials if _AGAIN in trial.user_attrs}

    def _ask(self) -> Any:
        """A trial of Optuna. What the sampler draws follows from the seed and the trial's number, after a restart too."""
        seed = self._settings.seed + len(self.study.trials)
        self.study.sampler = _built(self._settings.sampler, seed=seed)
        return self.study.ask({axis.key: axis.distribution for axis in self.search.axes})

    def _start(self, trial: Any) -> None:
        from optuna.trial import TrialState

        same = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        known = next((done for done in same if done.params == trial.params), None)
        if known is not None:
            # The same settings give the same value.
            trial.set_user_attr(_FOLDER, known.user_attrs[_FOLDER])
            self._tell(trial, known.value)
            self.tell(self.study.trials[trial.number])
            return
        name = _folder(trial)
        trial.set_user_attr(_FOLDER, name)
        seen = set(self.study.trials[trial.number].intermediate_values)
        if seen and trial.should_prune():
            # An earlier call ended between the decision and the record of it.
            self._end(trial, None, 0.0, pruned=True)
            return
        overrides = [axis.override(trial.params[axis.key]) for axis in self.search.axes]
        self._running.append(_Running(trial, TrialProcess(self.search, name, overrides, self.devices), seen))

    def _follow(self, running: _Running) -> None:
        trial, process = running.trial, running.process
        ended = process.ended()
        if not process.given_up:
            for step, value in curve(process.folder / "log.csv", self.search.metric).items():
                if step in running.seen:
                    continue
                running.seen.add(step)
                trial.report(value, step)
                if not ended and trial.should_prune():
                    process.give_up()
                    break
        if not ended:
            return
        entry = process.entry()
        killed = entry is None and process.killed and not process.given_up
        if killed and process.starts <= self._settings.retries:
            process.start()
            return
        self._running.remove(running)
        self._end(trial, entry, process.seconds, pruned=process.given_up, told=process.last_words())

    def _end(
        self, trial: Any, entry: dict[str, Any] | None, seconds: float, *, pruned: bool, told: str = ""
    ) -> None:
        from optuna.trial import TrialState

        trial.set_user_attr(_SECONDS, round(trial.user_attrs.get(_SECONDS, 0.0) + seconds, 1))
        value = None if entry is None else entry["objective"]
        if value is not None:
            self._tell(trial, value)
        elif pruned:
            self._tell(trial, state=TrialState.PRUNED)
            shutil.rmtree(RunFolder(self.search.folder / _folder(trial)).resume_path, ignore_errors=True)
        else:
            error = (entry["error"] if entry else told).strip().splitlines() or ["it left no message"]
            trial.set_user_attr(_ERROR, error[0])
            self._tell(trial, state=TrialState.FAIL)
        self._failed_in_a_row = 0 if value is not None or pruned else self._failed_in_a_row + 1
        self.tell(self.study.trials[trial.number])
        if self._failed_in_a_row >= FAILURES:
            raise UserError(
                f"{FAILURES} trials in a row failed, the last: {trial.user_attrs[_ERROR]}; the search has ended. "
                "Start it again once the cause is gone: failed trials are run again"
            )

    def _stop(self) -> None:
        """End the trials that still run, gently; they go on when the search is started again."""
        for running in self._running:
            running.process.terminate()
        for running in self._running:
            running.process.wait(2 * CHILDREN_SECONDS)


def _built(settings: DictConfig, **more: Any) -> Any:
    """A sampler or pruner. Another class than the file's need not know the file's numbers."""
    known = inspect.signature(get_class(settings._target_)).parameters
    ours = ("n_startup_trials", "n_warmup_steps", "seed")
    given: dict[str, Any] = {**more, **{str(key): value for key, value in settings.items()}}
    return instantiate({key: value for key, value in given.items() if key in known or key not in ours})


def _folder(trial: Any) -> str:
    """The name of a trial's run folder, which is that of the failed trial that it runs again."""
    return trial.user_attrs.get(_FOLDER, f"trial-{trial.number:03d}")


def _of_results(fixed: list[str]) -> list[str]:
    """The overrides that can change a trial's result."""
    apart = ("hydra.", "hydra/", "cache_dir=", "logger", "checkpoint.", "warnings.", "run_name=")
    return [text for text in fixed if not text.lstrip("+~").startswith(apart)]


def _changes(before: dict[str, Any], now: dict[str, Any]) -> str:
    texts = [
        {*(f"{key}={value}" for key, value in search["axes"].items()), *search["fixed"]}
        for search in (before, now)
    ]
    gone, new = sorted(texts[0] - texts[1]), sorted(texts[1] - texts[0])
    return "; ".join(
        [*(f"then {json.dumps(text)}" for text in gone), *(f"now {json.dumps(text)}" for text in new)]
    )
