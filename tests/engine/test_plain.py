"""The plain engine equals running one row at a time without padding."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.testing import assert_close

from mllmrec.engine.base import ChoiceSets
from mllmrec.engine.batches import pad
from mllmrec.engine.plain import Plain

ARCHITECTURES = ["qwen3", "qwen2", "llama"]
PROMPTS = [[11, 12, 13, 14, 15, 16], [21, 22], [31, 32, 33, 34]]
# Rows 0 and 1 are equal; row 2 begins like them; prompt 2 has no completion.
COMPLETIONS = [[41, 42, 43, 44], [41, 42, 43, 44], [41, 42, 50], [60], [41, 42, 43, 44, 45], [61, 62]]
PROMPT_OF = torch.tensor([0, 0, 0, 0, 1, 1])


def completion_scores(model, prompts, completions, prompt_of, *, allowed=None, **settings):
    """``allowed`` (R, T, A) gives every place a set of its own."""
    choices = None
    if allowed is not None:
        rows, width, size = allowed.shape
        choices = ChoiceSets(torch.arange(rows * width).view(rows, width), allowed.reshape(-1, size))
    return Plain().score(model, prompts, completions, prompt_of, choices=choices, **settings)


def batches():
    # The padding token also occurs in the rows: only the mask may tell them apart.
    return pad(PROMPTS, 41, side="left"), pad(COMPLETIONS, 41, side="right")


def gradients(policy, loss):
    weights = {name: weight for name, weight in policy.model.named_parameters() if weight.requires_grad}
    found = torch.autograd.grad(loss, list(weights.values()))
    return torch.cat([gradient.flatten() for gradient in found])


def relative_error(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_logprobs_equal_the_naive_path(make_pretrained, naive_logprobs, name):
    model = make_pretrained(name, lora=None).model.eval()
    with torch.no_grad():
        found = completion_scores(model, *batches(), PROMPT_OF).logprobs
        expected = naive_logprobs(model, *batches(), PROMPT_OF)
    assert found.std() > 1  # the weights are large enough for a shift to show
    assert_close(found, expected, atol=1e-5, rtol=0)
    assert (found[~batches()[1].mask] == 0).all()


def test_positions_shifted_by_one_are_noticed(make_pretrained, naive_logprobs):
    model = make_pretrained(lora=None).model.eval()
    with torch.no_grad():
        found = completion_scores(model, *batches(), PROMPT_OF).logprobs
        for shift in (-1, 1):
            shifted = naive_logprobs_shifted(naive_logprobs, model, shift)
            assert (found - shifted).abs().max() > 0.1


def naive_logprobs_shifted(naive_logprobs, model, shift):
    prompts, completions = batches()
    if shift == 1:  # reading further needs one more token
        completions = pad([[*row, 1] for row in COMPLETIONS], 41, side="right")
        prompts = pad([row[:-1] for row in PROMPTS], 41, side="left")
        return naive_logprobs(model, prompts, completions, PROMPT_OF)[:, :5]
    return naive_logprobs(model, prompts, completions, PROMPT_OF, shift=shift)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_gradients_equal_the_naive_path(make_pretrained, naive_logprobs, shake, name):
    policy = make_pretrained(name)
    policy.begin_phase("sft")
    shake(policy, "sft")
    coefficients = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    found = completion_scores(policy.model, *batches(), PROMPT_OF).logprobs
    expected = naive_logprobs(policy.model, *batches(), PROMPT_OF)
    assert_close(found, expected, atol=1e-5, rtol=0)
    ours = gradients(policy, (coefficients * found).sum())
    theirs = gradients(policy, (coefficients * expected).sum())
    assert relative_error(ours, theirs) < 1e-5
    # If the duplicate row were dropped instead of run once for both, a quarter of the gradient would be lost.
    dropped = gradients(
        policy, (coefficients[1:] * naive_logprobs(policy.model, *batches(), PROMPT_OF)[1:]).sum()
    )
    assert relative_error(dropped, theirs) > 1e-2


def test_double_precision_is_kept(make_pretrained, naive_logprobs):
    policy = make_pretrained(lora=None)
    policy.model.double()
    found = completion_scores(policy.model, *batches(), PROMPT_OF).logprobs
    expected = naive_logprobs(policy.model, *batches(), PROMPT_OF)
    assert_close(found, expected, atol=1e-12, rtol=0)
    ours, theirs = gradients(policy, found.sum()), gradients(policy, expected.sum())
    assert relative_error(ours, theirs) < 1e-12


def test_half_precision_is_normalised_in_single(make_pretrained):
    model = make_pretrained(lora=None).model.bfloat16()
    with torch.no_grad():
        assert completion_scores(model, *batches(), PROMPT_OF).logprobs.dtype == torch.float32


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature_divides_the_logits(make_pretrained, naive_logprobs, temperature):
    model = make_pretrained(lora=None).model.eval()
    with torch.no_grad():
        found = completion_scores(model, *batches(), PROMPT_OF, temperature=temperature).logprobs
        expected = naive_logprobs(model, *batches(), PROMPT_OF, temperature=temperature)
    assert_close(found, expected, atol=1e-5, rtol=0)


def test_rows_do_not_depend_on_their_company(make_pretrained):
    model = make_pretrained(lora=None).model.eval()
    prompts, completions = batches()
    with torch.no_grad():
        together = completion_scores(model, prompts, completions, PROMPT_OF)
        alone = [
            completion_scores(
                model,
                pad([PROMPTS[source]], 0, side="left"),
                pad([COMPLETIONS[row]], 0, side="right"),
                torch.tensor([0]),
            )
            for row, source in enumerate(PROMPT_OF.tolist())
        ]
    for row, scores in enumerate(alone):
        length = len(COMPLETIONS[row])
        assert_close(together.logprobs[row, :length], scores.logprobs[0], atol=1e-5, rtol=0)
        assert_close(together.entropy[row, :length], scores.entropy[0], atol=1e-5, rtol=0)


def test_only_wanted_tokens_are_scored_and_run(make_pretrained):
    model = make_pretrained(lora=None).model.eval()
    prompts, completions = batches()
    scored = torch.zeros(6, 5, dtype=torch.bool)
    scored[:, 1] = True  # the second token alone; row 3 has none
    lengths = Counter()
    model.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.update([tuple(kwargs["input_ids"].shape)]), with_kwargs=True
    )
    with torch.no_grad():
        full = completion_scores(model, prompts, completions, PROMPT_OF)
        some = completion_scores(model, prompts, completions, PROMPT_OF, scored=scored)
    assert_close(some.logprobs[:, 1], full.logprobs[:, 1], atol=1e-5, rtol=0)
    assert some.logprobs[3, 1] == 0
    assert (some.logprobs[:, [0, 2, 3, 4]] == 0).all()
    assert (some.entropy[:, [0, 2, 3, 4]] == 0).all()
    # In full: prompts of 6 with 4 more tokens, rows 0 and 1 run as one. Up to the second token row 2 joins them, which
    # leaves 0 with 41, 0 with 60, 1 with 41, 1 with 61.
    assert lengths == Counter({(5, 10): 1, (4, 7): 1})


def test_nothing_wanted_is_zero(make_pretrained):
    model = make_pretrained(lora=None).model
    scores = completion_scores(model, *batches(), PROMPT_OF, scored=torch.zeros(6, 5, dtype=torch.bool))
    assert (scores.logprobs == 0).all()
    assert (scores.entropy == 0).all()


def test_entropy_of_the_whole_vocabulary(make_pretrained):
    model = make_pretrained(lora=None).model.eval()
    prompts = pad([PROMPTS[0]], 0, side="left")
    with torch.no_grad():
        scores = completion_scores(
            model, prompts, pad([[41]], 0, side="right"), torch.tensor([0]), temperature=2.0
        )
        logits = model(input_ids=prompts.ids).logits[0, -1] / 2
    expected = torch.distributions.Categorical(logits=logits).entropy()
    assert_close(scores.entropy[0, 0], expected)


def renormalised(model, prompts, allowed, place_tokens, temperature=1.0):
    """Log-probabilities over ``allowed`` after the first prompt and ``place_tokens``."""
    ids = torch.tensor([[*PROMPTS[0], *place_tokens]])
    logits = model(input_ids=ids).logits[0, -1] / temperature
    return torch.log_softmax(logits[torch.tensor(allowed)], -1)


def test_allowed_tokens_share_all_probability(make_pretrained):
    model = make_pretrained(lora=None).model.eval()
    choices = [7, 8, 9]
    completions = pad([[token] for token in choices], 0, side="right")
    allowed = torch.tensor([[[7, 8, 9, -1]]] * 3)
    prompts = pad([PROMPTS[0]], 0, side="left")
    with torch.no_grad():
        for temperature in (1.0, 0.7):
            scores = completion_scores(
                model,
                prompts,
                completions,
                torch.zeros(3, dtype=torch.long),
                allowed=allowed,
                temperature=temperature,
            )
            expected = renormalised(model, prompts, choices, [], temperature)
            assert_close(scores.logprobs[:, 0], expected, atol=1e-5, rtol=0)
            assert_close(scores.logprobs.exp().sum(), torch.tensor(1.0))
            assert_close(
                scores.entropy[:, 0],
                torch.distributions.Categorical(logits=expected).entropy().expand(3),
                atol=1e-5,
                rtol=0,
            )


def test_candidates_of_several_tokens_sum_to_one(make_pretrained):
    model = make_pretrained(lora=None).model.eval()
    rows = [[5, 6, 2], [5, 7, 2], [8, 2], [5, 7, 9, 2]]
    completions = pad(rows, 0, side="right")
    # First token 5 or 8; after 5: 6 or 7; after 5 7: 2 or 9; all else is forced.
    options = [[[5, 8], [6, 7], [2]], [[5, 8], [6, 7], [2, 9]], [[5, 8], [2]], [[5, 8], [6, 7], [2, 9], [2]]]
    allowed = torch.full((4, 4, 2), -1)
    for row, places in enumerate(options):
        for place, tokens in enumerate(places):
            allowed[row, place, : len(tokens)] = torch.tensor(tokens)
    with torch.no_grad():
        scores = completion_scores(
            model,
            pad([PROMPTS[0]], 0, side="left"),
            completions,
            torch.zeros(4, dtype=torch.long),
            allowed=allowed,
        )
    assert_close(scores.logprobs.sum(1).exp().sum(), torch.tensor(1.0))
    assert (scores.logprobs[2, 1:] == 0).all()  # forced and padding
    assert scores.logprobs[0, 2] == 0


def test_gradients_under_constraints_stay_finite_where_nothing_is_allowed(make_pretrained, shake):
    policy = make_pretrained()
    policy.begin_phase("sft")
    shake(policy, "sft")
    allowed = torch.full((2, 2, 2), -1)
    allowed[0, 0] = torch.tensor([5, 6])
    allowed[1] = torch.tensor([[5, 6], [2, 3]])  # so that the second place is run for both rows
    scored = torch.tensor([[True, False], [True, True]])
    scores = completion_scores(
        policy.model,
        pad(PROMPTS[:2], 0, side="left"),
        pad([[5, 2], [6, 2]], 0, side="right"),
        torch.tensor([0, 1]),
        scored=scored,
        allowed=allowed,
    )
    gradient = gradients(policy, scores.logprobs.sum())
    assert torch.isfinite(gradient).all()
    assert gradient.norm() > 0
    assert not scores.entropy.requires_grad
