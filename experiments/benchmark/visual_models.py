"""A randomly initialised Qwen3-VL, its real processor, and one prompt with captions or with images instead."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)

from benchmark.models import SIZES
from mllmrec.data.drawing import HUES, PATTERNS, SHAPES
from mllmrec.data.synthetic import BRANDS, CATEGORIES, MODELS
from mllmrec.models.tokenizer import train_tokenizer
from mllmrec.prompts.builder import ItemTexts, PromptBuilder, load_template
from mllmrec.randomness import numpy_generator

FORMS = ("text", "visual")
PATCH, MERGE = 16, 2
MAX_PIXELS = 16_777_216  # Qwen3-VL's published value
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
_STAND_IN = "PICTURE"  # for an image while the prompt is built: the builder accepts no chat token


@dataclass(frozen=True)
class Tower:
    """The shape of a vision tower."""

    layers: int
    hidden: int
    heads: int
    feed_forward: int
    deepstack: tuple[int, ...]


# The last two are the published tower of Qwen3-VL-4B, with a twelfth of the weights of its language model's layers; the
# smaller towers have about a fifth.
TOWERS = {
    "XS": Tower(2, 32, 2, 128, (0,)),
    "S": Tower(6, 192, 3, 768, (1, 2, 4)),
    "M": Tower(8, 384, 6, 1536, (1, 3, 5)),
    "0.6B": Tower(24, 1024, 16, 4096, (5, 11, 17)),
    "4B": Tower(24, 1024, 16, 4096, (5, 11, 17)),
}


class PictureProcessor(Qwen3VLProcessor):
    """Qwen3-VL's processor without its video part, a class that transformers hides if torchvision is missing."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        """Let the missing part through."""
        return None if argument is None else super().check_argument_for_proper_class(argument_name, argument)


class ItemPrompt:
    """One prompt of the package over H history items and C candidates, all different, in both forms.

    Titles have three words and captions ``caption_words`` words. Images are random pixels, because neither tokens nor
    time depend on what they show.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        items = settings["history"] + settings["candidates"]
        draw = random.Random(0)
        titles = [
            f"{draw.choice(BRANDS)} {draw.choice(CATEGORIES)} {draw.choice(MODELS)}" for _ in range(items)
        ]
        words = [*HUES, *PATTERNS, *SHAPES]
        captions = [" ".join(draw.choices(words, k=settings["caption_words"])) for _ in range(items)]
        self.text = _prompt(settings, titles, captions)
        self.visual = _prompt(settings, titles, [_STAND_IN] * items).replace(_STAND_IN, IMAGE)
        side = settings["image_side"]
        pixels = numpy_generator(0, "images").integers(0, 256, (items, side, side, 3), np.uint8)
        self.images = [Image.fromarray(picture) for picture in pixels]
        # Every word occurs often enough to become one token.
        self.tokenizer = train_tokenizer(
            [self.text, *(f" {word}" for word in [*words, *titles])] * 3, [], 8000
        )
        self.tokenizer.add_special_tokens({"additional_special_tokens": list(VISION_TOKENS)})

    def processor(self, min_pixels: int) -> PictureProcessor:
        """The published processor, except for ``min_pixels``, to which smaller images are enlarged."""
        images = Qwen2VLImageProcessorPil(
            size={"shortest_edge": min_pixels, "longest_edge": MAX_PIXELS},
            patch_size=PATCH,
            merge_size=MERGE,
            temporal_patch_size=2,
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
        )
        return PictureProcessor(images, self.tokenizer, None)

    def inputs(self, form: str, processor: PictureProcessor) -> dict[str, torch.Tensor]:
        """The model's inputs: (1, P) ids and mask, and in the visual form patches and their grid too."""
        if form == "text":
            return dict(processor(text=[self.text], return_tensors="pt"))
        return dict(processor(text=[self.visual], images=self.images, return_tensors="pt"))


def random_vision_model(
    size: str, tokenizer: PreTrainedTokenizerFast, device: torch.device
) -> Qwen3VLForConditionalGeneration:
    """A Qwen3-VL whose language model has the shape of `SIZES`; equal arguments give equal weights."""
    shape, tower = SIZES[size], TOWERS[size]
    half = shape.head_size // 2
    spatial = half * 5 // 16  # 24, 20 and 20 of 64, as published
    token = tokenizer.convert_tokens_to_ids
    config = Qwen3VLConfig(
        text_config={
            "num_hidden_layers": shape.layers,
            "hidden_size": shape.hidden,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "head_dim": shape.head_size,
            "intermediate_size": shape.feed_forward,
            "vocab_size": max(shape.vocabulary, len(tokenizer)),
            "max_position_embeddings": 262_144,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5_000_000.0,
                "mrope_section": [half - 2 * spatial, spatial, spatial],
                "mrope_interleaved": True,
            },
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "depth": tower.layers,
            "hidden_size": tower.hidden,
            "num_heads": tower.heads,
            "intermediate_size": tower.feed_forward,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "out_hidden_size": shape.hidden,
            "num_position_embeddings": 2304,
            "deepstack_visual_indexes": list(tower.deepstack),
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = Qwen3VLForConditionalGeneration(config)
    model.set_attn_implementation("sdpa")
    return model


def _prompt(settings: Mapping[str, Any], titles: list[str], captions: list[str]) -> str:
    ids = [f"{number:04d}" for number in range(len(titles))]
    items = ItemTexts(ids, titles, dict(zip(ids, captions, strict=True)))
    builder = PromptBuilder(items, load_template("instruct"), domain="product")
    history = settings["history"]
    return builder.prompt(range(history), range(history, len(titles)))
