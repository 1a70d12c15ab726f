"""A bounded queue, and the one thread that works on what waits in it, many requests at a time."""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

from mllmrec.serving.settings import Batching

log = logging.getLogger(__name__)

Q = TypeVar("Q")
R = TypeVar("R")


class QueueFullError(Exception):
    """As many requests wait as may wait.

    Args:
        seconds: when to try again.
    """

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds
        super().__init__(f"the queue is full: try again in {seconds} s")


class StoppingError(Exception):
    """The service takes no new requests."""

    def __init__(self) -> None:
        super().__init__("the service is stopping and takes no new requests")


@dataclass(frozen=True)
class Job(Generic[Q, R]):
    """A request and its answer to be."""

    question: Q
    answer: Future[R]


class Batches(Generic[Q, R]):
    """Answers questions in batches, in a thread of its own.

    Each question has a future of its own, so an answer reaches whoever asked for it, however many have gone meanwhile.
    A question whose future was cancelled before its turn is not worked on.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Q]], Sequence[R | Exception]],
        settings: Batching,
        observe: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        """Set up; `start` starts the thread.

        Args:
            work: answers a batch, in order. An exception in the place of an answer is the answer to that question alone.
            settings: how large batches are, and how many questions may wait.
            observe: is told the size and the seconds of each batch.
        """
        self.work, self.settings, self.observe = work, settings, observe
        self.closing = False
        self._waiting: queue.Queue[Job[Q, R] | None] = queue.Queue()
        self._lock = threading.Lock()
        self._open = 0  # accepted and not yet answered
        self._seconds = 0.0  # of the last batch
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def submit(self, question: Q) -> Future[R]:
        """Accept a question.

        Raises:
            QueueFullError: too many wait.
            StoppingError: no new questions are taken.
        """
        with self._lock:
            if self.closing:
                raise StoppingError
            if self._waiting.qsize() >= self.settings.queue:
                batches = math.ceil(self.settings.queue / self.settings.max_batch)
                raise QueueFullError(max(1, math.ceil(batches * self._seconds)))
            job: Job[Q, R] = Job(question, Future())
            self._open += 1
            job.answer.add_done_callback(self._answered)
            self._waiting.put(job)
        return job.answer

    def close(self) -> None:
        """Take no new questions; those that were accepted are still answered."""
        # No lock: a signal may come while this very thread holds it.
        self.closing = True

    def stop(self, seconds: float) -> None:
        """Close, and wait at most so long for the thread to answer what was accepted and end."""
        self.close()
        with self._lock:  # behind everything accepted
            self._waiting.put(None)
        if self._thread.ident is not None:
            self._thread.join(seconds)

    @property
    def waiting(self) -> int:
        """How many questions wait."""
        return self._waiting.qsize()

    @property
    def idle(self) -> bool:
        """Whether everything accepted was answered."""
        return self._open == 0

    @property
    def alive(self) -> bool:
        """Whether the thread works."""
        return self._thread.is_alive()

    def _answered(self, _: Future[R]) -> None:
        # A future runs this once, in the thread that answers or cancels it. None of them holds the lock.
        with self._lock:
            self._open -= 1

    def _run(self) -> None:
        while (first := self._waiting.get()) is not None:
            jobs, ends = self._gathered(first)
            running = [job for job in jobs if job.answer.set_running_or_notify_cancel()]
            if running:
                self._answer(running)
            if ends:
                return

    def _gathered(self, first: Job[Q, R]) -> tuple[list[Job[Q, R]], bool]:
        """The next batch, and whether it is the last one."""
        jobs, until = [first], time.monotonic() + self.settings.max_wait_ms / 1000
        while len(jobs) < self.settings.max_batch:
            try:
                job = self._waiting.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if job is None:
                return jobs, True
            if not job.answer.cancelled():
                jobs.append(job)
        return jobs, False

    def _answer(self, jobs: Sequence[Job[Q, R]]) -> None:
        start = time.perf_counter()
        answers = self._worked_on([job.question for job in jobs])
        self._seconds = time.perf_counter() - start
        self.observe(len(jobs), self._seconds)
        for job, answer in zip(jobs, answers, strict=True):
            if isinstance(answer, Exception):
                job.answer.set_exception(answer)
            else:
                job.answer.set_result(answer)

    def _worked_on(self, questions: Sequence[Q]) -> Sequence[R | Exception]:
        try:
            return self.work(questions)
        except Exception as error:
            if len(questions) == 1:
                log.exception("a request failed")
                return [error]
        # One of them is at fault, or there is too little memory for all at once.
        log.warning("a batch of %d failed and is worked on one by one", len(questions))
        return [answer for question in questions for answer in self._worked_on([question])]
