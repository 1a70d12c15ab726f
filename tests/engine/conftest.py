"""What tests of engines share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch


@pytest.fixture
def make_double() -> Callable[[torch.nn.Module], None]:
    """Turns a model into double precision throughout."""

    def convert(model: torch.nn.Module) -> None:
        # The norms of transformers would use single precision and round gradients to 1e-8.
        for parent in list(model.modules()):
            for name, norm in parent.named_children():
                if type(norm).__name__.endswith("RMSNorm"):
                    same = torch.nn.RMSNorm(len(norm.weight), norm.variance_epsilon)
                    same.weight = norm.weight
                    setattr(parent, name, same)
        model.double()

    return convert
