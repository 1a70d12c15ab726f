"""Our loss equals the loss of TRL's GRPOTrainer on the same tensors."""

from __future__ import annotations

import pytest
import torch

from mllmrec.engine.batches import pad
from mllmrec.engine.shared_prefix import SharedPrefix
from mllmrec.rl.left_out import most_uncertain, near_enough
from mllmrec.rl.losses import ClippedRatio, LossInputs, aggregate
from mllmrec.rl.ratio_losses import Sapo
from mllmrec.rl.regularizers import KlToReference
from mllmrec.rl.reinforce import Cispo, Vespo

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")

PROMPTS = pad([[11, 12, 13, 14, 15, 16], [21, 22]], 0, side="left")
# Four for each prompt, of different lengths.
COMPLETIONS = pad(
    [
        [41, 42, 43, 2],
        [41, 2],
        [44, 45, 46, 47],
        [2],
        [51, 52, 2],
        [53, 54, 55, 2],
        [51, 52, 56, 57],
        [58, 2],
    ],
    0,
    side="right",
)
PROMPT_OF = torch.arange(2).repeat_interleave(4)
ADVANTAGES = torch.tensor([1.5, -0.5, -0.5, -0.5, 0.9, 0.9, -0.9, -0.9])
LONGEST = 7  # the length limit, which none of these completions reaches
TEMPERATURE = 0.9
# TRL's name, ours.
NAMES = [
    ("grpo", "sequence_mean"),
    ("bnpo", "micro_batch_mean"),
    ("dapo", "token_mean"),
    ("dr_grpo", "constant"),
]


@pytest.fixture
def make_trainer(make_pretrained, tmp_path):
    """TRL's trainer around a policy's model, where its loss is computed as in training."""

    def make(**settings):
        policy = make_pretrained(lora=None)
        arguments = trl.GRPOConfig(
            output_dir=str(tmp_path),
            use_cpu=True,
            bf16=False,
            report_to=[],
            gradient_checkpointing=False,
            per_device_train_batch_size=len(PROMPT_OF),
            num_generations=4,
            max_completion_length=LONGEST,
            temperature=TEMPERATURE,
            # The second is an importance weight on the KL, absent from DeepSeekMath.
            **{"use_bias_correction_kl": False, **settings},
        )
        trainer = trl.GRPOTrainer(
            policy.model,
            reward_funcs=lambda completions, **others: [0.0] * len(completions),
            args=arguments,
            train_dataset=datasets.Dataset.from_dict({"prompt": ["Red Lamp", "one line"]}),
            processing_class=policy.tokenizer,
        )
        trainer.current_gradient_accumulation_steps = 1
        trainer.model.train()
        return trainer

    return make


def gradient(leaves, loss):
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, leaves)])


def shifted(logprobs, seed):
    """Log-probabilities of a policy some distance away: ratios from about 0.5 to 2, so that both clips hold."""
    noise = torch.randn(logprobs.shape, generator=torch.Generator().manual_seed(seed)) * 0.3
    return torch.where(COMPLETIONS.mask, logprobs.detach() + noise, 0.0)


def theirs_of(trainer, rows=slice(None), **given):
    """TRL's loss of some rows."""
    prompts, mask = PROMPT_OF[rows], COMPLETIONS.mask[rows]
    return trainer._compute_loss(
        trainer.model,
        {
            "prompt_ids": PROMPTS.ids[prompts],
            "prompt_mask": PROMPTS.mask[prompts].long(),
            "completion_ids": COMPLETIONS.ids[rows],
            "completion_mask": mask.long(),
            "advantages": ADVANTAGES[rows],
            "num_items_in_batch": mask.sum(),
            **given,
        },
    )


def ours_of(inputs, loss, aggregation, beta=0.0, kept=None, ratio=False):
    """Our outputs and our loss."""
    mask = inputs.mask
    result = loss(inputs)
    terms = result.terms
    if kept is not None:
        chosen = kept(inputs)
        assert 0 < (chosen & mask).sum() < mask.sum()
        terms = torch.where(chosen, terms, 0.0)
    if beta:
        terms = terms + beta * KlToReference(beta, ratio=ratio)(inputs)
    counts = {"tokens": float(mask.sum()), "sequences": 8.0, "max_length": LONGEST}
    return result, aggregate(terms, mask, aggregation, **counts)


def assert_losses_equal(trainer, loss, aggregation, *settings, sizes=False):
    """Our loss and its gradient are TRL's on the same tensors, at ratios away from 1; returns our outputs.

    Once the whole way from the weights, each side with its own forward pass, and once from the same log-probabilities in
    double precision: in single precision the ways through the model differ by some 1e-6 of the gradient.

    Args:
        trainer: TRL's.
        loss: our loss.
        aggregation: of its terms.
        settings: more for `ours_of`.
        sizes: whether a difference counts in terms of the mean term.
    """
    engine = SharedPrefix()
    encoded = engine.encode(trainer.model, PROMPTS)
    logprobs, entropy = engine.score(trainer.model, encoded, COMPLETIONS, PROMPT_OF, temperature=TEMPERATURE)
    for exact in (False, True):
        if exact:
            logprobs = logprobs.detach().double().requires_grad_()
            known = (logprobs, entropy, None)
            trainer._get_per_token_logps_and_entropies = lambda *_, known=known, **__: known
        old, reference = shifted(logprobs, 0), shifted(logprobs, 1)
        inputs = LossInputs(
            logprobs,
            old,
            ADVANTAGES[:, None],
            COMPLETIONS.mask,
            entropy,
            group_of=torch.zeros(len(PROMPT_OF), dtype=torch.long),
            reference=reference,
        )
        result, ours = ours_of(inputs, loss, aggregation, *settings)
        theirs = theirs_of(trainer, old_per_token_logps=old, ref_per_token_logps=reference)
        size = float(result.terms.detach()[COMPLETIONS.mask].abs().mean()) if sizes else 1.0
        if exact:
            assert_equal([logprobs], ours, theirs, 1e-9, 1e-9)
        else:
            assert_equal(list(trainer.model.parameters()), ours, theirs, 1e-6 * max(1.0, size), 1e-5)
    return result


