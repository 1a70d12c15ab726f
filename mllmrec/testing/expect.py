"""What several checks share: sentences about a part, as `AssertionError`."""

from __future__ import annotations

import copy
import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor


def expect(holds: bool, message: str) -> None:
    """Raise an `AssertionError` with this message unless ``holds``."""
    if not holds:
        raise AssertionError(message)


def expect_tensor(what: str, given: Any, shape: tuple[int, ...]) -> Tensor:
    """``given``, which must be a tensor of this shape; ``what`` begins the message, as in "its terms are"."""
    if not isinstance(given, Tensor):
        raise AssertionError(f"{what} {shown(given)}, not a tensor")
    expect(
        tuple(given.shape) == shape, f"{what} a tensor of shape {tuple(given.shape)}, but {shape} is needed"
    )
    return given


def expect_equal(what: str, one: Tensor, other: Tensor) -> None:
    """Two tensors that must agree up to rounding; ``what`` says when they did not."""
    if not torch.allclose(one.float(), other.float(), rtol=1e-4, atol=1e-6, equal_nan=True):
        raise AssertionError(f"{what}: {_rounded(one)} and {_rounded(other)}")


def expect_state(part: Any) -> Any:
    """A copy of the part as its saved state restores it.

    Raises:
        AssertionError: the state cannot be saved or restored.
    """
    state = part.state_dict()
    expect(isinstance(state, dict), f"its state_dict returns {shown(state)}, not a dict")
    restored = copy.deepcopy(part)
    restored.load_state_dict(copy.deepcopy(state))
    return restored


def is_number(value: Any) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, Real) and math.isfinite(value)


def shown(value: Any) -> str:
    """A value in a message."""
    return f"a {type(value).__name__} ({value!r:.60})" if value is not None else "nothing"


def _rounded(values: Tensor) -> str:
    return repr([round(float(one), 4) for one in values.detach().flatten()[:8]])
