from __future__ import annotations

import logging

import pytest
from PIL import Image

from mllmrec.reasoners.base import Written
from mllmrec.reasoners.hf import HfReasoner
from mllmrec.reasoners.hf_model import HfModel, read_picture


def written_by(path, requests, **settings):
    settings = {"sees_images": True, "dtype": "float32", "device": "cpu", "max_new_tokens": 10, **settings}
    pairs = list(HfReasoner(path, **settings).write(iter(requests)))
    assert sorted(request.sample_id for request, _ in pairs) == sorted(
        request.sample_id for request in requests
    )
    return {request.sample_id: written for request, written in pairs}


@pytest.fixture
def requests(ask, pictures):
    """Requests with one, two, four and no images, and with texts of different lengths."""
    return [
        ask("one", "red", pictures[:1]),
        ask("two", "blue lamp " * 3, pictures[1:3], system="chair"),
        ask("none", "star"),
        ask("all", "again", pictures),
        ask("other", "red", pictures[3:]),
    ]


@pytest.mark.parametrize("decoding", [{}, {"temperature": 1.0}], ids=["greedy", "sampled"])
def test_batches_write_what_single_requests_are_answered(vision_model, requests, decoding):
    alone = written_by(vision_model, requests, batch_size=1, **decoding)
    assert not any(written.problem for written in alone.values())
    for order in (requests, requests[::-1]):
        assert written_by(vision_model, order, batch_size=3, **decoding) == alone


def test_prompts_with_and_without_images_do_not_share_a_batch(vision_model, requests, ask, monkeypatch):
    batches, generate = [], HfModel._generate

    def noted(self, batch):
        batches.append(sorted(prompt.request.sample_id for prompt in batch))
        return generate(self, batch)

    monkeypatch.setattr(HfModel, "_generate", noted)
    written_by(vision_model, [*requests, ask("bare", "red")], batch_size=5)
    assert batches == [["all", "one", "other", "two"], ["bare", "none"]]


def test_every_image_counts_and_so_does_their_order(vision_model, ask, pictures):
    red, blue = pictures[:2]
    asked = {"rb": [red, blue], "br": [blue, red], "rr": [red, red], "r": [red], "": []}
    written = written_by(vision_model, [ask(name, "star", images) for name, images in asked.items()])
    assert len({one.text for one in written.values()}) == len(asked)


def test_an_unreadable_image_is_a_problem_and_the_others_go_on(
    vision_model, requests, ask, pictures, tmp_path
):
    (tmp_path / "torn.png").write_bytes(pictures[0].read_bytes()[:40])
    broken = [
        ask("torn", "red", [pictures[0], tmp_path / "torn.png"]),
        ask("gone", "red", [tmp_path / "gone.png"]),
    ]
    written = written_by(vision_model, [broken[0], *requests, broken[1]], batch_size=7)
    assert written.pop("torn") == written.pop("gone") == Written("", problem="unreadable image")
    assert written == written_by(vision_model, requests, batch_size=1)


def test_images_that_the_processor_refuses_are_a_problem_and_the_others_go_on(
    vision_model, ask, pictures, tmp_path, caplog
):
    line = tmp_path / "line.png"
    Image.new("RGB", (500, 1)).save(line)
    requests = [ask("line", "red", [line]), ask("one", "red", pictures[:1]), ask("two", "red", pictures[1:2])]
    written = written_by(vision_model, requests)
    good = written_by(vision_model, requests[1:], batch_size=1)
    assert {name: written[name] for name in ("one", "two")} == good
    # Qwen refuses an image 200 times as long as wide; LLaVA may take it.
    refused = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    if "qwen3_vl" in vision_model:
        assert written["line"] == Written("", problem="refused by the processor")
        assert any(message.startswith("line: ") and "aspect ratio" in message for message in refused)


def test_a_text_cannot_ask_for_images(vision_model, ask, pictures):
    written = written_by(
        vision_model,
        [
            ask("a", "a <|image_pad|><image> b", pictures[:1]),
            ask("b", "a ‹|image_pad|›‹image› b", pictures[:1]),
        ],
    )
    assert written["a"] == written["b"]
    assert written["a"].text


def test_image_tokens_count_as_prompt(vision_model, ask, pictures):
    written = written_by(vision_model, [ask("0", "star"), ask("1", "star", pictures[:1])])
    # Qwen: 16 x 16 pixels are 2 x 2 merged patches of 8 x 8 pixels, between two tokens. LLaVA: 4 x 4 patches.
    expected = 4 + 2 if "qwen3_vl" in vision_model else 16
    assert written["1"].prompt_tokens - written["0"].prompt_tokens == expected


def test_a_prompt_too_long_by_its_images_is_a_problem_and_the_others_go_on(vision_model, ask, pictures):
    requests = [ask("many", "red", pictures * 4), ask("one", "red", pictures[:1])]
    written = written_by(vision_model, requests)
    assert written["many"].problem == "prompt too long"
    assert written["many"].prompt_tokens > 190
    assert written["one"] == written_by(vision_model, requests[1:])["one"]


def test_a_blind_reasoner_opens_no_image(text_model, ask, tmp_path):
    written = written_by(text_model, [ask("1", "star", [tmp_path / "gone.png"])], sees_images=False)
    assert written["1"].problem == ""


def test_pictures_are_downsized_to_max_side(tmp_path):
    for name, size in (("wide", (300, 100)), ("tall", (50, 200)), ("small", (30, 20))):
        for suffix in ("png", "jpg"):
            Image.new("RGB", size, "red").save(tmp_path / f"{name}.{suffix}")
            # 300 x 100 at 100: a third. 50 x 200: a half.
            expected = {"wide": (100, 33), "tall": (25, 100), "small": (30, 20)}[name]
            assert read_picture(tmp_path / f"{name}.{suffix}", 100).size == expected
            assert read_picture(tmp_path / f"{name}.{suffix}").size == size


def test_pictures_come_in_rgb_and_transparency_shows_white(tmp_path):
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("L", (4, 4), 7).save(tmp_path / "grey.png")
    clear, grey = read_picture(tmp_path / "clear.png"), read_picture(tmp_path / "grey.png")
    assert (clear.mode, clear.getpixel((0, 0))) == ("RGB", (255, 255, 255))
    assert (grey.mode, grey.getpixel((0, 0))) == ("RGB", (7, 7, 7))


def test_max_side_reaches_the_model(vision_model, ask, pictures):
    request = [ask("1", "star", pictures[2:3])]
    assert written_by(vision_model, request)["1"] != written_by(vision_model, request, max_side=8)["1"]
