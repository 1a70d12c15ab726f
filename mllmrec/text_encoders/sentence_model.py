"""Reads a sentence-transformers folder with transformers alone, and runs no code from it.

Such a folder lists its modules in ``modules.json``: a transformer, a pooling of its states into one vector, then linear
layers and normalisations. A folder without that file is a plain transformer: the vector is the mean of its states.

B texts, L tokens, H numbers in a state, D numbers in a vector.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_OURS = "sentence_transformers."  # the package whose modules a folder may name
_PLAIN_LIMIT = 256  # tokens of a text, if the folder says nothing


@dataclass(frozen=True)
class Reading:
    """How a model reads texts."""

    max_tokens: int  # longer texts are cut
    lower: bool  # whether texts are written in small letters first
    prompt: str  # stands before every text

    def shown(self, text: str) -> str:
        """A text as the tokenizer gets it."""
        text = self.prompt + text.strip()
        return text.lower() if self.lower else text


class SentenceModel(nn.Module):
    """A transformer, and what makes one vector of its states."""

    def __init__(self, transformer: nn.Module, pooling: Pooling, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.transformer, self.pooling, self.layers = transformer, pooling, nn.ModuleList(layers)

    def forward(self, tokens: dict[str, Tensor]) -> Tensor:
        """Vectors (B, D) of texts as tokens (B, L), padded on the right."""
        states = self.transformer(**tokens).last_hidden_state
        vectors = self.pooling(states, tokens["attention_mask"].bool())
        for layer in self.layers:
            vectors = layer(vectors)
        return vectors


def read_folder(
    folder: Path, prompt: str | None = None, max_tokens: int | None = None
) -> tuple[SentenceModel, Any, Reading]:
    """The model of a folder in float32, its tokenizer, and how it reads texts.

    Args:
        folder: written by sentence-transformers, or by save_pretrained.
        prompt: stands before every text; None: what the folder says.
        max_tokens: texts are cut to this length, or to the model's own limit if that is lower; None: the model's own.

    Raises:
        ValueError: the folder asks for something that is not read here.
        OSError: a file is missing.
    """
    from transformers import AutoModel, AutoTokenizer

    modules = _json(folder / "modules.json", [])
    kinds = [_kind(module) for module in modules]
    if kinds and kinds[:2] != ["Transformer", "Pooling"]:
        raise ValueError(
            f"its modules are {', '.join(kinds)}, not a Transformer with a Pooling and what follows"
        )
    place = folder / str(modules[0]["path"]) if modules else folder
    pooling = Pooling(_json(folder / str(modules[1]["path"]) / "config.json") if modules else {})
    layers = [
        _layer(kind, folder / str(module["path"]))
        for kind, module in zip(kinds[2:], modules[2:], strict=True)
    ]
    tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tokenizer.padding_side = "right"
    transformer, loading = AutoModel.from_pretrained(
        place, dtype=torch.float32, trust_remote_code=False, output_loading_info=True
    )
    absent = loading["missing_keys"]
    if hasattr(transformer, "encoder") and hasattr(transformer, "decoder"):
        transformer = transformer.encoder  # such as T5's: nothing is to be written
        absent = [name for name in absent if name.startswith("encoder.")]
    # Transformers' own pooler is not used here, and many checkpoints lack it.
    if lacking := sorted(name for name in absent if "pooler" not in name):
        raise ValueError(f"it has no weights for {lacking[0]}, which would be random")
    reading = _reading(folder, place, prompt, _limits(max_tokens, tokenizer, transformer.config))
    if reading.prompt and not pooling.includes_prompt:
        raise ValueError("its pooling leaves prompts out, which is not done here: set text_encoder.prompt=''")
    model = SentenceModel(transformer, pooling, layers).eval()
    _try(model, tokenizer)
    return model, tokenizer, reading


def _try(model: SentenceModel, tokenizer: Any) -> None:
    """Raise ValueError if the model cannot encode a short text, as models of text and pictures cannot."""
    try:
        with torch.no_grad():
            model(tokenizer(["a"], padding=True, return_tensors="pt"))
    except Exception as error:
        raise ValueError(f"it does not turn texts alone into vectors ({error})") from error


def _reading(folder: Path, place: Path, prompt: str | None, limits: Sequence[int]) -> Reading:
    # The file's name has the kind of the transformer: sentence_bert_config.json, sentence_roberta_config.json, ...
    files = sorted(place.glob("sentence_*_config.json"))
    said = _json(files[0]) if files else {"max_seq_length": _PLAIN_LIMIT}
    if prompt is None:
        whole = _json(folder / "config_sentence_transformers.json", {})
        prompt = (whole.get("prompts") or {}).get(whole.get("default_prompt_name")) or ""
    own = said.get("max_seq_length")
    return Reading(
        max_tokens=min([*limits, *([own] if own else [])]),
        lower=bool(said.get("do_lower_case")),
        prompt=prompt,
    )


def _limits(max_tokens: int | None, tokenizer: Any, config: Any) -> list[int]:
    """The limits that do not stand in a file of sentence-transformers."""
    places = getattr(config, "max_position_embeddings", None)
    return [limit for limit in (max_tokens, tokenizer.model_max_length, places) if limit]


def _kind(module: dict[str, Any]) -> str:
    """The name of a module's class, if sentence-transformers has it; classes that a folder brings are never run."""
    path = str(module.get("type"))
    if not path.startswith(_OURS):
        raise ValueError(f"its module {path} is code of its own, which is never run")
    return path.rpartition(".")[2]


