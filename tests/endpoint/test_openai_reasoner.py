from __future__ import annotations

import dataclasses
import inspect
import pydoc
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mllmrec.config.components import component_faults
from mllmrec.errors import UserError
from mllmrec.reasoners.base import Estimate, Request, Written
from mllmrec.reasoners.openai import OpenAIReasoner

CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.fixture
def make(server, key):
    def build(**settings) -> OpenAIReasoner:
        return OpenAIReasoner("model", **{"base_url": server.url, "backoff_seconds": 0.01, **settings})

    return build


def request(number: int, images: tuple[Path, ...] = ()) -> Request:
    return Request(
        f"s{number}", f"u{number}", (), "", "be brief", f"question {number}", images, leak="target"
    )


def test_each_request_is_paired_with_what_was_written(server, make, reply, complete):
    server.reply = lambda call: reply(
        complete(f"re {call.text}", reasoning_content="hm", usage=(7, 9))
        if call.text != "question 1"
        else {},
        status=400 if call.text == "question 1" else 200,
        delay=0.2 if call.text == "question 0" else 0,
    )
    reasoner = make()
    written = list(reasoner.write(request(number) for number in range(3)))
    assert written[-1][0] == request(0)
    assert dict(written) == {
        request(0): Written("re question 0", "hm", 7, 9),
        request(1): Written("", problem="HTTP 400"),
        request(2): Written("re question 2", "hm", 7, 9),
    }
    assert (reasoner.spent.requests, reasoner.spent.prompt_tokens, reasoner.spent.completion_tokens) == (
        3,
        14,
        18,
    )
    assert all("target" not in str(call.body) for call in server.calls)


@pytest.mark.parametrize("sees_images", [True, False])
def test_images_are_shown_where_asked_for(server, make, picture, sees_images):
    asked = request(0, (picture("a.png"), picture("b.png", "blue")))
    list(make(sees_images=sees_images).write([asked]))
    system, user = server.calls[0].body["messages"]
    assert system == {"role": "system", "content": "be brief"}
    if sees_images:
        kinds = [part["type"] for part in user["content"]]
        assert kinds == ["image_url", "image_url", "text"]
        urls = {part["image_url"]["url"] for part in user["content"][:2]}
        assert len(urls) == 2
    else:
        assert user["content"] == "question 0"


def test_examples_are_turns_before_the_question(server, make):
    list(make().write([dataclasses.replace(request(0), examples=(("a lamp", "red"),))]))
    assert server.calls[0].body["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "a lamp"},
        {"role": "assistant", "content": "red"},
        {"role": "user", "content": "question 0"},
    ]


def test_closing_stops_asking(server, make):
    read = []
    texts = make(concurrency=2).write(read.append(n) or request(n) for n in range(50))
    next(texts)
    texts.close()
    assert read == [0, 1]
    assert len(server.calls) <= 2


def test_budget_ends_the_writing_with_all_that_was_paid_for(make):
    written = []
    with pytest.raises(UserError, match="max_requests=4"):
        written.extend(make(max_requests=4).write(map(request, range(9))))
    # If a generator raises, the list that it extends keeps what came before the error.
    assert len(written) == 4


def test_estimate(make):
    # 2 + 3 tokens for "be brief" and "question n", at most 10 for the answer; images count if they are shown.
    asked = [request(n, (Path("a.png"),)) for n in range(4)]
    assert make(max_tokens=10).estimate(asked) == Estimate(4, 20, 40, None)
    assert make(max_tokens=10, sees_images=True, image_tokens=100).estimate(asked).prompt_tokens == 420


def test_identity_depends_on_what_the_model_sees(make):
    assert make().identity() == make(image_side=64, concurrency=1, max_money=None).identity()
    assert make(sees_images=True).identity() != make().identity()
    assert make(sees_images=True).identity() != make(sees_images=True, image_side=64).identity()
    for change in ({"temperature": None}, {"max_tokens": 1}, {"extra_body": {"seed": 1}}):
        assert make(**change).identity() != make().identity()


@pytest.mark.parametrize("name", ["caption", "draft", "refine"])
def test_settings_files_fit_the_classes(name):
    settings = OmegaConf.to_container(OmegaConf.load(CONF / name / "openai.yaml"))
    assert settings["model"] == "???"
    settings["model"] = "model"
    assert component_faults({name: settings}) == []
    (fault,) = component_faults({name: {**settings, "max_money": 1.0}})
    assert fault == f"{name}: max_money=1.0 needs prices: give price_in and price_out"
    (fault,) = component_faults({name: {**settings, "concurency": 1}})
    assert "concurrency" in fault
    # The file has every parameter of the class.
    assert set(settings) == {"_target_", *inspect.signature(pydoc.locate(settings["_target_"])).parameters}
