"""Hashes of everything that trained weights come from: examples, sequences, a policy, a ranking, source files.

They cover content and never names: the same content under another name or path has the same hash, and an edit in place
changes it.
"""

from __future__ import annotations

import inspect
import json
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import get_object
from omegaconf import OmegaConf

from mllmrec.cache import (
    Digest,
    content_fingerprint,
    file_fingerprint,
    files_fingerprint,
    library_version,
)
from mllmrec.evaluation.protocol import Protocol
from mllmrec.models.policy import Policy
from mllmrec.prompts.examples import Example
from mllmrec.prompts.profiles import SecondPrompt
from mllmrec.store.sources import PACKAGE, names_in, used_files

_LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "tokenizers",
    "lightning",
    "accelerate",
    "bitsandbytes",
    "numpy",
    "scipy",
    "scikit-learn",
    "pillow",
)
# The place that a model was loaded from is not part of its content.
_ORIGIN = ("_name_or_path", "transformers_version")
# A ranking of held-out users does not depend on these: its users and candidates are hashed, the others concern reports.
_NOT_MEASURED = (
    "split",
    "max_users",
    "num_negatives",
    "weighting",
    "cot",
    "keep_top",
    "resamples",
    "faithfulness",
)
# These affect only rankings by a policy that reads prompts.
_OF_PROMPTS = ("prompt", "has_reasoning", "reasoned_answer", "reasoning", "hint", "second", "profile_only")
_OF_PROMPT_READERS = (
    "ranking",
    "calibrate",
    "normalise",
    "orders",
    "listing",
    "max_new_tokens",
    "reasoning_samples",
    "max_reasoning_tokens",
)


def examples_fingerprint(examples: Iterable[Example], without: Collection[str] = ()) -> str:
    """A hash of all content of examples, in their order (16 hexadecimal digits).

    Args:
        examples: the examples as the model sees them.
        without: fields to leave out.
    """
    digest = Digest()
    names = [field.name for field in fields(Example) if field.name not in without]
    for example in examples:
        for name in names:
            digest.add(name, _bytes_of(getattr(example, name)))
    return digest.hexdigest()


def sequences_fingerprint(sequences: Iterable[np.ndarray]) -> str:
    """A hash of arrays of item codes, in their order (16 hexadecimal digits)."""
    digest = Digest()
    for sequence in sequences:
        digest.add("sequence", _bytes_of(sequence))
    return digest.hexdigest()


def texts_fingerprint(texts: Sequence[str]) -> str:
    """A hash of texts, in their order (16 hexadecimal digits)."""
    digest = Digest()
    for text in texts:
        digest.add("text", _bytes_of(text))
    return digest.hexdigest()


def named_files(settings: Any) -> dict[str, str]:
    """The files and folders of this machine that settings name, such as a sentence encoder's folder, with their hashes."""
    return {path: content_fingerprint(Path(path)) for path in sorted(set(_paths_in(settings)))}


def model_fingerprint(model: Any) -> str:
    """A hash of a Hugging Face model's current configuration and weights (16 hexadecimal digits)."""
    digest = Digest()
    config = json.dumps(_without(model.config.to_dict(), _ORIGIN), sort_keys=True, default=str)
    digest.add("config", config.encode())
    for name, weight in model.state_dict().items():
        digest.add(f"{name} {tuple(weight.shape)} {weight.dtype}", _bytes_of_tensor(weight))
    return digest.hexdigest()


def reader_fingerprint(policy: Policy) -> str:
    """A hash of the parts that turn prompts into a policy's input: tokenizer, chat template, image processor."""
    with tempfile.TemporaryDirectory() as folder:
        policy.save_reader(Path(folder))
        return content_fingerprint(Path(folder))


