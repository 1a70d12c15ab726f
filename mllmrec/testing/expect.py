"""What several checks share: sentences about a part, as `AssertionError`."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection
from dataclasses import replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from mllmrec.rl.batch import RolloutBatch
from mllmrec.rl.parts import COMPUTED


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


def expect_needs(part: Any, given: Any, call: Callable[[Any, Any], Any], hidden: Collection[str]) -> None:
    """Check that the part's ``needs`` are fields that a run can compute, and that it reads no other one of them.

    Args:
        part: of a step.
        given: a `RolloutBatch`, or `LossInputs`, with which a call of the part succeeds.
        call: calls a part with it.
        hidden: fields that are there only if a part needs them.

    Raises:
        AssertionError: it names something else, or reads what it does not name.
    """
    needs = part.needs
    expect(
        isinstance(needs, (frozenset, set)) and needs <= COMPUTED,
        f"its needs are {needs!r}, not a frozenset with some of {', '.join(sorted(COMPUTED))}",
    )
    what = "batch" if isinstance(given, RolloutBatch) else "inputs"
    for name in sorted({*hidden} - needs):
        try:
            call(copy.deepcopy(part), replace(given, **{name: None}))
        except (AttributeError, TypeError) as error:
            said = repr(name).replace("'", '"')
            raise AssertionError(
                f"it reads {what}.{name}, which is there only for a part that says needs = frozenset({{{said}}})"
            ) from error


def expect_untouched(batch: RolloutBatch, before: Tensor | None) -> None:
    """Check that a part left the rewards that it was given as they were."""
    if before is not None and not torch.equal(batch.judged(), before):
        raise AssertionError("it changes the batch's rewards in place; compute new ones from them")


def is_number(value: Any) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, Real) and math.isfinite(value)


def shown(value: Any) -> str:
    """A value in a message."""
    if value is None:
        return "nothing"
    kind, said = type(value).__name__, repr(value)
    if " object at 0x" in said:
        return f"a {kind}"
    return f"a {kind} ({said:.60})"


def _rounded(values: Tensor) -> str:
    return repr([round(float(one), 4) for one in values.detach().flatten()[:8]])
