"""A bounded queue whose thread works on many questions at a time."""

from __future__ import annotations

import threading

import pytest

from mllmrec.serving.batches import Batches, QueueFullError, StoppingError
from mllmrec.serving.settings import Batching


@pytest.fixture
def make():
    """Batches that give ten times a question; a 0 fails the batch it is in, and 7 alone is answered by an exception."""
    made = []

    def work(questions):
        made[-1].sizes.append(len(questions))
        if 0 in questions:
            raise ZeroDivisionError
        return [KeyError(7) if question == 7 else 10 * question for question in questions]

    def build(**settings):
        batches = Batches(work, Batching(**settings))
        batches.sizes = []
        made.append(batches)
        return batches

    yield build
    for batches in made:
        batches.stop(5)


def test_a_batch_takes_what_waits_up_to_its_size(make):
    batches = make(max_batch=3, max_wait_ms=0)
    answers = [batches.submit(number) for number in range(1, 6)]
    batches.start()
    assert [answer.result(5) for answer in answers] == [10, 20, 30, 40, 50]
    assert batches.sizes == [3, 2]
    assert batches.idle


def test_the_first_of_a_batch_waits_for_others(make):
    batches = make(max_batch=2, max_wait_ms=5000)
    batches.start()
    first = batches.submit(1)
    later = threading.Timer(0.05, batches.submit, [2])
    later.start()
    assert first.result(2) == 10  # a full batch does not wait on
    assert batches.sizes == [2]


def test_a_question_that_fails_fails_alone(make):
    batches = make(max_batch=4)
    answers = [batches.submit(number) for number in (1, 0, 7, 2)]
    batches.start()
    assert [answers[0].result(5), answers[3].result(5)] == [10, 20]
    with pytest.raises(ZeroDivisionError):
        answers[1].result(5)
    with pytest.raises(KeyError):
        answers[2].result(5)
    assert batches.sizes == [4, 1, 1, 1, 1]
    assert batches.submit(3).result(5) == 30


def test_no_more_wait_than_may(make):
    batches = make(max_batch=1, queue=2)
    waiting = [batches.submit(1), batches.submit(2)]
    with pytest.raises(QueueFullError, match="try again in 1 s"):
        batches.submit(3)
    batches.start()
    assert [answer.result(5) for answer in waiting] == [10, 20]


def test_a_cancelled_question_is_not_worked_on(make):
    batches = make(max_batch=2, max_wait_ms=0)
    answers = [batches.submit(number) for number in (1, 2, 3)]
    assert answers[1].cancel()
    assert not batches.idle
    batches.start()
    assert answers[2].result(5) == 30
    assert sum(batches.sizes) == 2
    assert batches.idle


def test_stopping_answers_what_was_accepted_and_takes_nothing_new(make):
    batches = make(max_batch=1, max_wait_ms=0)
    answers = [batches.submit(number) for number in (1, 2)]
    batches.close()
    with pytest.raises(StoppingError):
        batches.submit(3)
    batches.start()
    batches.stop(5)
    assert not batches.alive
    assert [answer.result(0) for answer in answers] == [10, 20]
