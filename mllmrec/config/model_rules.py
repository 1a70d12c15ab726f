"""Rules about backbones and about packages that may be missing; written as in `mllmrec.config.rules`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any

from mllmrec.config.capabilities import capability
from mllmrec.config.phase_rules import of_kinds, supervised

Settings = Mapping[str, Any]


def heads_divide_width(cfg: Settings, width: str, heads: str, axes: int) -> str | None:
    """Attention heads cannot have the same width, with a pair of numbers for each axis of their rotary positions.

    Args:
        cfg: the configuration.
        width: the backbone's setting for the width of all heads together.
        heads: its setting for their number.
        axes: 1 for text, 2 for images.
    """
    size, number = cfg["backbone"].get(width), cfg["backbone"].get(heads)
    if size is None or number is None or (size % number == 0 and size // number % (2 * axes) == 0):
        return None
    multiple = {1: "twice", 2: "four times"}[axes]
    return (
        f"backbone.{width}={size} with backbone.{heads}={number}: each head must have the same width, a multiple of "
        f"{2 * axes}; set backbone.{width} to a multiple of {multiple} the number of heads"
    )


def images_are_seen(cfg: Settings) -> str | None:
    """Prompts show images, but the backbone reads only text, or a phase or the engine needs prompts of text."""
    if cfg["prompt"]["item_tokens"] != "image" or cfg["method"]["recommender"] is not None:
        return None
    if not capability(cfg["backbone"], "sees_images", False):
        return (
            "prompt.item_tokens=image with a backbone that reads only text: choose backbone=tiny_vl or qwen3_vl, or "
            "set prompt.item_tokens=none"
        )
    for stage in supervised(cfg, "all"):
        return (
            f"prompt.item_tokens=image with {stage}.loss_on=all: the policy cannot write images; set "
            f"{stage}.loss_on=answer"
        )
    asks = bool(of_kinds(cfg, "pointwise")) or cfg["eval"]["ranking"] == "pointwise"
    if asks and not capability(cfg["engine"], "continues_images", True):
        return (
            "prompt.item_tokens=image with yes-or-no questions: each question has its own image after the shared "
            "history, which engine=shared_prefix cannot read; set engine=plain"
        )
    return None


def streams_once(cfg: Settings) -> str | None:
    """The engine computes activations again, and so does the model, or a chunk could end within an image."""
    chunk = cfg["engine"].get("chunk")
    if chunk is None or cfg["method"]["recommender"] is not None:
        return None
    if cfg["backbone"].get("gradient_checkpointing"):
        return (
            f"engine.chunk={chunk} with backbone.gradient_checkpointing=true: both compute activations again; set "
            "backbone.gradient_checkpointing=false, or engine.chunk=null"
        )
    if cfg["prompt"]["item_tokens"] == "image":
        return f"engine.chunk={chunk} with prompt.item_tokens=image: a chunk could end within an image; set engine.chunk=null"
    return None


def pixels_agree(cfg: Settings) -> str | None:
    """The fewest pixels of an image exceed the most."""
    low, high = cfg["backbone"].get("min_pixels"), cfg["backbone"].get("max_pixels")
    if low is not None and high is not None and low > high:
        return f"backbone.min_pixels={low} exceeds backbone.max_pixels={high}: lower the first or raise the second"
    return None


def quantized_needs_adapter(cfg: Settings) -> str | None:
    """4-bit weights cannot train without an adapter."""
    if cfg["backbone"].get("quantization") and not (cfg["backbone"].get("lora") or {}).get("rank"):
        return (
            f"backbone.quantization={cfg['backbone']['quantization']} with backbone.lora.rank=0: 4-bit weights "
            "cannot train; set backbone.lora.rank=16, or backbone.quantization=null"
        )
    return None


def quantized_needs_package(cfg: Settings) -> str | None:
    """The optional package bitsandbytes is missing."""
    if cfg["backbone"].get("quantization") and find_spec("bitsandbytes") is None:
        return (
            f"backbone.quantization={cfg['backbone']['quantization']} needs: pip install 'mllmrec[quantized]'"
        )
    return None


def gguf_needs_package(cfg: Settings) -> str | None:
    """The optional package gguf is missing, or 4-bit weights should be made of weights that are turned into full ones."""
    file = cfg["backbone"].get("gguf_file")
    if file is None:
        return None
    if find_spec("gguf") is None:
        return f"backbone.gguf_file={file} needs: pip install 'mllmrec[gguf]'"
    if cfg["backbone"].get("quantization"):
        return (
            f"backbone.gguf_file={file} with backbone.quantization={cfg['backbone']['quantization']}: weights of GGUF files are "
            "turned into backbone.dtype; set one of the two to null"
        )
    return None


def system_prompt_is_read(cfg: Settings) -> str | None:
    """There should be a system prompt, but a policy from scratch reads no chat."""
    system = cfg["prompt"].get("system")
    if not system or not capability(cfg["backbone"], "from_scratch", False):
        return None
    return (
        "prompt.system with a policy from scratch, which knows no system prompts: set prompt.system=null, or choose a pretrained "
        "backbone"
    )


def packages_are_there(cfg: Settings) -> str | None:
    """Parts that are used need packages that a plain install does not bring."""
    missing = {
        f"{path} ({str(section['_target_']).rpartition('.')[2]})": needed
        for path, section in _used(cfg)
        if (needed := capability(section, "needs_package", None)) is not None and find_spec(needed[0]) is None
    }
    found = [f"{part} needs {name}: pip install {what}" for part, (name, what) in missing.items()]
    return "; ".join(found) or None


def _used(section: Any, path: str = "") -> Iterator[tuple[str, Settings]]:
    """Every section that names a class, at any depth, with its path."""
    if isinstance(section, (list, tuple)):
        for inner in section:
            yield from _used(inner, path)
    if not isinstance(section, Mapping):
        return
    for key, inner in section.items():
        # The text encoder that is set is used only by the parts that refer to it; each of them holds a copy.
        if path or key != "text_encoder":
            yield from _used(inner, f"{path}.{key}" if path else str(key))
    if section.get("_target_") is not None:
        yield path, section


MODEL_RULES = (
    partial(heads_divide_width, width="hidden_size", heads="num_heads", axes=1),
    partial(heads_divide_width, width="vision_size", heads="vision_heads", axes=2),
    images_are_seen,
    streams_once,
    pixels_agree,
    quantized_needs_adapter,
    quantized_needs_package,
    gguf_needs_package,
    system_prompt_is_read,
    packages_are_there,
)
