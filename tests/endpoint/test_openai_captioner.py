from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from mllmrec.captions import caption_items
from mllmrec.captions.openai import OpenAICaptioner
from mllmrec.data.base import Items
from mllmrec.errors import UserError
from mllmrec.reasoners.base import Estimate

COLOURS = {"1": (250, 10, 10), "2": (10, 250, 10), "3": (10, 10, 250)}


@pytest.fixture
def make(server, key):
    def build(**settings) -> OpenAICaptioner:
        return OpenAICaptioner(
            "model", "what is it?", **{"base_url": server.url, "backoff_seconds": 0.01, **settings}
        )

    return build


@pytest.fixture
def items(picture) -> Items:
    images = {item: picture(f"{item}.png", colour) for item, colour in COLOURS.items()}
    ids = np.array([*COLOURS], object)
    return Items(ids, np.full(3, "title", object), np.full(3, "", object), images)


def seen(call) -> str:
    """The item with the colour of the picture in a request."""
    image, text = call.body["messages"][-1]["content"]
    assert text == {"type": "text", "text": "what is it?"}
    data = image["image_url"]["url"].partition(",")[2]
    pixel = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))[5, 5].astype(int)
    return min(COLOURS, key=lambda item: np.abs(pixel - COLOURS[item]).sum())


def test_each_image_gets_its_own_caption(server, make, items, tmp_path, reply, complete):
    # The first comes last.
    server.reply = lambda call: reply(
        complete(f"<think>hm</think>it is\n {seen(call)}"), delay=0.3 if seen(call) == "1" else 0
    )
    captioner = make()
    order = [item for item, _ in captioner.caption_images(items.images.items())]
    assert order[-1] == "1"
    captions, counts = caption_items(captioner, items, tmp_path / "cache")
    assert captions == {"1": "it is 1", "2": "it is 2", "3": "it is 3"}
    assert counts == {"captioned": 3}
    assert captioner.spent.requests == 6


def test_second_start_asks_for_what_is_missing(server, make, items, tmp_path, reply, complete):
    server.reply = lambda call: reply(complete(f"it is {seen(call)}"))
    with pytest.raises(UserError, match="max_requests=2"):
        caption_items(make(max_requests=2, concurrency=1), items, tmp_path / "cache")
    captions, counts = caption_items(make(), items, tmp_path / "cache")
    assert captions == {"1": "it is 1", "2": "it is 2", "3": "it is 3"}
    assert counts == {"captioned": 3, "from_cache": 2}
    assert len(server.calls) == 3


def test_images_without_a_caption_are_counted_by_reason(server, make, items, tmp_path, reply, complete):
    items.images["2"].write_bytes(b"no image")
    server.reply = lambda call: (
        reply({}, status=400) if seen(call) == "3" else reply(complete(f"it is {seen(call)}"))
    )
    captioner = make()
    captions, counts = caption_items(captioner, items, tmp_path / "cache")
    assert captions == {"1": "it is 1"}
    assert counts == {"captioned": 1, "unreadable_image": 1, "without: HTTP 400": 1}
    assert captioner.problems == {"HTTP 400": 1}


def test_estimate_sends_nothing(server, make):
    captioner = make(max_tokens=50, image_tokens=300, price_in=1.0, price_out=2.0)
    # "what is it?" has 11 characters, so 3 tokens: 303 + 2 · 50 millionths each.
    assert captioner.estimate(1000) == Estimate(1000, 303_000, 50_000, pytest.approx(0.403))
    assert server.calls == []


def test_identity_holds_what_makes_the_caption_and_nothing_else(make, key):
    identity = make(extra_body=OmegaConf.create({"seed": 1, "stop": ["."]})).identity()
    assert json.loads(json.dumps(identity)) == {
        "captioner": "openai",
        "version": 1,
        "prompt": "what is it?",
        "model": "model",
        "temperature": 0.0,
        "max_tokens": 200,
        "extra_body": {"seed": 1, "stop": ["."]},
        "image_side": 512,
    }
    same = {"concurrency": 3, "timeout_seconds": 1.0, "attempts": 2, "price_in": 1.0, "price_out": 1.0}
    assert make(**same, base_url="https://other/v1", api_key_env="OTHER").identity() == make().identity()
    assert make(image_side=64).identity() != make().identity()


def test_empty_prompt_is_refused(server):
    with pytest.raises(UserError, match="prompt is empty"):
        OpenAICaptioner("model", " ")
