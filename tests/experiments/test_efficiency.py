from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.benchmark

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
CELL = {
    "size": "XS",
    "history": 1,
    "candidates": 2,
    "image_side": 64,
    "min_pixels": 1024,
    "caption_words": 7,
    "completion_len": 4,
    "group": 2,
    "repeats": 1,
    "warmup": 0,
}


@pytest.fixture
def visual_jobs(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    from benchmark import visual_jobs

    return visual_jobs


def run(*arguments):
    command = [sys.executable, str(EXPERIMENTS / "efficiency.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("side", "min_pixels", "per_image"),
    [
        (448, 65_536, 196),  # 14 x 14 squares of 32 pixels
        (224, 1_024, 49),  # 7 x 7
        (224, 65_536, 64),  # enlarged to 256 x 256: 8 x 8
        (330, 65_536, 100),  # rounded to 320 x 320: 10 x 10
    ],
)
def test_a_word_of_a_caption_is_one_token_and_32_by_32_pixels_of_an_image_are(
    visual_jobs, side, min_pixels, per_image
):
    prompt = visual_jobs.ItemPrompt({**CELL, "image_side": side, "min_pixels": min_pixels})
    processor = prompt.processor(min_pixels)
    text, visual = (prompt.inputs(form, processor) for form in ("text", "visual"))
    pad = prompt.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert (visual["input_ids"] == pad).sum() == 3 * per_image
    # An image has a start, an end and the space before it as tokens, too; a caption's space is part of its words.
    more = 3 * (per_image + 3 - 7)
    assert visual["input_ids"].shape[1] - text["input_ids"].shape[1] == more
    assert set(text) == {"input_ids", "attention_mask", "mm_token_type_ids"}


def test_no_completion_holds_a_vision_token(visual_jobs):
    side = visual_jobs.PlainStep({**CELL, "group": 1000, "completion_len": 20}, ("text",))
    vision = side.prompt.tokenizer.convert_tokens_to_ids(list(visual_jobs.VISION_TOKENS))
    # 20,000 draws from about a thousand tokens: each comes about twenty times.
    assert not torch.isin(side.completions, torch.tensor(vision)).any()
    assert side.completions.max() == min(vision) - 1


def test_log_probabilities_are_the_completions_and_depend_on_the_images(visual_jobs):
    side = visual_jobs.PlainStep(CELL)
    completion = side.completions[0]
    for form in ("text", "visual"):
        inputs = dict(side.inputs[form])
        ids = torch.cat([inputs.pop("input_ids"), completion], 1)
        types = torch.cat([inputs.pop("mm_token_type_ids"), torch.zeros_like(completion)], 1)
        inputs["attention_mask"] = torch.ones_like(ids)
        logits = side.model(input_ids=ids, mm_token_type_ids=types, **inputs).logits.log_softmax(2)
        expected = logits[0, -5:-1].gather(1, completion.T)[:, 0]
        assert torch.allclose(side._logprobs(form, completion)[0], expected, atol=1e-5)
    seen = side._logprobs("visual", completion)
    side.inputs["visual"]["pixel_values"] = -side.inputs["visual"]["pixel_values"]
    assert not torch.allclose(side._logprobs("visual", completion), seen, atol=1e-5)


@pytest.mark.parametrize("form", ["text", "visual"])
def test_a_step_is_the_gradient_of_the_whole_group_and_moves_the_language_model_alone(
    visual_jobs, monkeypatch, form
):
    side = visual_jobs.PlainStep(CELL, (form,))
    before = {name: weight.detach().clone() for name, weight in side.model.named_parameters()}
    # Of two completions the first has advantage 1 and the second -1.
    first, second = (side._logprobs(form, completion).mean() for completion in side.completions)
    ((second - first) / 2).backward()
    weights = [weight for weight in side.model.parameters() if weight.requires_grad]
    expected = [weight.grad.clone() for weight in weights]
    side.optimizer.zero_grad()
    found = []
    adamw = side.optimizer.step
    monkeypatch.setattr(
        side.optimizer, "step", lambda: (found.extend(weight.grad.clone() for weight in weights), adamw())
    )
    side.step(form)
    for one, two in zip(found, expected, strict=True):
        assert torch.allclose(one, two, rtol=1e-4, atol=1e-7)
    moved = {
        name
        for name, weight in side.model.named_parameters()
        if not torch.equal(weight.detach(), before[name])
    }
    # Seven layers in each of two blocks.
    assert sum(".lora_B." in name for name in moved) == 14
    assert all(".language_model.layers." in name and ".lora_" in name for name in moved)


@pytest.mark.slow
def test_a_cell_sets_both_forms_side_by_side():
    done = run(*(f"{key}={value}" for key, value in CELL.items()))
    assert done.returncode == 0, done.stderr
    (line,) = (json.loads(text) for text in done.stdout.splitlines())
    assert {key: line[key] for key in CELL} == CELL
    tokens, memory = line["prompt_tokens"], line["peak_memory_mb"]
    # 64 / 32 = 2 squares a side.
    assert line["tokens_per_image"] == 4
    assert line["ratio"] == {
        "tokens": tokens["visual"] / tokens["text"],
        "forward": line["forward_s"]["visual"] / line["forward_s"]["text"],
        "step": line["step_s"]["visual"] / line["step_s"]["text"],
        "memory": memory["visual"] / memory["text"],
    }
    for form in ("text", "visual"):
        assert 0 < line["forward_s"][form] < line["step_s"][form]
        assert line["all_s"]["step"][form] == [line["step_s"][form]]


@pytest.mark.parametrize("argument", ["side=224", "image_side=8", "size=L", "caption_words=none"])
def test_wrong_use_of_the_efficiency_benchmark_is_said_in_one_line(argument):
    done = run(argument)
    assert done.returncode == 2
    assert argument.partition("=")[0] in done.stderr
    assert len(done.stderr.splitlines()) == 1
