"""Rollouts whose groups differ in size, and updates that only add gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mllmrec.rollout.base import PlainRollout, WrappedRollout


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Makes the random new adapters the same whichever tests ran before."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


class Picked(WrappedRollout):
    """Some rows of a draw, in this order. Each was drawn by a policy of its own, at ``0.04 * row`` nats from this one."""

    off_policy = True

    def __init__(self, inner: PlainRollout, rows: list[int], says_old: bool = True) -> None:
        super().__init__(inner)
        self.picked, self.says_old = rows, says_old

    def __call__(self, examples, speaker, judge, turn):
        batch = self.inner(examples, speaker, judge, turn)
        apart = 0.04 * torch.arange(len(batch))[:, None]
        old = (speaker.score(batch) - apart) * batch.learnt if self.says_old else None
        return replace(batch, old=old).take(torch.tensor(self.picked))


@pytest.fixture
def picked() -> type[Picked]:
    return Picked


@pytest.fixture
def gradient_of() -> Callable[..., tuple[float, Tensor]]:
    """The loss of a step's first update, and its gradient; the weights stay."""

    def compute(step, batch) -> tuple[float, Tensor]:
        model = step.speaker.policy.model
        model.zero_grad()

        def update(shares):
            loss = 0.0
            for share in shares:
                share.backward()
                loss += float(share.detach())
            return {"loss": loss}

        numbers = next(step.updates(batch, update))
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        return numbers["loss"], torch.cat([weight.grad.flatten() for weight in weights])

    return compute
