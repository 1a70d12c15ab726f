"""The loss of foreign tokens, by hand: f(p) = p / (p + 0.1) is 0.5 at 0.1, and 0.9 at 0.9."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from mllmrec.rl.losses import ClippedRatio, LossInputs
from mllmrec.rl.shaped import Shaped
from mllmrec.testing import check_loss


def inputs(advantages, foreign, old=((-1.0, 0.0, 0.0),)):
    probabilities = torch.tensor([[0.4, 0.1, 0.9]])
    return LossInputs(
        logprobs=probabilities.log().requires_grad_(),
        old=torch.tensor(old),
        advantages=torch.tensor(advantages)[:, None],
        mask=torch.ones(1, 3, dtype=torch.bool),
        entropy=torch.zeros(1, 3),
        foreign=None if foreign is None else torch.tensor([foreign]),
    )


@pytest.mark.parametrize("wrong", ["mask", "shape"])
def test_unlikely_foreign_tokens_keep_a_gradient(wrong):
    given = inputs([2.0], [False, True, True])
    found = Shaped(wrong=wrong)(given)
    assert_close(found.terms[0, 1:], torch.tensor([-1.0, -1.8]))
    assert_close(found.metrics["foreign/shaped_mean"], torch.tensor([[0.0, 0.5, 0.9]]))
    found.terms.sum().backward()
    # c p / (p + c)² is 0.01 / 0.04 and 0.09 / 1; without f it would be p, 0.1 and 0.9.
    assert_close(given.logprobs.grad[0, 1:], torch.tensor([-0.5, -0.18]))


@pytest.mark.parametrize(("wrong", "slopes"), [("mask", [0.0, 0.0]), ("shape", [0.25, 0.09])])
def test_foreign_tokens_of_a_bad_answer_are_masked_or_pushed_down(wrong, slopes):
    given = inputs([-1.0], [False, True, True])
    Shaped(wrong=wrong)(given).terms.sum().backward()
    assert_close(given.logprobs.grad[0, 1:], torch.tensor(slopes))


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_own_tokens_are_clipped_as_ever(level):
    plain, shaped = ClippedRatio(level=level), Shaped(level=level)
    # 0.4 / exp(-1) = 1.09; the last two tokens moved far, by 0.1 and 0.9 against 1.
    for foreign in (None, [False, False, False]):
        mine, theirs = shaped(inputs([1.0], foreign)), plain(inputs([1.0], foreign))
        assert_close(mine.terms, theirs.terms)
    mine = shaped(inputs([1.0], [False, True, True]))
    # Alone in the ratio of its completion, the first token has its own ratio.
    assert mine.terms[0, 0].item() == pytest.approx(-0.4 * 2.718282, abs=1e-5)
    assert not mine.metrics["clip_ratio/low_mean"].any()


def test_it_is_a_loss():
    for wrong in ("mask", "shape"):
        check_loss(Shaped(wrong=wrong))
    with pytest.raises(ValueError, match="above 0"):
        Shaped(constant=0.0)
    with pytest.raises(ValueError, match="none of mask, shape"):
        Shaped(wrong="drop")
