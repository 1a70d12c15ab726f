"""Settings of a Hugging Face model that writes texts on this machine."""

from __future__ import annotations

from dataclasses import dataclass

from mllmrec.errors import UserError, choices

_CHOICES = {"dtype": ("bfloat16", "float16", "float32"), "device": ("auto", "cpu", "cuda")}


@dataclass(frozen=True)
class LoadingSettings:
    """Which weights are loaded, and how they run.

    Args:
        revision: branch, tag or commit on the hub; None: main.
        dtype: of the weights: ``bfloat16``, ``float16`` or ``float32``.
        device: ``cpu``, ``cuda``, or ``auto``: the GPU if there is one.
        attn_implementation: the attention implementation of transformers.
        batch_size: requests at once.

    Raises:
        UserError: a value has no meaning.
    """

    revision: str | None = None
    dtype: str = "bfloat16"
    device: str = "auto"
    attn_implementation: str = "sdpa"
    batch_size: int = 8

    def __post_init__(self) -> None:
        _require_least(1, batch_size=self.batch_size)
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise UserError(f"{name}={getattr(self, name)}: must be {choices(allowed)}")


@dataclass(frozen=True)
class WritingSettings:
    """How prompts are shown and texts are drawn.

    Args:
        max_new_tokens: most tokens of a text, a thought included.
        temperature: 0 takes the most likely token.
        top_p: tokens are drawn from the likeliest ones, up to this share of the probability.
        seed: of the draws.
        enable_thinking: passed to the chat template; None leaves the template's own default.
        max_side: limit of an image's longer side, in pixels; 0: none.

    Raises:
        UserError: a value has no meaning.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    enable_thinking: bool | None = None
    max_side: int = 0

    def __post_init__(self) -> None:
        _require_least(1, max_new_tokens=self.max_new_tokens)
        _require_least(0, max_side=self.max_side, temperature=self.temperature)
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p}: must be above 0 and at most 1")


@dataclass(frozen=True)
class HfSettings:
    """The parameters of `mllmrec.reasoners.hf.HfReasoner`."""

    path: str
    sees_images: bool
    loading: LoadingSettings
    writing: WritingSettings


def _require_least(lowest: int, **values: float) -> None:
    for name, value in values.items():
        if value < lowest:
            raise UserError(f"{name}={value}: must be at least {lowest}")
