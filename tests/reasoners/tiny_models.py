"""Small random models of real architectures, saved like hub checkpoints, and one that says what it is told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import AddedToken
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2VLImageProcessor,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

from mllmrec.models.tokenizer import train_tokenizer
from mllmrec.randomness import seeded_globals

VISION_TOKENS = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>", "<image>"]
LIMIT = 200  # tokens of prompt and answer together that the models take
# Like Qwen3's: the template takes content as text or as parts, and closes an empty thought if told not to think.
TEMPLATE = """\
{%- for message in messages %}<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}
{%- if part.type == 'image' %}IMAGE{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|end|>
{% endfor %}<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking %}<think>

</think>

{% endif %}"""


@contextmanager
def video_processors() -> Iterator[None]:
    """Make Qwen3-VL's processor work without torchvision. transformers hides a part of it that images do not need."""
    with pytest.MonkeyPatch.context() as patch:
        if find_spec("torchvision") is None:
            patch.setattr(transformers, "Qwen3VLVideoProcessor", Qwen3VLVideoProcessor)
            patch.setattr(ProcessorMixin, "check_argument_for_proper_class", lambda *_: None)
        yield


def tokenizer_for(
    image: str = "", template: str = TEMPLATE, special_tags: bool = False
) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with Qwen's added tokens: control tokens are special, thinking tags are not."""
    tokenizer = train_tokenizer(["red blue lamp chair star again a of"] * 3, [], 320)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", *VISION_TOKENS]})
    tokenizer.add_tokens(
        [AddedToken(tag, normalized=False, special=special_tags) for tag in ("<think>", "</think>")]
    )
    tokenizer.chat_template = template.replace("IMAGE", image)
    return tokenizer


def text_settings(tokenizer: PreTrainedTokenizerFast, **changes: object) -> dict[str, object]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": LIMIT,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        **changes,
    }


def spread(model: torch.nn.Module) -> None:
    """Make the weights larger than at initialisation, so that prompts and images decide what is written."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim >= 2:
                fan_in = weight[0].numel()
                weight.copy_(torch.randn(weight.shape, generator=generator) * 2 / fan_in**0.5)


def save_text_model(folder: Path, template: str = TEMPLATE) -> str:
    """A random Qwen3."""
    tokenizer = tokenizer_for(template=template)
    with seeded_globals(0, "qwen3"):
        model = Qwen3ForCausalLM(Qwen3Config(**text_settings(tokenizer)))
    spread(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def save_speaker(folder: Path, words: Sequence[str], **settings: object) -> str:
    """A Qwen3 that says ``words`` after any prompt. It then ends, unless the last word is ``…``.

    Its layers add nothing, its embeddings are unit vectors, and its output weights lead from each token to the next.
    The line end of the prompt leads to the first word.
    """
    tokenizer = tokenizer_for(**settings)
    tokens = tokenizer("\n", add_special_tokens=False)["input_ids"]
    for word in words:
        tokens += tokenizer(word, add_special_tokens=False)["input_ids"] if word != "…" else []
    assert len(set(tokens)) == len(tokens), "a token can have one successor only"
    tokens.append(tokens[-1] if words[-1] == "…" else tokenizer.eos_token_id)
    size = len(tokenizer) + len(tokenizer) % 2
    config = text_settings(tokenizer, hidden_size=size, num_hidden_layers=1, tie_word_embeddings=False)
    model = Qwen3ForCausalLM(Qwen3Config(**config))
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.eye(len(tokenizer), size))
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
        model.lm_head.weight.zero_()
        for token, following in pairwise(tokens):
            model.lm_head.weight[following, token] = 1.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def save_qwen3_vl(folder: Path) -> str:
    """A random Qwen3-VL with its processors."""
    tokenizer = tokenizer_for("<|vision_start|><|image_pad|><|vision_end|>")
    patches = {"patch_size": 4, "temporal_patch_size": 2, "merge_size": 2}
    images = Qwen2VLImageProcessor(min_pixels=16 * 16, max_pixels=32 * 32, **patches)
    videos = Qwen3VLVideoProcessor(**patches)
    processor = Qwen3VLProcessor(images, tokenizer, videos, chat_template=tokenizer.chat_template)
    number = tokenizer.convert_tokens_to_ids
    config = Qwen3VLConfig(
        text_config=text_settings(
            tokenizer,
            rope_scaling={"rope_type": "default", "mrope_section": [2, 1, 1], "mrope_interleaved": True},
        ),
        vision_config={
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_heads": 2,
            "patch_size": 4,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "out_hidden_size": 32,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
        },
        image_token_id=number("<|image_pad|>"),
        video_token_id=number("<|video_pad|>"),
        vision_start_token_id=number("<|vision_start|>"),
        vision_end_token_id=number("<|vision_end|>"),
    )
    with seeded_globals(0, "qwen3_vl"):
        model = Qwen3VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    spread(model)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def save_llava(folder: Path) -> str:
    """A random LLaVA: CLIP before a Qwen3, 16 tokens per image."""
    tokenizer = tokenizer_for("<image>")
    images = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    processor = LlavaProcessor(
        images,
        tokenizer,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    )
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=16,
        patch_size=4,
        projection_dim=16,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=Qwen3Config(**text_settings(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    with seeded_globals(0, "llava"):
        model = LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    spread(model)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


VISION_MODELS = {"llava": save_llava, "qwen3_vl": save_qwen3_vl}
