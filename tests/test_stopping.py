"""Real processes and real signals: how a process ends, wherever the signal reaches it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals as on Unix")

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
WORDS = {
    signal.SIGINT: "interrupted (Ctrl-C)",
    signal.SIGTERM: "terminated (SIGTERM)",
    signal.SIGHUP: "SIGHUP",
}
# The place where a test wants its signal: the process reports that it is there, and stays long.
HERE = "import pathlib, time\ndef here():\n    pathlib.Path('here').touch()\n    time.sleep(120)\n"
SMALL = "seed: 0\nhydra: {run: {dir: out}, sweep: {dir: sweep, subdir: '${seed}'}}\n"
JOB = """
from mllmrec.cli import run_app

def work(cfg):
    from here import here
    {body}

if __name__ == "__main__":
    run_app(work, "train")
"""
LIGHTNING = """
    import lightning, torch
    class Module(lightning.LightningModule):
        def training_step(self, batch, index):
            here()
        def configure_optimizers(self):
            return None
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False,
                                enable_progress_bar=False, enable_model_summary=False)
    trainer.fit(Module(), torch.utils.data.DataLoader([1.0, 2.0]))
"""
SWALLOWED = """
    try:
        here()
    except:
        pass
    from mllmrec.screen.progress import track
    for _ in track(range(600), "going on"):
        import time; time.sleep(0.1)
"""
DROPPED = """
    class Closing:
        def __del__(self):
            here()
    Closing()
    import time; time.sleep(60)
"""
THREAD = """
    import time
    from concurrent.futures import ThreadPoolExecutor
    pool = ThreadPoolExecutor()
    pool.submit(time.sleep, 60)
    try:
        here()
    finally:
        pool.shutdown(wait=False)
"""
# Parts of a real run that stay long at the place where a test wants its signal.
PARTS = """
import os, time
from here import here
from mllmrec.baselines.popularity import Popularity
from mllmrec.rewards.hit_format import HitFormat
from mllmrec.data.synthetic import Synthetic
from mllmrec.run.loggers import RunLoggers

class SlowDataset(Synthetic):
    def load(self):
        here()

class Told(RunLoggers):
    def close(self, failed=False):
        open("closed", "w").write(f"failed: {failed}")

class SlowFit(Popularity):
    def fit(self, inputs):
        here()

class SlowScores(Popularity):
    def scores(self, histories, candidates):
        here()

class SlowReward(HitFormat):
    def __call__(self, *arguments, **settings):
        # The call on a toy batch comes before the run has a folder; those of the phase come after the warm-up.
        if os.path.exists("run/metrics.json"):
            here()
        return super().__call__(*arguments, **settings)

class OnceSlowReward(HitFormat):
    def __call__(self, *arguments, **settings):
        if os.path.exists("run/metrics.json") and not os.path.exists("here"):
            open("here", "w")
            time.sleep(2)
        return super().__call__(*arguments, **settings)
