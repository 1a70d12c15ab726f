"""Puts a job back into the queue of a cluster once its progress is saved.

Before its time limit, and on pre-emption where Slurm passes it on, a job of submitit receives a signal. By itself submitit puts
the job back at once, in the middle of a step. Here the signal first ends the job as SIGTERM does: with a checkpoint.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from mllmrec.stopping import stopped_by


def requeue_signals() -> tuple[int, ...]:
    """The signals that ask this process to go back into the queue; none if submitit did not start it."""
    if not os.environ.get("SUBMITIT_EXECUTOR"):
        return ()
    name = os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2")  # submitit's own setting and default
    return (int(getattr(signal, f"SIG{name}")),)


@contextmanager
def requeued_when_asked() -> Iterator[None]:
    """If such a signal ended the block, let submitit put the job back; it ends this process, or says why it does not.

    Open the block outside of `watching`, so that the signal has submitit's handler again.
    """
    try:
        yield
    except BaseException:
        stopped = stopped_by()
        if stopped is not None and stopped.number in requeue_signals():
            signal.raise_signal(stopped.number)
        raise
