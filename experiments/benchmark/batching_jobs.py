"""The job of the batching benchmark: ``python -m benchmark.batching_jobs texts SETTINGS``."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any
from unittest.mock import patch

import torch
from PIL import Image
from transformers import (
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)
from transformers.models.auto import video_processing_auto
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

from benchmark.measuring import device, now, run_job, versions
from benchmark.models import SIZES, random_model, random_tokenizer
from mllmrec.captions.vlm import Vlm
from mllmrec.reasoners import hf
from mllmrec.reasoners.base import Request

IMAGE, VIDEO, START, STOP = "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"
TEMPLATE = """\
{% for message in messages %}{% if message.content is string %}{{ message.content }}{% else %}
{%- for part in message.content %}{% if part.type == 'image' %}VISION{% else %} {{ part.text }}{% endif %}{% endfor %}
{%- endif %} {% endfor %}t1"""
PATCH = 16

Answers = dict[str, "str | None"]


def texts(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Run both sides alternately on the same items; models are loaded before the first run that counts."""
    # Only loading is not compared; the rest of a run is.
    hf.HfModel = cache(hf.HfModel)  # type: ignore[misc]
    side = captions if settings["what"] == "vlm" else reasonings
    with tempfile.TemporaryDirectory() as folder, without_torchvision():
        run = side(settings, Path(folder))
        seconds: dict[int, list[float]] = {1: [], settings["batch"]: []}
        work: dict[int, list[float]] = {1: [], settings["batch"]: []}
        answers: dict[int, Answers] = {}
        for nth in range(1 + settings["repeats"]):
            for batch in seconds:
                begin, begun = now(), process_time()
                answers[batch] = run(batch, settings["items"] if nth else min(batch, settings["items"]))
                if nth:
                    seconds[batch].append(now() - begin)
                    work[batch].append(process_time() - begun)
    single, batched = seconds.values()
    alone, together = answers.values()
    return {
        "single_s": median(single),
        "batched_s": median(batched),
        "ratio": median(single) / median(batched),
        # Of all threads: comparable even on a machine that does other work.
        "cpu_ratio": median(work[1]) / median(work[settings["batch"]]),
        "same_texts": alone == together,
        "texts_that_differ": sum(alone[item] != together[item] for item in alone),
        "distinct_texts": len(set(alone.values()) - {None, ""}),
        "all_s": {"single": single, "batched": batched},
        "all_cpu_s": {"single": work[1], "batched": work[settings["batch"]]},
        "device": torch.cuda.get_device_name() if device().type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def reasonings(settings: Mapping[str, Any], folder: Path) -> Callable[[int, int], Answers]:
    """The texts of some requests in batches of the given size, by sample id."""
    model = random_model(settings["size"], "float32", device())
    spread(model)
    model.save_pretrained(folder)
    tokenizer = random_tokenizer(settings["size"])
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    draw = random.Random(1)
    longest = settings["prompt_len"] - 1  # the template adds one
    requests = []
    for item in range(settings["items"]):
        words = draw.choices(
            range(2, SIZES[settings["size"]].vocabulary), k=draw.randint(longest // 2, longest)
        )
        requests.append(Request(str(item), "", (), "", "", " ".join(f"t{word}" for word in words)))

    def run(batch: int, items: int) -> Answers:
        reasoner = hf.HfReasoner(
            str(folder), dtype=settings["dtype"], batch_size=batch, max_new_tokens=settings["answer_len"]
        )
        written = reasoner.write(requests[:items])
        return {request.sample_id: answer.text for request, answer in written}

    return run


def captions(settings: Mapping[str, Any], folder: Path) -> Callable[[int, int], Answers]:
    """The captions of some images in batches of the given size, by item id."""
    save_qwen3_vl(folder / "model", settings["size"], settings["image_side"])
    draw = random.Random(1)
    images = []
    for item in range(settings["items"]):
        # As with posters and products, one side is shorter, by a third at most.
        width, height = (
            settings["image_side"],
            draw.randint(2 * settings["image_side"] // 3, settings["image_side"]),
        )
        pixels = draw.randbytes(3 * 8 * 8)
        path = folder / f"{item}.png"
        Image.frombytes("RGB", (8, 8), pixels).resize((width, height)).save(path)
        images.append((str(item), path))

    def run(batch: int, items: int) -> Answers:
        captioner = Vlm(
            str(folder / "model"),
            "t2 t3 t4 t5 t6 t7 t8 t9",
            dtype=settings["dtype"],
            batch_size=batch,
            max_new_tokens=settings["answer_len"],
        )
        return dict(captioner.caption_images(images[:items]))

    return run


def save_qwen3_vl(folder: Path, size: str, side: int) -> None:
    """A random Qwen3-VL with its processors; its tower is as deep and wide as its language model.

    Images take at most ``side`` x ``side`` pixels; each 32 x 32 of them are a token of the prompt.
    """
    tokenizer = vision_tokenizer(size)
    number = tokenizer.convert_tokens_to_ids
    shape = SIZES[size]
    third = shape.head_size // 6
    config = Qwen3VLConfig(
        text_config={
            "num_hidden_layers": shape.layers,
            "hidden_size": shape.hidden,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "head_dim": shape.head_size,
            "intermediate_size": shape.feed_forward,
            "vocab_size": shape.vocabulary,
            "max_position_embeddings": 40960,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1_000_000.0,
                "mrope_section": [shape.head_size // 2 - 2 * third, third, third],
                "mrope_interleaved": True,
            },
            "bos_token_id": None,
            "eos_token_id": shape.vocabulary,
            "pad_token_id": 0,
        },
        vision_config={
            "depth": shape.layers,
            "hidden_size": shape.hidden,
            "intermediate_size": shape.feed_forward,
            "num_heads": shape.heads,
            "patch_size": PATCH,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "out_hidden_size": shape.hidden,
            "num_position_embeddings": (side // PATCH) ** 2,
            "deepstack_visual_indexes": [0],
        },
        image_token_id=number(IMAGE),
        video_token_id=number(VIDEO),
        vision_start_token_id=number(START),
        vision_end_token_id=number(STOP),
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    with torch.device(device()):
        model = Qwen3VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = shape.vocabulary
    spread(model)
    model.save_pretrained(folder)
    patches = {"patch_size": PATCH, "temporal_patch_size": 2, "merge_size": 2}
    processor = Qwen3VLProcessor(
        Qwen2VLImageProcessor(min_pixels=32 * 32, max_pixels=side * side, **patches),
        tokenizer,
        Qwen3VLVideoProcessor(**patches),
        chat_template=tokenizer.chat_template,
    )
    processor.save_pretrained(folder)


def vision_tokenizer(size: str) -> PreTrainedTokenizerFast:
    """`random_tokenizer`, with the last words of the vocabulary reserved for images."""
    tokenizer = random_tokenizer(size)
    backend = tokenizer.backend_tokenizer.to_str()
    for back, token in enumerate((IMAGE, VIDEO, START, STOP), 1):
        backend = backend.replace(f'"t{SIZES[size].vocabulary - back}"', f'"{token}"')
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=type(tokenizer.backend_tokenizer).from_str(backend),
        pad_token="<pad>",
        eos_token="<end>",
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE, VIDEO, START, STOP]})
    tokenizer.chat_template = TEMPLATE.replace("VISION", f"{START} {IMAGE} {STOP}")
    return tokenizer


def spread(model: torch.nn.Module) -> None:
    """Enlarge the initial weights, so that prompts and images decide what is written."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim >= 2:
                scale = 2 / weight[0].numel() ** 0.5
                weight.copy_(torch.randn(weight.shape, generator=generator) * scale)


@contextmanager
def without_torchvision() -> Iterator[None]:
    """Without torchvision, transformers hides a part of Qwen3-VL's processor that images do not need."""
    if find_spec("torchvision") is not None:
        yield
        return
    with (
        patch.object(
            video_processing_auto, "video_processor_class_from_name", lambda _: Qwen3VLVideoProcessor
        ),
        patch.object(ProcessorMixin, "check_argument_for_proper_class", lambda *_: None),
    ):
        yield


if __name__ == "__main__":
    run_job(texts)
