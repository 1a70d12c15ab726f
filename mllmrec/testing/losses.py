"""Checks of policy losses and regularizers."""

from __future__ import annotations

import copy
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from mllmrec.rl.losses import LossInputs, LossOutputs, PolicyLoss
from mllmrec.rl.parts import REFERENCE, TEACHER
from mllmrec.rl.regularizers import Regularizer
from mllmrec.testing.expect import (
    expect,
    expect_equal,
    expect_needs,
    expect_state,
    expect_tensor,
    is_number,
    shown,
)

LOSS = (
    "a loss takes LossInputs of r completions and returns LossOutputs(terms, metrics), each (r, T), the terms finite and "
    "with a gradient (see mllmrec.rl.losses)"
)
REGULARIZER = (
    "a regularizer takes LossInputs of r completions and returns (r, T) finite terms; weight(step) is a number (see "
    "mllmrec.rl.regularizers)"
)
_HIDDEN = (REFERENCE, TEACHER)


def check_loss(loss: Any) -> None:
    """Check shapes, gradients, masked places, cut micro-batches, rows in another order, and saved state.

    Raises:
        AssertionError: it does something wrong.
    """
    expect(isinstance(loss, PolicyLoss), f"it is {shown(loss)}, not a PolicyLoss")
    unknown = set(loss.accepts) - {"sequence", "segment", "token"}
    expect(not unknown, f"it accepts {sorted(unknown)}, and advantages vary by sequence, segment or token")

    def terms(inputs: LossInputs) -> Tensor:
        given = copy.deepcopy(loss)(inputs)
        expect(isinstance(given, LossOutputs), f"it returns {shown(given)}, not LossOutputs")
        for name, values in given.metrics.items():
            expect_tensor(f"its {name} is", values, tuple(inputs.mask.shape))
        return given.terms

    # The first update of a rollout, where old and new are equal; and a later one.
    for distance in (0.0, 0.3):
        _check_terms(terms, _inputs(distance), loss.whole_groups)
    if "token" in loss.accepts:
        _check_terms(terms, _inputs(0.3, by_token=True), loss.whole_groups)
    expect_needs(loss, _inputs(0.3), lambda part, inputs: part(inputs), _HIDDEN)
    expect_state(loss)


def check_regularizer(regularizer: Any) -> None:
    """Check the weight, shapes, masked places, cut micro-batches, rows in another order, and saved state.

    Raises:
        AssertionError: it does something wrong.
    """
    expect(isinstance(regularizer, Regularizer), f"it is {shown(regularizer)}, not a Regularizer")
    for step in (0, 1000):
        weight = regularizer.weight(step)
        expect(is_number(weight), f"its weight in step {step} is {weight!r}")
    _check_terms(lambda inputs: copy.deepcopy(regularizer)(inputs), _inputs(0.3), regularizer.whole_groups)
    expect_needs(regularizer, _inputs(0.3), lambda part, inputs: part(inputs), _HIDDEN)
    expect_state(regularizer)


def _inputs(distance: float, by_token: bool = False) -> LossInputs:
    """Three groups: two completions, two, one; the lengths differ."""
    noise = torch.Generator().manual_seed(1)
    mask = torch.tensor(
        [
            [True, True, False],
            [True, True, True],
            [True, False, False],
            [True, True, True],
            [True, True, False],
        ]
    )

    def values(low: float, high: float) -> Tensor:
        return torch.where(mask, torch.rand(mask.shape, generator=noise) * (high - low) + low, 0.0)

    logprobs = values(-2.0, -0.1)
    columns = torch.arange(3).expand_as(mask)
    return LossInputs(
        logprobs=logprobs.requires_grad_(),
        old=logprobs.detach() + distance * values(-1.0, 1.0),
        advantages=values(-1.0, 1.0) if by_token else torch.tensor([[1.0], [-1.0], [0.0], [0.5], [-0.5]]),
        mask=mask,
        entropy=values(0.1, 1.0),
        rewards=torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0]),
        group_of=torch.tensor([0, 0, 1, 1, 2]),
        segments=torch.where(mask, columns.clamp_max(1), -1),
        reference=values(-2.0, -0.1),
        teacher=values(-2.0, -0.1),
        foreign=mask & (columns == 1),
    )


def _check_terms(call: Any, inputs: LossInputs, whole_groups: bool) -> None:
    mask, shape = inputs.mask, tuple(inputs.mask.shape)
    terms = expect_tensor("its terms are", call(inputs), shape)
    expect(bool(terms[mask].isfinite().all()), f"its terms are {terms.tolist()}")
    expect(terms.requires_grad, "its terms carry no gradient")
    terms[mask].sum().backward()
    gradient = inputs.logprobs.grad
    assert gradient is not None
    expect(bool(gradient[mask].isfinite().all()), f"the gradient of its terms is {gradient.tolist()}")
    expect(not bool(gradient[~mask].any()), "tokens outside the mask have a gradient")
    elsewhere = replace(inputs, logprobs=torch.where(mask, inputs.logprobs.detach(), -7.0).requires_grad_())
    expect_equal("its terms depend on tokens outside the mask", call(elsewhere)[mask], terms[mask])
    order = torch.tensor([3, 1, 4, 0, 2])
    expect_equal(
        "rows in another order have other terms",
        call(_rows(inputs, order))[mask[order]],
        terms[order][mask[order]],
    )
    cuts = (
        ([[0, 1], [2, 3], [4]], [[0, 1, 2, 3], [4]])
        if whole_groups
        else ([[0], [1, 2], [3, 4]], [[0, 1, 2], [3], [4]])
    )
    for cut in cuts:
        pieces = torch.cat([call(_rows(inputs, torch.tensor(part))) for part in cut])
        expect_equal(
            f"micro-batches of rows {cut} have other terms than all rows together", pieces[mask], terms[mask]
        )


def _rows(inputs: LossInputs, rows: Tensor) -> LossInputs:
    chosen: dict[str, Any] = {
        field.name: value.detach()[rows]
        for field in fields(inputs)
        if isinstance(value := getattr(inputs, field.name), Tensor)
    }
    chosen["logprobs"] = chosen["logprobs"].clone().requires_grad_()
    return replace(inputs, **chosen)
