from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.compose import compose_checked
from mllmrec.errors import UserError
from mllmrec.rl.losses import LossInputs
from mllmrec.testing import check_regularizer
from mllmrec.testing.trials import trial_faults
from mllmrec.variants.llds import LikelihoodKept


def inputs_of(falls, advantages, segments=None) -> LossInputs:
    """(r, T) nats by which tokens became less likely, and (r,) advantages; nan is no token."""
    falls = torch.tensor(falls)
    mask = ~falls.isnan()
    logprobs = (-falls.nan_to_num(5.0) - 1).requires_grad_()
    return LossInputs(
        logprobs,
        torch.full_like(falls, -1.0),
        torch.tensor(advantages)[:, None],
        mask,
        torch.zeros_like(falls),
        segments=None if segments is None else torch.tensor(segments),
    )


@pytest.mark.parametrize(
    ("falls", "advantage", "penalty"),
    [
        ([0.2, -0.1, 0.3], 1.0, 0.033333),  # 0.2 · (0.2 + 0.3) / 3: together less likely by 0.4
        ([0.2, -0.1, 0.3], 0.0, 0.033333),
        ([0.2, -0.1, 0.3], -1.0, 0.0),
        ([0.2, -0.5, 0.1], 1.0, 0.0),  # together more likely by 0.2
        ([0.2, -0.1, float("nan")], 1.0, 0.02),  # 0.2 · 0.2 / 2
    ],
)
def test_an_answer_by_hand(falls, advantage, penalty):
    given, part = inputs_of([falls], [advantage]), LikelihoodKept(coefficient=0.2)
    loss = part.weight(0) * part(given)[given.mask].mean()
    assert loss.item() == pytest.approx(penalty, abs=1e-6)
    loss.backward()
    # Only tokens that fell are pulled up.
    fell = (torch.tensor([falls]) > 0) & (penalty > 0)
    assert torch.equal(given.logprobs.grad < 0, fell)


def test_each_segment_is_asked_for_itself():
    # The first segment fell by 0.1, the second rose by 0.3, and the token without a segment fell.
    given = inputs_of([[0.2, -0.1, 0.1, -0.4, 0.2]], [1.0], [[0, 0, 1, 1, -1]])
    assert_close(LikelihoodKept(gate="segment")(given), torch.tensor([[0.2, 0.0, 0.0, 0.0, 0.2]]))
    # The whole answer neither fell nor rose: 0.2 - 0.1 + 0.1 - 0.4 + 0.2 = 0. Without segments it is asked as a whole.
    whole = inputs_of([[0.2, -0.1, 0.1, -0.3, 0.2]], [1.0])
    assert_close(LikelihoodKept(gate="segment")(whole), LikelihoodKept()(whole))


def test_the_first_update_has_no_penalty_and_no_gradient():
    given = inputs_of([[0.0, 0.0]], [1.0])
    LikelihoodKept()(given).sum().backward()
    assert given.logprobs.grad.tolist() == [[0.0, 0.0]]


def test_answers_may_be_spared_and_still_count_for_the_gate():
    # Reasoning of two tokens, an answer of two: together less likely by 0.3, the reasoning alone by 0.1.
    segments = [[-1, -1, 0, 0]]
    given = inputs_of([[0.2, -0.1, 0.3, -0.1]], [1.0], segments)
    assert_close(LikelihoodKept(answers=False)(given), torch.tensor([[0.2, 0.0, 0.0, 0.0]]))
    # The reasoning fell, and the answer rose by more.
    rose = inputs_of([[0.2, -0.1, -0.3, 0.1]], [1.0], segments)
    assert not LikelihoodKept(answers=False)(rose).any()
    assert not LikelihoodKept(answers=False)(inputs_of([[0.2, 0.1]], [1.0])).any()
    check_regularizer(LikelihoodKept(answers=False))


def test_answers_without_reasoning_cannot_be_spared():
    words = ["variant=llds", "regularizers.llds.answers=false"]
    with pytest.raises(UserError, match=r"regularizers\.llds\.answers=false.*set task=reasoned"):
        check_config(compose_checked("train", words, CONFIG_DIR).config)
    check_config(compose_checked("train", [*words, "task=reasoned"], CONFIG_DIR).config)


@pytest.mark.parametrize("gate", ["answer", "segment"])
def test_it_is_a_regularizer(gate):
    check_regularizer(LikelihoodKept(gate=gate))
    with pytest.raises(ValueError, match="answer, segment"):
        LikelihoodKept(gate=gate[:3])


@pytest.mark.parametrize("variant", ["llds", "entropy_bonus"])
def test_the_variants_are_whole(variant):
    composed = compose_checked("train", [f"variant={variant}"], CONFIG_DIR)
    assert composed.faults == []
    check_config(composed.config, trial_faults)
