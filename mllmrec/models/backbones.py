"""Builds policies from scratch or from any Hugging Face causal language model.

Every configuration names a backbone, and the check of a configuration imports it. So transformers, which takes seconds to
import, is imported only when a policy is built.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError

from mllmrec.errors import UserError
from mllmrec.flat import flat_settings
from mllmrec.models.policy import Policy
from mllmrec.models.tokenizer import train_tokenizer
from mllmrec.randomness import seeded_globals
from mllmrec.screen.transformers_output import without_bars


class Backbone(ABC):
    """Builds the policy that the phases train."""

    sees_images: ClassVar[bool] = False  # whether prompts may hold visual tokens

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
    def load(self, adapters: Path, phases: Sequence[str], weights: Path) -> Policy:
        """The policy as a run left it after ``phases``.

        Args:
            adapters: folder of the phases' adapters.
            phases: the trained phases, in order.
            weights: folder of all weights, for a policy without adapters.
        """


@dataclass(frozen=True)
class TinySettings:
    """The sizes of a small language model with random weights.

    Args:
        hidden_size: numbers in a hidden state.
        num_layers: number of transformer layers.
        num_heads: number of attention heads.
        mlp_ratio: width of the feed-forward part, in hidden sizes.
        vocabulary: text tokens, without the item labels.
        max_length: most tokens of a prompt and its completion.
        attention: the attention implementation of transformers.
        initializer_range: deviation of the initial weights.
    """

    hidden_size: int = 128
    num_layers: int = 3
    num_heads: int = 4
    mlp_ratio: int = 3
    vocabulary: int = 8192
    max_length: int = 1024
    attention: str = "sdpa"
    initializer_range: float = 0.08


@dataclass(frozen=True)
class PretrainedSettings:
    """How a checkpoint is loaded and trained.

    Args:
        dtype: of the weights: ``bfloat16``, ``float16`` or ``float32``.
        attention: the attention implementation of transformers.
        lora: settings of the adapters; None or rank 0: all weights are trained.
        quantization: ``4bit``, or None.
        gradient_checkpointing: whether activations are computed again in the backward pass.
        max_length: most tokens of a prompt and its completion; None: what the model holds.
        revision: branch, tag or commit on the hub; None: main.
        gguf_file: a GGUF file in the folder or repository, whose weights are turned into ``dtype``; None: safetensors.
    """

    dtype: str = "bfloat16"
    attention: str = "sdpa"
    lora: Mapping[str, Any] | None = None
    quantization: str | None = None
    gradient_checkpointing: bool = False
    max_length: int | None = None
    revision: str | None = None
    gguf_file: str | None = None


class Tiny(Backbone):
    """Qwen3's architecture with random weights, a tokenizer trained on the prompts, one token per item."""

    from_scratch = True

    @flat_settings
    def __init__(self, sizes: TinySettings = TinySettings()) -> None:
        self.sizes = sizes

    def build(self, corpus: Iterable[str], labels: Sequence[str], seed: int) -> Policy:
        """Train the tokenizer and initialise the weights from ``seed``."""
        from transformers import Qwen3Config, Qwen3ForCausalLM

        tokenizer = train_tokenizer(corpus, labels, self.sizes.vocabulary)
        config = Qwen3Config(**self._text_settings(tokenizer), tie_word_embeddings=True)
        with seeded_globals(seed, "initial-weights"):
            model = Qwen3ForCausalLM(config)
        model.set_attn_implementation(self.sizes.attention)
        return Policy(model, tokenizer)

    def load(self, adapters: Path, phases: Sequence[str], weights: Path) -> Policy:
        """Load weights and tokenizer that were saved together."""
        model, tokenizer = pretrained(str(weights), dtype="float32", attention=self.sizes.attention)
        return Policy(model, tokenizer)

    def _text_settings(self, tokenizer: Any) -> dict[str, Any]:
        """The language model's part of a configuration."""
        sizes = self.sizes
        return {
            "vocab_size": len(tokenizer),
            "hidden_size": sizes.hidden_size,
            "intermediate_size": sizes.mlp_ratio * sizes.hidden_size,
            "num_hidden_layers": sizes.num_layers,
            "num_attention_heads": sizes.num_heads,
            "num_key_value_heads": sizes.num_heads,
            "head_dim": sizes.hidden_size // sizes.num_heads,
            "max_position_embeddings": sizes.max_length,
            "initializer_range": sizes.initializer_range,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": None,
        }


