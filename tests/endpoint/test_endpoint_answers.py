from __future__ import annotations

import pytest

from mllmrec.endpoint import Answer, Chat
from mllmrec.endpoint.answers import split_thought


@pytest.fixture
def ask(server, make_endpoint, reply):
    """The answer to a completion that the server sends."""

    def one(body: dict) -> Answer:
        server.reply = lambda call: reply(body)
        return dict(make_endpoint().complete([("k", Chat("0"))]))["k"]

    return one


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_field_of_reasoning_is_kept_apart(ask, complete, name):
    answer = ask(complete(" text\n", usage=(3, 9), **{name: "first this\n"}))
    assert answer == Answer("text", "first this", 3, 9)


def test_thought_in_the_content_is_kept_apart(ask, complete):
    answer = ask(complete("<think>\nfirst this\n</think>\n\ntext"))
    assert (answer.text, answer.reasoning) == ("text", "first this")


def test_field_and_thought_are_joined(ask, complete):
    assert ask(complete("<think>b</think>text", reasoning_content="a")).reasoning == "a\nb"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("text", ("text", "")),
        ("  <think>a</think> b <think>c</think> d", ("b <think>c</think> d", "a")),
        ("<think></think>b", ("b", "")),
        ("a</think>b", ("b", "a")),  # the prompt ended with the opening tag
        ("<think>a", ("", "a")),
        ("b <think> c", ("b <think> c", "")),
        ("", ("", "")),
    ],
)
def test_split_thought(content, expected):
    assert split_thought(content) == expected


@pytest.mark.parametrize(
    ("completion", "problem", "reasoning"),
    [
        ({"text": "", "finish": "length"}, "cut off at max_tokens", ""),
        (
            {"text": None, "finish": "length", "reasoning_content": "on and"},
            "cut off at max_tokens",
            "on and",
        ),
        ({"text": "<think>on and", "finish": "length"}, "cut off at max_tokens", "on and"),
        ({"text": "half a", "finish": "content_filter"}, "content filter", ""),
        ({"text": None, "refusal": "I will not"}, "refused by the model", ""),
        ({"text": " \n"}, "empty answer", ""),
    ],
)
def test_answer_without_text_says_why_and_is_paid_for(ask, complete, completion, problem, reasoning):
    assert ask(complete(**completion)) == Answer("", reasoning, 1, 4, problem)


def test_text_that_was_cut_off_is_kept(ask, complete):
    assert ask(complete("half a sen", finish="length")) == Answer("half a sen", "", 1, 4)
