"""Builds policies that see item images: from Qwen3-VL's architecture with random weights, or from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoImageProcessor, Qwen2VLImageProcessorPil, Qwen3VLConfig

from mllmrec.errors import UserError
from mllmrec.flat import flat_settings
from mllmrec.models.backbones import Pretrained, PretrainedSettings, Tiny, TinySettings, pretrained
from mllmrec.models.policy import Policy
from mllmrec.models.tokenizer import train_tokenizer
from mllmrec.models.visual import Pictures, SeeingQwen3VL, VisualPolicy
from mllmrec.prompts.markup import ITEM_MARK
from mllmrec.randomness import seeded_globals

VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
_PATCH, _MERGE = 16, 2
_GRID = 16  # learned positions along each side of an image; those of patches are interpolated


class TinyVisual(Tiny):
    """Qwen3-VL's architecture with random weights; all of them train. The rest is as in `Tiny`.

    An image is resized to whole squares of 32 x 32 pixels, with ``min_pixels`` to ``max_pixels`` in total, and takes one
    token for each square.
    """

    sees_images = True

    @flat_settings
    def __init__(
        self,
        vision_size: int = 64,
        vision_layers: int = 2,
        vision_heads: int = 2,
        min_pixels: int = 1024,
        max_pixels: int = 65536,
        sizes: TinySettings = TinySettings(),
    ) -> None:
        super().__init__(sizes)
        self.vision_size, self.vision_layers, self.vision_heads = vision_size, vision_layers, vision_heads
        self.min_pixels, self.max_pixels = min_pixels, max_pixels

    def build(self, corpus: Iterable[str], labels: Sequence[str], seed: int) -> Policy:
        """Train the tokenizer and initialise the weights from ``seed``."""
        tokenizer = train_tokenizer(
            (ITEM_MARK.sub("", text) for text in corpus), labels, self.sizes.vocabulary
        )
        tokenizer.add_special_tokens({"additional_special_tokens": list(VISION_TOKENS)})
        ids: Any = tokenizer.convert_tokens_to_ids(list(VISION_TOKENS))
        start, end, image, video = ids
        half = self.sizes.hidden_size // self.sizes.num_heads // 2
        spatial = half * 5 // 16  # 24, 20 and 20 of 64, as published
        config = Qwen3VLConfig(
            text_config={
                **self._text_settings(tokenizer),
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 10_000.0,
                    "mrope_section": [half - 2 * spatial, spatial, spatial],
                    "mrope_interleaved": True,
                },
            },
            vision_config={
                "depth": self.vision_layers,
                "hidden_size": self.vision_size,
                "num_heads": self.vision_heads,
                "intermediate_size": 4 * self.vision_size,
                "patch_size": _PATCH,
                "spatial_merge_size": _MERGE,
                "temporal_patch_size": 2,
                "out_hidden_size": self.sizes.hidden_size,
                "num_position_embeddings": _GRID**2,
                "deepstack_visual_indexes": [0],
                "initializer_range": self.sizes.initializer_range,
            },
            image_token_id=image,
            video_token_id=video,
            vision_start_token_id=start,
            vision_end_token_id=end,
            tie_word_embeddings=True,
        )
        with seeded_globals(seed, "initial-weights"):
            model = SeeingQwen3VL(config)
        model.set_attn_implementation(self.sizes.attention)
        processor = Qwen2VLImageProcessorPil(
            size={"shortest_edge": self.min_pixels, "longest_edge": self.max_pixels},
            patch_size=_PATCH,
            merge_size=_MERGE,
            temporal_patch_size=2,
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
        )
        return VisualPolicy(model, tokenizer, Pictures(processor))

    def load(self, adapters: Path, phases: Sequence[str], weights: Path) -> Policy:
        """Load weights, tokenizer and image processor that were saved together."""
        model, tokenizer = pretrained(
            str(weights), dtype="float32", attention=self.sizes.attention, models=SeeingQwen3VL
        )
        return VisualPolicy(model, tokenizer, Pictures(_image_processor(str(weights), None, {})))


class PretrainedVisual(Pretrained):
    """A Qwen3-VL checkpoint by hub name or local folder; LoRA on its language model or all weights train.

    Code that comes with a checkpoint never runs.
    """

    sees_images = True

    @flat_settings
    def __init__(
        self,
        path: str,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        loading: PretrainedSettings = PretrainedSettings(),
    ) -> None:
        super().__init__(path, loading)
        self._pixels = {"min_pixels": min_pixels, "max_pixels": max_pixels}

    def _policy(self, path: str, lora: Mapping[str, Any] | None, **source: Any) -> Policy:
        processor = _image_processor(path, source.get("revision"), self._pixels)
        model, tokenizer = pretrained(
            path, dtype=self.loading.dtype, attention=self.loading.attention, models=SeeingQwen3VL, **source
        )
        return VisualPolicy(
            model, tokenizer, Pictures(processor), lora=lora, max_length=self.loading.max_length
        )


def _image_processor(path: str, revision: str | None, pixels: Mapping[str, int | None]) -> Any:
    """The image processor of a Qwen3-VL checkpoint, in the form that gives the same pixels with and without torchvision.

    Raises:
        UserError: it cannot be loaded, or the checkpoint belongs to another model.
    """
    given = {name: value for name, value in pixels.items() if value is not None}
    source: dict[str, Any] = {"revision": revision or "main", "trust_remote_code": False}
    try:
        kind = AutoConfig.from_pretrained(path, **source).model_type
        if kind != Qwen3VLConfig.model_type:
            raise UserError(f"backbone.path={path} is a model of type {kind}: give a Qwen3-VL")
        return AutoImageProcessor.from_pretrained(path, backend="pil", **source, **given)
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(
            f"backbone.path={path} cannot be loaded: {first} (give a hub name that this machine can reach, or a "
            "folder with model, tokenizer and image processor, written by save_pretrained)"
        ) from error