"""
RUN = [
    "-m", "mllmrec.train", "hydra.run.dir=run", "dataset.num_users=40", "dataset.num_items=30", "caption=none",
    "cot_policy=none", "trainer=cpu", "heldout.users=0", "logger=none", "logger._target_=parts.Told",
]  # fmt: skip
CLASSICAL = [*RUN, "method=popularity"]
Run = Callable[..., "tuple[int, str]"]


@pytest.fixture
def signalled(tmp_path: Path) -> Run:
    """Start Python in ``tmp_path`` and signal it when it is ``here``; return its exit status and standard error."""
    (tmp_path / "here.py").write_text(HERE)
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "small.yaml").write_text(SMALL)

    def run(command: Sequence[str], *signals: int, pause: float = 0.0) -> tuple[int, str]:
        path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path, "MLLMREC_CACHE": "cache"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # A shell makes its background jobs, and so perhaps these tests, ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            deadline = time.monotonic() + 120
            while not (tmp_path / "here").exists():
                assert process.poll() is None, process.communicate()[1]
                assert time.monotonic() < deadline
                time.sleep(0.02)
            for number in signals:
                process.send_signal(number)
                time.sleep(pause)
            _, errors = process.communicate(timeout=60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        return process.returncode, errors

    return run


@pytest.fixture
def small(tmp_path: Path, signalled: Run) -> Run:
    """``small(body, *signals)``: a job of that body, on a configuration of one value."""

    def run(body: str, *signals: int, pause: float = 0.0, flags: Sequence[str] = ()) -> tuple[int, str]:
        (tmp_path / "job.py").write_text(JOB.replace("{body}", body.strip()))
        config = ["--config-path", str(tmp_path / "conf"), "--config-name", "small"]
        return signalled(["job.py", *config, *flags], *signals, pause=pause)

    return run


def one_line(errors: str, number: int) -> None:
    assert errors.count("\n") == 1, errors
    assert errors.startswith("mllmrec.")
    assert WORDS[number] in errors


@pytest.mark.parametrize("number", STATUS)
def test_a_signal_ends_a_job_with_its_status_and_one_line(small: Run, number: int) -> None:
    status, errors = small("here()", number)
    assert status == STATUS[number]
    one_line(errors, number)
    assert errors.startswith("mllmrec.train: ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_lightning_does_not_turn_a_signal_into_another_ending(small: Run, number: int) -> None:
    status, errors = small(LIGHTNING, number)
    assert status == STATUS[number], errors
    assert WORDS[number] in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("body", [SWALLOWED, DROPPED, THREAD])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_neither_libraries_nor_threads_keep_a_job_from_ending(small: Run, body: str, number: int) -> None:
    started = time.monotonic()
    status, errors = small(body, number)
    assert status == STATUS[number], errors
    one_line(errors, number)
    assert time.monotonic() - started < 30


def test_signals_at_once_are_one(small: Run) -> None:
    slow = "try:\n        here()\n    finally:\n        import time; time.sleep({})"
    status, errors = small(slow.format(1), *[signal.SIGTERM] * 3, pause=0.1)
    assert status == 143
    one_line(errors, signal.SIGTERM)


def test_a_second_signal_later_does_not_wait_for_the_clean_up(small: Run) -> None:
    slow = "try:\n        here()\n    finally:\n        import time; time.sleep(60)"
    status, errors = small(slow, signal.SIGINT, signal.SIGINT, pause=1.5)
    assert status == 130
    assert errors == "interrupted (Ctrl-C), and again: ended at once\n"


def test_what_nohup_ignores_stays_ignored(tmp_path: Path, small: Run) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    )
    status, errors = small("here()", signal.SIGHUP, signal.SIGTERM, pause=0.5)
    assert status == 143
    one_line(errors, signal.SIGTERM)


@pytest.mark.parametrize(
    "command",
    ["train", "build_cot", "evaluate", "recommend", "serve", "explore", "reproduce", "report", "sweep"],
)
def test_ctrl_c_during_the_first_import_of_a_command(tmp_path: Path, signalled: Run, command: str) -> None:
    # The first library with a slow import.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Slow:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('hydra', 'omegaconf', 'rich'):\n"
        "            from here import here\n"
        "            here()\n"
        "sys.meta_path.insert(0, Slow())\n"
    )
    status, errors = signalled(["-m", f"mllmrec.{command}"], signal.SIGINT)
    assert status == 130, errors
    one_line(errors, signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_no_fault_of_the_configuration(tmp_path: Path, signalled: Run, number: int) -> None:
    # The check imports components, which takes seconds; a user may interrupt it.
    (tmp_path / "slow.py").write_text("from here import here\nhere()\n")
    status, errors = signalled(["-m", "mllmrec.train", "reward._target_=slow.Reward"], number)
    assert status == STATUS[number], errors
    one_line(errors, number)
    assert not (tmp_path / "outputs").exists()


GRPO = [*RUN, "debug=fast", "method=grpo_only"]
STAGE = [*GRPO, "reward._target_=parts.SlowReward", "checkpoint.grace=0"]


@pytest.mark.parametrize(
    ("number", "command"),
    [
        pytest.param(2, [*CLASSICAL, "dataset._target_=parts.SlowDataset"], id="preparation"),
        pytest.param(15, [*CLASSICAL, "method.recommender._target_=parts.SlowFit"], id="fit"),
        pytest.param(2, [*CLASSICAL, "method.recommender._target_=parts.SlowScores"], id="evaluation"),
        pytest.param(2, STAGE, id="stage"),
    ],
)
def test_a_stopped_run_is_marked_failed_and_its_loggers_are_closed(
    tmp_path: Path, signalled: Run, command: list[str], number: int
) -> None:
    (tmp_path / "parts.py").write_text(PARTS)
    status, errors = signalled(command, number)
    assert status == STATUS[number], errors
    one_line(errors, number)
    failed = json.loads((tmp_path / "run" / "failed.json").read_text())
    assert WORDS[number] in failed["error"]
    assert not (tmp_path / "run" / "finished.json").exists()
    assert (tmp_path / "closed").read_text() == "failed: True"


def test_a_stopped_phase_saves_its_step_and_goes_on(tmp_path: Path, signalled: Run) -> None:
    (tmp_path / "parts.py").write_text(PARTS)
    command = [*GRPO, "reward._target_=parts.OnceSlowReward", "resume=auto"]
    status, errors = signalled(command, signal.SIGTERM)
    assert status == STATUS[signal.SIGTERM], errors
    one_line(errors, signal.SIGTERM)
    saved = tmp_path / "run" / "resume" / "grpo"
    assert [path.name for path in sorted(saved.iterdir())] == ["step-000000001.ckpt", "step-000000001.json"]
    status, errors = signalled(command)
    assert status == 0, errors
    log = (tmp_path / "run" / "run.log").read_text()
    assert "grpo: goes on at step 1" in log
    assert not saved.exists()


# A sweep stops its processes in the same way whatever the signal.
@pytest.mark.parametrize(("jobs", "number"), [(1, signal.SIGINT), (2, signal.SIGTERM)])
def test_a_stopped_sweep_stops_its_jobs_and_they_say_so(
    tmp_path: Path, signalled: Run, jobs: int, number: int
) -> None:
    (tmp_path / "parts.py").write_text(PARTS)
    (tmp_path / "extra" / "experiment").mkdir(parents=True)
    (tmp_path / "extra" / "experiment" / "slow.yaml").write_text(
        "# @package _global_\nhydra: {sweeper: {params: {seed: '0,1'}}}\n"
    )
    settings = [text for text in CLASSICAL[2:] if not text.startswith("hydra.")]
    command = ["-m", "mllmrec.sweep", "slow", f"jobs={jobs}", "--config-dir", "extra", *settings]
    status, errors = signalled([*command, "method.recommender._target_=parts.SlowFit"], number, pause=0.5)
    assert status == STATUS[number], errors
    one_line(errors, number)
    assert errors.startswith("mllmrec.sweep: ")
    failed = sorted((tmp_path / "sweeps" / "slow").glob("*/failed.json"))
    assert 1 <= len(failed) <= jobs
    for path in failed:
        assert "Stopped: " in json.loads(path.read_text())["error"]
