from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.nn.functional import logsigmoid
from torch.testing import assert_close

from mllmrec.engine.batches import pad
from mllmrec.engine.shared_prefix import SharedPrefix
from mllmrec.rl.preferences import softmax_dpo


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_two_negatives_by_hand():
    # Implicit rewards ln 2, 0 and 0: the true answer has 2 of 4 parts of the softmax.
    preference = softmax_dpo(
        torch.tensor([[math.log(2) - 5, -7.0, -9.0]]), torch.tensor([[-5.0, -7.0, -9.0]]), 1.0
    )
    assert_close(preference.terms, torch.tensor([math.log(2)]))
    assert_close(preference.chosen, torch.tensor([math.log(2)]))
    assert_close(preference.rejected, torch.zeros(1, 2))
    assert preference.won.tolist() == [True]


def test_beta_scales_the_rewards():
    # 0.5 * (2 ln 3) = ln 3 against 0: 3 of 4 parts.
    preference = softmax_dpo(torch.tensor([[2 * math.log(3), 0.0]]), torch.zeros(1, 2), 0.5)
    assert_close(preference.terms, torch.tensor([math.log(4 / 3)]))
    assert_close(preference.margins, torch.tensor([math.log(3)]))


@pytest.mark.parametrize("negatives", [1, 3, 9])
def test_an_unchanged_policy_has_the_log_of_the_number_of_answers(negatives):
    logprobs = random(4, 1 + negatives)
    preference = softmax_dpo(logprobs, logprobs, 0.7)
    assert_close(preference.terms, torch.full((4,), math.log(1 + negatives)))
    assert not preference.won.any()


def test_s_dpo_is_the_published_formula():
    logprobs, reference, beta = random(5, 4), random(5, 4, seed=1), 0.3
    h = logprobs - reference
    inner = torch.exp(beta * (h[:, 1:] - h[:, :1])).sum(1)
    assert_close(softmax_dpo(logprobs, reference, beta).terms, -logsigmoid(-inner.log()))


def test_one_negative_is_dpo():
    logprobs, reference, beta = random(5, 2), random(5, 2, seed=1), 0.3
    margin = (logprobs[:, 0] - logprobs[:, 1]) - (reference[:, 0] - reference[:, 1])
    preference = softmax_dpo(logprobs, reference, beta)
    assert_close(preference.terms, -logsigmoid(beta * margin))
    assert_close(preference.margins, beta * margin)


def test_a_preference_is_won_against_all_negatives_and_the_margin_is_to_their_mean():
    preference = softmax_dpo(torch.tensor([[2.0, 1.0, 3.0], [2.0, 1.0, 0.0]]), torch.zeros(2, 3), 1.0)
    assert preference.won.tolist() == [False, True]
    assert preference.margins.tolist() == [0.0, 1.5]  # 2 - (1 + 3) / 2 and 2 - (1 + 0) / 2


def test_far_from_the_reference_loss_and_gradient_are_finite():
    logprobs = torch.tensor([[-2000.0, 0.0, 0.0]], requires_grad=True)
    terms = softmax_dpo(logprobs, torch.zeros(1, 3), 1.0).terms
    terms.sum().backward()
    assert_close(terms.detach(), torch.tensor([2000 + math.log(2)]))
    assert_close(logprobs.grad, torch.tensor([[-1.0, 0.5, 0.5]]))


PROMPTS = [[11, 12, 13, 14, 15, 16], [21, 22]]
CHOSEN = [[41, 42, 43, 2], [51, 2]]
REJECTED = [[44, 2], [52, 53, 54, 2]]


def test_loss_gradient_and_metrics_equal_trls(make_pretrained, tmp_path):
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    policy = make_pretrained(lora=None)
    # In single precision two ways through the model differ by some 1e-6 of the gradient.
    policy.model.double()
    reference = copy.deepcopy(policy.model)
    with torch.no_grad():
        for place, weight in enumerate(reference.parameters()):
            weight.add_(random(weight.shape, seed=place), alpha=0.02)
    trainer = trl.DPOTrainer(
        policy.model,
        reference,
        args=trl.DPOConfig(
            output_dir=str(tmp_path),
            use_cpu=True,
            bf16=False,
            report_to=[],
            gradient_checkpointing=False,
            beta=0.4,
        ),
        train_dataset=datasets.Dataset.from_dict(
            {"prompt": ["Red Lamp"], "chosen": ["one"], "rejected": ["line"]}
        ),
        processing_class=policy.tokenizer,
    )
    trainer.model.train()
    rows = [
        prompt + answer
        for answers in (CHOSEN, REJECTED)
        for prompt, answer in zip(PROMPTS, answers, strict=True)
    ]
    batch = pad(rows, 0, side="right")
    starts = torch.tensor([len(prompt) for prompt in PROMPTS * 2])
    answered = batch.mask & (torch.arange(batch.ids.shape[1]) >= starts[:, None])
    theirs = trainer._compute_loss(
        trainer.model,
        {"input_ids": batch.ids, "attention_mask": batch.mask.long(), "completion_mask": answered.long()},
        False,
    )

    def logprobs(model):
        engine = SharedPrefix()
        answers = [answer for pair in zip(CHOSEN, REJECTED, strict=True) for answer in pair]
        encoded = engine.encode(model, pad(PROMPTS, 0, side="left"))
        scores = engine.score(
            model, encoded, pad(answers, 0, side="right"), torch.tensor([0, 0, 1, 1]), entropy=False
        )
        return scores.logprobs.sum(1).view(2, 2)

    with torch.no_grad():
        known = logprobs(trainer.ref_model)
    preference = softmax_dpo(logprobs(trainer.model), known, 0.4)
    ours = preference.terms.mean()
    assert abs(ours.item() - math.log(2)) > 1e-3
    assert ours.item() == pytest.approx(theirs.item(), rel=0, abs=1e-6)
    weights = list(trainer.model.parameters())
    found, expected = (
        torch.cat([part.flatten() for part in torch.autograd.grad(loss, weights)]) for loss in (ours, theirs)
    )
    assert (found - expected).norm() < 1e-6 * expected.norm()
    metrics = trainer._metrics["train"]
    for name, value in (
        ("accuracies", preference.won.float()),
        ("margins", preference.margins),
        ("chosen", preference.chosen),
        ("rejected", preference.rejected),
    ):
        assert metrics[f"rewards/{name}"] == [pytest.approx(value.mean().item(), abs=1e-5)]
