from __future__ import annotations

import json
import traceback

import pytest

from mllmrec.endpoint import Chat
from mllmrec.endpoint.client import Endpoint
from mllmrec.errors import UserError


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (401, {"code": "invalid_api_key"}, "does not accept the key in OPENAI_API_KEY"),
        (403, {}, "does not accept the key in OPENAI_API_KEY"),
        (402, {}, "the key in OPENAI_API_KEY has no credit"),
        (429, {"code": "insufficient_quota"}, "the key in OPENAI_API_KEY has no credit"),
        (429, {"type": "insufficient_quota"}, "the key in OPENAI_API_KEY has no credit"),
    ],
)
def test_key_that_is_refused_ends_the_run_and_is_shown_nowhere(
    server, make_endpoint, chats, reply, complete, key, caplog, status, error, message
):
    caplog.set_level(0)
    server.reply = lambda call: (
        reply(complete("text"))
        if call.text == "0"
        else reply({"error": {**error, "message": f"bad key {key}"}}, status=status)
    )
    endpoint = make_endpoint(concurrency=1)
    answers = []
    with pytest.raises(UserError, match=message) as caught:
        answers.extend(endpoint.complete(chats(50)))
    assert [pair[0] for pair in answers] == ["k0"]
    assert server.texts() == ["0", "1"]
    assert server.calls[0].key == f"Bearer {key}"
    shown = [
        str(caught.value),
        repr(caught.value),
        "".join(traceback.format_exception(caught.value)),
        caplog.text,
        repr(endpoint),
        repr(vars(endpoint)),
        json.dumps(endpoint.identity()),
    ]
    assert not [text for text in shown if key in text]


def test_what_is_under_way_when_the_key_is_refused_is_still_handed_over(
    server, make_endpoint, chats, reply, complete
):
    server.reply = lambda call: (
        reply({}, status=401, delay=0.2) if call.text == "1" else reply(complete("text"), delay=0.5)
    )
    answers = []
    with pytest.raises(UserError, match="401"):
        answers.extend(make_endpoint(concurrency=3).complete(chats(50)))
    assert sorted(key for key, _ in answers) == ["k0", "k2"]
    assert len(server.calls) == 3


def test_refusal_cuts_waits_of_others_short(server, make_endpoint, chats, reply):
    server.reply = lambda call: (
        reply({}, status=401, delay=0.2)
        if call.text == "1"
        else reply({}, status=429, headers={"Retry-After": "60"})
    )
    with pytest.raises(UserError, match="401"):
        list(make_endpoint(concurrency=2).complete(chats(50)))
    assert sorted(server.texts()) == ["0", "1"]


def test_without_a_key_nothing_is_read_or_sent(monkeypatch):
    monkeypatch.delenv("OTHER_KEY", raising=False)
    endpoint = Endpoint("model", base_url="https://nowhere.invalid/v1", api_key_env="OTHER_KEY")
    with pytest.raises(UserError, match=r"OTHER_KEY is not set.*nowhere\.invalid"):
        next(endpoint.complete(iter(lambda: pytest.fail("was read"), None)))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_server_on_this_machine_needs_no_key(server, monkeypatch, host):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    endpoint = Endpoint("model", base_url=server.url.replace("127.0.0.1", host))
    assert [answer.text for _, answer in endpoint.complete([("k", Chat("0"))])] == ["re 0"]
    assert server.calls[0].key == "Bearer no-key-needed"


@pytest.mark.parametrize("value", ["sk-12\n34", "sk-12 34", "sk-ключ"])
def test_value_that_is_no_key_is_not_shown(monkeypatch, value):
    monkeypatch.setenv("OPENAI_API_KEY", value)
    with pytest.raises(UserError, match="OPENAI_API_KEY holds") as caught:
        next(Endpoint("model").complete([("k", Chat("0"))]))
    assert value not in "".join(traceback.format_exception(caught.value))


def test_line_end_behind_a_key_is_no_part_of_it(server, make_endpoint, monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", f"{key}\n")
    list(make_endpoint().complete([("k", Chat("0"))]))
    assert server.calls[0].key == f"Bearer {key}"


@pytest.mark.parametrize(
    "settings",
    [
        {"api_key_env": "sk-0123456789"},
        {"api_key_env": "hf_0123456789"},
        {"base_url": "https://user:secret0123456789@host/v1"},
        {"base_url": "https://host/v1?key=secret0123456789"},
    ],
)
def test_secret_among_the_settings_is_refused_and_not_repeated(settings):
    with pytest.raises(UserError, match=next(iter(settings))) as caught:
        Endpoint("model", **settings)
    assert "0123456789" not in str(caught.value)