def assert_equal(leaves, ours, theirs, tolerance, of_gradient):
    """Values differ by at most ``tolerance``, gradients by that share of their norm."""
    assert abs(ours.item()) > 1e-2
    assert ours.item() == pytest.approx(theirs.item(), rel=0, abs=tolerance)
    expected = gradient(leaves, theirs)
    assert (gradient(leaves, ours) - expected).norm() < of_gradient * expected.norm()


@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize(("loss_type", "aggregation"), NAMES)
def test_loss_equals_trls(make_trainer, loss_type, aggregation, beta):
    trainer = make_trainer(loss_type=loss_type, beta=beta, epsilon=0.2, epsilon_high=0.28)
    result = assert_losses_equal(trainer, ClippedRatio(0.2, 0.28), aggregation, beta)
    assert result.metrics["clip_ratio/low_mean"].any()
    assert result.metrics["clip_ratio/high_mean"].any()


def test_micro_batches_of_bnpo_equal_trls(make_trainer):
    trainer = make_trainer(loss_type="bnpo", beta=0.0)
    trainer.current_gradient_accumulation_steps = 2
    model, engine = trainer.model, SharedPrefix()
    encoded = engine.encode(model, PROMPTS)
    logprobs, entropy = engine.score(model, encoded, COMPLETIONS, PROMPT_OF, temperature=TEMPERATURE)
    old = shifted(logprobs, 0)
    ours, theirs = [], []
    for rows in (slice(0, 3), slice(3, 8)):
        mask = COMPLETIONS.mask[rows]
        given = LossInputs(logprobs[rows], old[rows], ADVANTAGES[rows, None], mask, entropy[rows])
        terms = ClippedRatio()(given).terms
        counts = {"tokens": 1.0, "sequences": 1.0, "max_length": LONGEST, "parts": 2}  # only parts counts
        ours.append(aggregate(terms, mask, "micro_batch_mean", **counts))
        theirs.append(theirs_of(trainer, rows, old_per_token_logps=old[rows]))
    assert_equal(list(model.parameters()), sum(ours), sum(theirs), 1e-6, 1e-5)


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"top_entropy_quantile": 0.6}, lambda inputs: most_uncertain(inputs, 0.6)),
        ({"off_policy_mask_threshold": 0.02}, lambda inputs: near_enough(inputs, 0.02)),
    ],
    ids=["entropy", "off_policy"],
)
@pytest.mark.parametrize(("loss_type", "aggregation"), [("grpo", "sequence_mean"), ("dapo", "token_mean")])
def test_tokens_that_are_left_out_are_trls(make_trainer, settings, kept, loss_type, aggregation):
    trainer = make_trainer(loss_type=loss_type, beta=0.1, **settings)
    assert_losses_equal(trainer, ClippedRatio(), aggregation, 0.1, kept)


def test_a_kl_with_ratios_is_trls(make_trainer):
    trainer = make_trainer(loss_type="grpo", beta=0.5, use_bias_correction_kl=True)
    assert_losses_equal(trainer, ClippedRatio(), "sequence_mean", 0.5, None, True)


SEQUENCE = {"importance_sampling_level": "sequence", "epsilon": 0.05, "epsilon_high": 0.1}


@pytest.mark.parametrize(
    ("settings", "loss", "aggregation"),
    [
        ({"loss_type": "grpo", "delta": 1.3}, ClippedRatio(0.2, 0.2, delta=1.3), "sequence_mean"),
        ({"loss_type": "grpo", **SEQUENCE}, ClippedRatio(0.05, 0.1, level="sequence"), "sequence_mean"),
        ({"loss_type": "dapo", **SEQUENCE}, ClippedRatio(0.05, 0.1, level="sequence"), "token_mean"),
        ({"loss_type": "dr_grpo", **SEQUENCE}, ClippedRatio(0.05, 0.1, level="sequence"), "constant"),
        (
            {"loss_type": "grpo", **SEQUENCE, "epsilon": 0.1, "epsilon_high": 0.01, "delta": 1.015},
            ClippedRatio(0.1, 0.01, level="sequence", delta=1.015),
            "sequence_mean",
        ),
        ({"loss_type": "luspo", **SEQUENCE}, ClippedRatio(0.05, 0.1, level="sequence"), "sequence_sum"),
        ({"loss_type": "cispo", "epsilon_high": 1.2}, Cispo(most=1.2), "token_mean"),
        ({"loss_type": "sapo"}, Sapo(), "sequence_mean"),
        ({"loss_type": "vespo"}, Vespo(), "token_mean"),
    ],
    ids=lambda value: value.get("loss_type") if isinstance(value, dict) else None,
)
def test_other_losses_equal_trls(make_trainer, settings, loss, aggregation):
    trainer = make_trainer(beta=0.0, **settings)
    # Terms of log-probabilities are larger than those of ratios.
    result = assert_losses_equal(trainer, loss, aggregation, sizes=True)
    # Every cap of these settings holds somewhere.
    assert all(values.any() for values in result.metrics.values())