def measure_fingerprint(measured: Protocol | None, reads_prompts: bool = True) -> dict[str, Any] | None:
    """Everything that determines the numbers of a ranking, as JSON values; None for no ranking.

    Args:
        measured: the ranking.
        reads_prompts: whether the ranked model reads prompts; other models read histories.
    """
    if measured is None:
        return None
    left_out = _NOT_MEASURED if reads_prompts else (*_NOT_MEASURED, *_OF_PROMPT_READERS)
    examples: Iterable[Example] = (measured.examples[position] for position in measured.positions)
    if reads_prompts:
        # Candidates that one prompt does not list are listed by several, each with its share of them.
        examples = (part for example in examples for part in measured.examples.in_lists(example))
    settings: Any = OmegaConf.to_container(measured.settings, resolve=True)
    return {
        "examples": examples_fingerprint(examples, () if reads_prompts else _OF_PROMPTS),
        "settings": {name: value for name, value in settings.items() if name not in left_out},
        "seed": measured.seed,
    }


def code_fingerprint(settings: Any, entry: str) -> dict[str, Any]:
    """The code and device of a computation: library versions, hashes of this package's and the user's source, CPU or GPU.

    Args:
        settings: settings of the training; classes in their ``_target_`` may lie outside this package.
        entry: the module that trains. Of this package count the files that it or something in ``settings`` can use.
    """
    own = _own_sources(settings)
    used = {entry, *_named_modules(settings)}.union(*map(names_in, own.values()))
    return {
        "libraries": {name: library_version(name) for name in _LIBRARIES},
        "package": package_fingerprint(frozenset(used)),
        "own": {name: file_fingerprint(path) for name, path in sorted(own.items())},
        "device": "cuda" if torch.cuda.is_available() else "cpu",
    }


@cache
def package_fingerprint(entries: frozenset[str]) -> str:
    """A hash of this package's code and wordings that some modules can use (16 hexadecimal digits)."""
    return files_fingerprint(used_files(entries))


def _own_sources(settings: Any) -> dict[str, Path]:
    """``_target_`` → source file, for classes outside this package."""
    if isinstance(settings, Mapping):
        found = [_own_sources(value) for value in settings.values()]
        target = settings.get("_target_")
        if isinstance(target, str) and not target.startswith(f"{PACKAGE.name}."):
            found.append({target: Path(inspect.getfile(get_object(target)))})
    elif isinstance(settings, list | tuple):
        found = [_own_sources(value) for value in settings]
    else:
        return {}
    return {name: path for part in found for name, path in part.items()}


def _named_modules(settings: Any) -> set[str]:
    """All texts in settings that name something in this package."""
    if isinstance(settings, str):
        return {settings} if settings.startswith(f"{PACKAGE.name}.") else set()
    if isinstance(settings, Mapping):
        settings = list(settings.values())
    if not isinstance(settings, list | tuple):
        return set()
    return set().union(*map(_named_modules, settings))


def _paths_in(settings: Any) -> Iterator[str]:
    if isinstance(settings, dict):
        settings = list(settings.values())
    if isinstance(settings, list):
        for value in settings:
            yield from _paths_in(value)
    elif isinstance(settings, str) and settings.strip():  # an empty text is not the current folder
        try:
            if Path(settings).exists():
                yield settings
        except (OSError, ValueError):
            return  # too long for a path, or not a valid one


def _without(value: Any, names: Sequence[str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _without(entry, names) for key, entry in value.items() if key not in names}
    return [_without(entry, names) for entry in value] if isinstance(value, list | tuple) else value


def _bytes_of(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if value is None:
        return b""
    if isinstance(value, SecondPrompt):
        return _bytes_of(value.about("profile"))
    if isinstance(value, bool | int):
        return repr(int(value)).encode()
    if isinstance(value, np.ndarray) and value.dtype.kind in "iub":
        # The storage width of codes does not matter.
        return np.ascontiguousarray(value, dtype=np.int64).tobytes()
    raise TypeError(f"{type(value).__name__} is not hashed yet: add it here")


def _bytes_of_tensor(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