class Pretrained(Backbone):
    """A Hugging Face causal language model by hub name or local folder; LoRA adapters or all weights train.

    Code that comes with a checkpoint never runs.
    """

    from_scratch = False

    @flat_settings
    def __init__(self, path: str, loading: PretrainedSettings = PretrainedSettings()) -> None:
        self.path, self.loading = path, loading
        # Rank 0 or no settings: all weights are trained.
        self.lora = loading.lora if loading.lora and loading.lora.get("rank") else None
        if loading.quantization and self.lora is None:
            raise UserError(
                "backbone.quantization needs LoRA, since 4-bit weights cannot train: set backbone.lora.rank above 0"
            )

    def build(self, corpus: Iterable[str], labels: Sequence[str], seed: int) -> Policy:
        """Load model and tokenizer; ``corpus``, ``labels`` and ``seed`` play no part."""
        loading = self.loading
        policy = self._policy(
            self.path,
            self.lora,
            quantization=loading.quantization,
            revision=loading.revision,
            **({} if loading.gguf_file is None else {"gguf_file": loading.gguf_file}),
        )
        if self.loading.gradient_checkpointing:
            policy.model.gradient_checkpointing_enable({"use_reentrant": False})
            policy.model.enable_input_require_grads()
        return policy

    def load(self, adapters: Path, phases: Sequence[str], weights: Path) -> Policy:
        """The base model with the run's adapters, or the whole weights that the run saved."""
        if self.lora is None and phases:
            return self._policy(str(weights), None)
        policy = self.build((), (), 0)
        policy.load_adapters(adapters, phases)
        return policy

    def _policy(self, path: str, lora: Mapping[str, Any] | None, **source: Any) -> Policy:
        model, tokenizer = pretrained(
            path, dtype=self.loading.dtype, attention=self.loading.attention, **source
        )
        return Policy(model, tokenizer, lora=lora, max_length=self.loading.max_length)


def pretrained(
    path: str,
    *,
    dtype: str,
    attention: str,
    quantization: str | None = None,
    revision: str | None = None,
    gguf_file: str | None = None,
    models: Any = None,
) -> tuple[Any, Any]:
    """Model and tokenizer from the hub or a folder; the ``from_pretrained`` of ``models`` loads the model.

    Without ``models`` it is a causal language model. With ``gguf_file`` both come from that file.

    Raises:
        UserError: the model or the tokenizer cannot be loaded.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    extra: dict[str, Any] = {}
    # With None transformers would ask at the terminal whether to run the checkpoint's code.
    source: dict[str, Any] = {"revision": revision or "main", "trust_remote_code": False}
    if gguf_file is not None:
        if find_spec("gguf") is None:
            raise UserError(f"backbone.gguf_file={gguf_file} needs: pip install 'mllmrec[gguf]'")
        source["gguf_file"] = gguf_file
        extra |= _unpacked()
    if quantization == "4bit":
        from transformers import BitsAndBytesConfig

        extra["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=getattr(torch, dtype)
        )
    elif quantization is not None:
        raise UserError(f"backbone.quantization={quantization}: must be 4bit, or null for none")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **source)
        with without_bars(path):
            model = (models or AutoModelForCausalLM).from_pretrained(
                path,
                dtype=getattr(torch, dtype),
                attn_implementation=attention,
                **source,
                **extra,
            )
    except ImportError as error:
        raise UserError(f"backbone {path}: {error}") from error
    except (OSError, ValueError, SafetensorError, UnpicklingError) as error:
        first = str(error).strip().splitlines()[0]
        where = f"backbone.path={path}" + (f" with backbone.gguf_file={gguf_file}" if gguf_file else "")
        raise UserError(
            f"{where} cannot be loaded: {first} (give a hub name that this machine can reach, or a "
            "folder written by save_pretrained)"
        ) from error
    if quantization == "4bit":
        _keep_trainable(model)
    return model, tokenizer


def _keep_trainable(model: torch.nn.Module) -> None:
    """Stop bitsandbytes from packing weights for inference when a model is evaluated on a CPU with bfloat16 instructions.

    Packed weights stay packed, and their product has no gradient: in all later training, everything below would stand still.
    """
    modules: Iterable[Any] = model.modules()
    for module in modules:
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _unpacked() -> dict[str, Any]:
    """The argument that turns the weights of a GGUF file into plain ones, which can train and be saved."""
    from transformers.utils import quantization_config

    # Earlier versions of transformers know no other way.
    kind = getattr(quantization_config, "GgufConfig", None)
    return {} if kind is None else {"quantization_config": kind(dequantize=True)}
