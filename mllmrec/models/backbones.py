"""Builds policies from scratch or from any Hugging Face causal language model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from mllmrec.errors import UserError
from mllmrec.models.policy import Policy
from mllmrec.models.tokenizer import train_tokenizer
from mllmrec.randomness import seeded_globals
from mllmrec.screen.transformers_output import without_bars


class Backbone(ABC):
    """Builds the policy that the stages train."""

    from_scratch: bool

    @abstractmethod
    def build(self, corpus: Iterable[str], labels: Sequence[str], seed: int) -> Policy:
        """The untrained policy.

        Args:
            corpus: texts as they appear in prompts (only a tokenizer trained here reads them).
            labels: the I item labels.
            seed: the run's seed.

        Raises:
            UserError: weights or tokenizer cannot be loaded.
        """

    @abstractmethod
    def load(self, adapters: Path, stages: Sequence[str], weights: Path) -> Policy:
        """The policy as a run left it after ``stages``.

        Args:
            adapters: folder of the stages' adapters.
            stages: the trained stages, in order.
            weights: folder of all weights, for a policy without adapters.
        """


class Tiny(Backbone):
    """Qwen3's architecture with random weights, a tokenizer trained on the prompts, one token per item."""

    from_scratch = True

    def __init__(
        self,
        hidden_size: int = 128,
        num_layers: int = 3,
        num_heads: int = 4,
        mlp_ratio: int = 3,
        vocabulary: int = 8192,
        max_length: int = 1024,
        attention: str = "sdpa",
        initializer_range: float = 0.08,
    ) -> None:
        self.initializer_range = initializer_range
        self.hidden_size, self.num_layers, self.num_heads = hidden_size, num_layers, num_heads
        self.mlp_ratio, self.vocabulary, self.max_length = mlp_ratio, vocabulary, max_length
        self.attention = attention

    def build(self, corpus: Iterable[str], labels: Sequence[str], seed: int) -> Policy:
        """Train the tokenizer and initialise the weights from ``seed``."""
        tokenizer = train_tokenizer(corpus, labels, self.vocabulary)
        config = Qwen3Config(**self._text_settings(tokenizer), tie_word_embeddings=True)
        with seeded_globals(seed, "initial-weights"):
            model = Qwen3ForCausalLM(config)
        model.set_attn_implementation(self.attention)
        return Policy(model, tokenizer)

    def load(self, adapters: Path, stages: Sequence[str], weights: Path) -> Policy:
        """Load weights and tokenizer that were saved together."""
        model, tokenizer = pretrained(str(weights), dtype="float32", attention=self.attention)
        return Policy(model, tokenizer)

    def _text_settings(self, tokenizer: Any) -> dict[str, Any]:
        """The language model's part of a configuration."""
        return {
            "vocab_size": len(tokenizer),
            "hidden_size": self.hidden_size,
            "intermediate_size": self.mlp_ratio * self.hidden_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_heads,
            "head_dim": self.hidden_size // self.num_heads,
            "max_position_embeddings": self.max_length,
            "initializer_range": self.initializer_range,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": None,
        }


class Pretrained(Backbone):
    """A Hugging Face causal language model by hub name or local folder; LoRA adapters or all weights train.

    Code that comes with a checkpoint never runs.
    """

    from_scratch = False

    def __init__(
        self,
        path: str,
        dtype: str = "bfloat16",
        attention: str = "sdpa",
        lora: Mapping[str, Any] | None = None,
        quantization: str | None = None,
        gradient_checkpointing: bool = False,
        max_length: int | None = None,
        revision: str | None = None,
    ) -> None:
        self.path, self.dtype, self.attention, self.revision = path, dtype, attention, revision
        # Rank 0 or no settings: all weights are trained.
        self.lora = lora if lora and lora.get("rank") else None
        self.quantization, self.gradient_checkpointing = quantization, gradient_checkpointing
        self.max_length = max_length
        if quantization and self.lora is None:
            raise UserError(
                "backbone.quantization needs LoRA, since 4-bit weights cannot train: set backbone.lora.rank above 0"
            )

    def build(self, corpus: Iterable[str], labels: Sequence[str], seed: int) -> Policy:
        """Load model and tokenizer; ``corpus``, ``labels`` and ``seed`` play no part."""
        policy = self._policy(self.path, self.lora, quantization=self.quantization, revision=self.revision)
        if self.gradient_checkpointing:
            policy.model.gradient_checkpointing_enable({"use_reentrant": False})
            policy.model.enable_input_require_grads()
        return policy

    def load(self, adapters: Path, stages: Sequence[str], weights: Path) -> Policy:
        """The base model with the run's adapters, or the whole weights that the run saved."""
        if self.lora is None and stages:
            return self._policy(str(weights), None)
        policy = self.build((), (), 0)
        policy.load_adapters(adapters, stages)
        return policy

    def _policy(self, path: str, lora: Mapping[str, Any] | None, **source: Any) -> Policy:
        model, tokenizer = pretrained(path, dtype=self.dtype, attention=self.attention, **source)
        return Policy(model, tokenizer, lora=lora, max_length=self.max_length)


def pretrained(
    path: str,
    *,
    dtype: str,
    attention: str,
    quantization: str | None = None,
    revision: str | None = None,
    models: Any = AutoModelForCausalLM,
) -> tuple[Any, Any]:
    """Model and tokenizer from the hub or a folder; the ``from_pretrained`` of ``models`` loads the model.

    Raises:
        UserError: the model or the tokenizer cannot be loaded.
    """
    extra: dict[str, Any] = {}
    if quantization == "4bit":
        from transformers import BitsAndBytesConfig

        extra["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=getattr(torch, dtype)
        )
    elif quantization is not None:
        raise UserError(f"backbone.quantization={quantization}: must be 4bit, or null for none")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision or "main")
        with without_bars(path):
            model = models.from_pretrained(
                path,
                dtype=getattr(torch, dtype),
                attn_implementation=attention,
                revision=revision or "main",
                **extra,
            )
    except ImportError as error:
        raise UserError(f"backbone {path}: {error}") from error
    except (OSError, ValueError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(
            f"backbone.path={path} cannot be loaded: {first} (give a hub name that this machine can reach, or a "
            "folder written by save_pretrained)"
        ) from error
    return model, tokenizer
