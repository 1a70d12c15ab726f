from __future__ import annotations

import socket
import time

import pytest

from mllmrec.endpoint import Answer, Chat
from mllmrec.endpoint.client import Endpoint
from mllmrec.errors import UserError


def test_answers_come_as_they_finish_and_belong_to_their_requests(
    server, make_endpoint, chats, reply, complete
):
    # 0 is slow and holds one of the two places, so all the others come first.
    server.reply = lambda call: reply(complete(f"re {call.text}"), delay=0.4 if call.text == "0" else 0)
    answers = list(make_endpoint(concurrency=2).complete(chats(6)))
    assert [key for key, _ in answers] == ["k1", "k2", "k3", "k4", "k5", "k0"]
    assert {key: answer.text for key, answer in answers} == {f"k{n}": f"re {n}" for n in range(6)}


def test_of_finished_answers_the_oldest_comes_first(make_endpoint, chats):
    keys = []
    for key, _ in make_endpoint(concurrency=3).complete(chats(7)):
        keys.append(key)
        time.sleep(0.2)  # by the next step, all requests under way are finished
    assert keys[1:] == sorted(keys[1:])


def test_no_more_than_concurrency_at_once(server, make_endpoint, chats, reply, complete):
    server.reply = lambda call: reply(complete("text"), delay=0.05)
    assert len(list(make_endpoint(concurrency=3).complete(chats(12)))) == 12
    assert server.most_at_once == 3


def test_nothing_is_asked_or_read_while_an_answer_is_being_written_down(server, make_endpoint, chats):
    read = []
    source = (read.append(chat) or chat for chat in chats(10))
    answers = make_endpoint(concurrency=3).complete(source)
    for taken in range(1, 4):
        next(answers)
        server.wait_for(taken + 2)
        time.sleep(0.1)
        # All of these have been yielded and written, except the 3 that may be lost.
        assert len(server.calls) == len(read) == taken + 2
    answers.close()


def test_nothing_is_sent_once_the_generator_is_closed(server, make_endpoint, chats, reply, complete):
    server.reply = lambda call: (
        reply(complete("text"), delay=0.2) if call.text == "0" else reply({}, status=500)
    )
    answers = make_endpoint(concurrency=2, backoff_seconds=0.3).complete(chats(10))
    assert next(answers)[0] == "k0"
    answers.close()
    # The second try of 1 was due after 0.3 to 0.6 s.
    time.sleep(0.8)
    assert server.texts() in (["0", "1"], ["1", "0"])


def test_request_fields(server, make_endpoint):
    endpoint = make_endpoint(temperature=0.5, max_tokens=7, extra_body={"top_p": 0.9})
    list(endpoint.complete([("k", Chat("question", system="be brief"))]))
    assert server.calls[0].body == {
        "model": "model",
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "question"},
        ],
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
    }


def test_openai_gets_its_own_name_of_the_limit_and_no_temperature_that_is_not_set():
    body = Endpoint("model", max_tokens=7).body(Chat("question"))
    assert (body["max_completion_tokens"], "max_tokens" in body, "temperature" in body) == (7, False, False)
    body = Endpoint("model", base_url="https://notopenai.com/v1", max_tokens=7).body(Chat("question"))
    assert (body["max_tokens"], "max_completion_tokens" in body) == (7, False)


def test_unreadable_image_is_a_problem_and_is_not_sent(server, make_endpoint, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    asked = [("k", Chat("a", images=(tmp_path / "broken.png",))), ("l", Chat("b"))]
    answers = dict(make_endpoint().complete(asked))
    assert answers == {
        "k": Answer(problem="unreadable image"),
        "l": Answer("re b", prompt_tokens=1, completion_tokens=4),
    }
    assert server.texts() == ["b"]


def test_server_that_is_not_there_ends_the_run(key, chats):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        endpoint = Endpoint(
            "model", base_url=f"http://127.0.0.1:{port}/v1", attempts=2, backoff_seconds=0.01, concurrency=2
        )
        answers = []
        with pytest.raises(
            UserError, match=rf"127.0.0.1:{port}.*8 requests in a row.*no connection.*start again"
        ):
            answers.extend(endpoint.complete(chats(100)))
    assert endpoint.budget.spent.completion_tokens == 0


def test_server_that_goes_away_takes_no_finished_answer_along(server, make_endpoint, chats, reply, complete):
    server.reply = lambda call: reply(complete("text"), cut=int(call.text) >= 5)
    answers = []
    with pytest.raises(UserError, match="8 requests in a row"):
        answers.extend(make_endpoint(attempts=1, concurrency=1).complete(chats(100)))
    assert sorted(key for key, answer in answers if answer.text) == ["k0", "k1", "k2", "k3", "k4"]
    assert {answer.problem for _, answer in answers if not answer.text} == {"no answer (no connection)"}
    assert len(server.calls) == 5 + 8


def test_failures_between_answers_do_not_end_the_run(server, make_endpoint, chats, reply, complete):
    # 20 of 40 fail, never 8 in a row.
    server.reply = lambda call: reply(complete("text"), status=500 if int(call.text) % 2 else 200)
    answers = dict(make_endpoint(attempts=1, concurrency=1).complete(chats(40)))
    assert sum(answer.problem == "no answer (HTTP 500)" for answer in answers.values()) == 20


def test_model_that_the_server_does_not_have_ends_the_run(server, make_endpoint, chats, reply):
    server.reply = lambda call: reply({"error": {"message": "?", "code": "model_not_found"}}, status=404)
    with pytest.raises(UserError, match=r"HTTP 404: model_not_found.*has the model model"):
        list(make_endpoint(concurrency=1).complete(chats(100)))
    assert len(server.calls) == 8


def test_defect_in_the_source_of_chats_is_not_hidden(make_endpoint):
    def source():
        yield "k", Chat("0")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(make_endpoint(concurrency=1).complete(source()))


@pytest.mark.parametrize(
    "settings",
    [
        {"concurrency": 0},
        {"attempts": 0},
        {"max_tokens": 0},
        {"image_side": 0},
        {"image_tokens": -1},
        {"timeout_seconds": 0.0},
        {"backoff_seconds": -1.0},
        {"temperature": -0.1},
        {"extra_body": {"stream": True}},
        {"base_url": "localhost:8000/v1"},
    ],
)
def test_settings_that_make_no_sense_are_named(settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        Endpoint("model", **settings)