def _layer(kind: str, folder: Path) -> nn.Module:
    if kind == "Normalize":
        return _Normalize()
    if kind == "Dense":
        return _dense(folder)
    raise ValueError(f"it has a module {kind}; Transformer, Pooling, Dense and Normalize are read")


class Pooling(nn.Module):
    """One vector from the states of a text's tokens: one way, or several side by side.

    Args:
        config: the ``config.json`` of the pooling; empty: the mean.

    Raises:
        ValueError: it names a way that does not exist here.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        mode = config.get("pooling_mode")
        if mode is None:
            # Older files have no word for the mean: it is taken unless they say otherwise.
            flags = {"pooling_mode_mean_tokens": True, **config}
            modes = [name for flag, name in _FLAGS.items() if flags.get(flag)]
        else:
            modes = [mode] if isinstance(mode, str) else list(mode)
        unknown = [mode for mode in modes if mode not in _POOLINGS]
        if unknown or not modes:
            raise ValueError(
                f"its pooling is {', '.join(map(str, unknown)) or 'none'}; there are {', '.join(_POOLINGS)}"
            )
        self.modes, self.includes_prompt = modes, bool(config.get("include_prompt", True))

    def forward(self, states: Tensor, real: Tensor) -> Tensor:
        """(B, L, H) states and (B, L) bool, which tokens are real and not padding → (B, H), or a multiple of H."""
        return torch.cat([_POOLINGS[mode](states, real) for mode in self.modes], 1)


def _sum(states: Tensor, weights: Tensor) -> Tensor:
    return (states * weights[..., None].to(states.dtype)).sum(1)


def _count(real: Tensor) -> Tensor:
    return real.sum(1, keepdim=True).clamp(min=1)


def _rising(real: Tensor) -> Tensor:
    """Weights 1, 2, … of the real tokens."""
    return torch.arange(1, real.shape[1] + 1, device=real.device) * real


_POOLINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cls": lambda states, real: states[:, 0],
    "max": lambda states, real: states.masked_fill(~real[..., None], float("-inf")).amax(1),
    "mean": lambda states, real: _sum(states, real) / _count(real),
    "mean_sqrt_len_tokens": lambda states, real: _sum(states, real) / _count(real).sqrt(),
    "weightedmean": lambda states, real: _sum(states, _rising(real)) / _count(_rising(real)),
    "lasttoken": lambda states, real: states[
        torch.arange(len(real), device=real.device), _count(real)[:, 0] - 1
    ],
}
# In the order in which they stand side by side.
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_ACTIVATIONS = {"Identity": nn.Identity, "Tanh": nn.Tanh, "ReLU": nn.ReLU, "GELU": nn.GELU}


class _Normalize(nn.Module):
    def forward(self, vectors: Tensor) -> Tensor:
        return functional.normalize(vectors, dim=1)


def _dense(folder: Path) -> nn.Module:
    """A linear layer and its activation."""
    from safetensors.torch import load_file

    config = _json(folder / "config.json")
    path = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    name = path.rpartition(".")[2]
    if not path.startswith("torch.nn.") or name not in _ACTIVATIONS:
        raise ValueError(f"its Dense has the activation {path}; there are {', '.join(_ACTIVATIONS)}")
    linear = nn.Linear(config["in_features"], config["out_features"], bias=config.get("bias", True))
    stored = folder / "model.safetensors"
    weights = (
        load_file(stored)
        if stored.is_file()
        else torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
    )
    linear.load_state_dict({key.removeprefix("linear."): value for key, value in weights.items()})
    return nn.Sequential(linear.float(), _ACTIVATIONS[name]())


def _json(path: Path, otherwise: Any = None) -> Any:
    """A JSON file; ``otherwise``, if given, where there is none."""
    if otherwise is not None and not path.is_file():
        return otherwise
    return json.loads(path.read_text(encoding="utf-8"))
