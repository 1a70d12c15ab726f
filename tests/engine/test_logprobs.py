from __future__ import annotations

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.testing import assert_close

from mllmrec.engine.logprobs import competing_logprobs, token_logprobs

HIDDEN, VOCABULARY = 6, 50
# Ten hidden states; 2 and 7 are followed by several tokens, 0 and 9 by none.
PLACES = torch.tensor([7, 2, 4, 2, 8, 7, 2, 1])
TARGETS = torch.tensor([3, 49, 0, 7, 7, 3, 11, 30])


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


@pytest.fixture(params=[False, True], ids=["no bias", "bias"])
def head(request):
    head = torch.nn.Linear(HIDDEN, VOCABULARY, bias=request.param, dtype=torch.float64)
    with torch.no_grad():
        head.weight.copy_(random(VOCABULARY, HIDDEN))
    return head


class Counted(torch.nn.Linear):
    """Remembers how many rows each call projects."""

    def __init__(self) -> None:
        super().__init__(HIDDEN, VOCABULARY, bias=False, dtype=torch.float64)
        self.rows: list[int] = []

    def forward(self, hidden):
        self.rows.append(len(hidden))
        return super().forward(hidden)


def gradients(logprobs, hidden, head):
    coefficients = random(len(logprobs))
    return torch.autograd.grad((coefficients * logprobs).sum(), [hidden, *head.parameters()])


@pytest.mark.parametrize("rows_in_chunk", [1, 2, 3, 5, 6])  # of five places
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_chunks_change_nothing(head, rows_in_chunk, temperature):
    hidden = random(10, HIDDEN).requires_grad_()
    logprobs, entropy = token_logprobs(
        hidden, head, PLACES, TARGETS, temperature=temperature, chunk=rows_in_chunk * VOCABULARY
    )
    whole = torch.log_softmax(head(hidden) / temperature, -1)
    expected = whole[PLACES, TARGETS]
    assert_close(logprobs, expected, atol=1e-12, rtol=0)
    assert_close(entropy, torch.distributions.Categorical(logits=whole[PLACES]).entropy(), atol=1e-12, rtol=0)
    assert not entropy.requires_grad
    for ours, theirs in zip(
        gradients(logprobs, hidden, head), gradients(expected, hidden, head), strict=True
    ):
        assert_close(ours, theirs, atol=1e-12, rtol=0)


def test_each_place_is_projected_once_and_again_only_for_its_gradient():
    head, hidden = Counted(), random(10, HIDDEN).requires_grad_()
    token_logprobs(hidden, head, PLACES, TARGETS)
    assert head.rows == [5]  # 1, 2, 4, 7 and 8
    head.rows.clear()
    logprobs, _ = token_logprobs(hidden, head, PLACES, TARGETS, chunk=2 * VOCABULARY)
    assert head.rows == [2, 2, 1]
    logprobs.sum().backward()
    assert sorted(head.rows) == [1, 1, 2, 2, 2, 2]


def largest_saved(hidden, head, places, chunk):
    """Numbers in the largest tensor that the graph keeps for the backward pass."""
    sizes = []

    def keep(tensor):
        sizes.append(tensor.numel())
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        logprobs, _ = token_logprobs(hidden, head, places, torch.zeros_like(places), chunk=chunk)
    assert logprobs.requires_grad
    return max(sizes)


def test_places_times_vocabulary_is_not_kept():
    places, hidden = torch.arange(200), random(200, HIDDEN).requires_grad_()
    head = torch.nn.Linear(HIDDEN, VOCABULARY, bias=False, dtype=torch.float64)
    assert largest_saved(hidden, head, places, chunk=200 * VOCABULARY) == 200 * VOCABULARY
    # In chunks the hidden states, 200 x 6, are the largest; the head has 50 x 6.
    assert largest_saved(hidden, head, places, chunk=20 * VOCABULARY) <= 200 * HIDDEN


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logprobs_are_in_single_precision_or_better(dtype):
    head = torch.nn.Linear(HIDDEN, VOCABULARY, dtype=dtype)
    hidden = random(10, HIDDEN).to(dtype)
    sets = torch.tensor([[3, 0, 49]])
    for logprobs, entropy in (
        token_logprobs(hidden, head, PLACES, TARGETS),
        competing_logprobs(hidden, head, PLACES[:1], TARGETS[:1], sets, torch.tensor([0])),
    ):
        assert logprobs.dtype == entropy.dtype == torch.float32


# No place uses set 1; the other sets have three, two and one competitor.
SETS = torch.tensor([[3, 11, 40], [5, 6, 7], [0, 49, -1], [30, -1, -1]])
# Place 2 has three targets of the same set.
COMPETING = torch.tensor([2, 7, 2, 4, 2, 1]), torch.tensor([11, 49, 3, 0, 40, 30])
SET_OF = torch.tensor([0, 2, 0, 2, 0, 3])


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("kind", [torch.nn.Linear, Counted])
def test_competitors_share_all_probability(kind, temperature):
    """A head that is more than a linear layer computes all its logits itself, with the same result."""
    head = kind(HIDDEN, VOCABULARY, dtype=torch.float64) if kind is torch.nn.Linear else kind()
    hidden = random(10, HIDDEN).requires_grad_()
    places, targets = COMPETING
    logprobs, entropy = competing_logprobs(
        hidden, head, places, targets, SETS, SET_OF, temperature=temperature
    )
    logits = head(hidden) / temperature
    expected, entropies = [], []
    for place, target, number in zip(places.tolist(), targets.tolist(), SET_OF.tolist(), strict=True):
        rivals = [token for token in SETS[number].tolist() if token >= 0]
        renormalised = torch.log_softmax(logits[place, rivals], -1)
        expected.append(renormalised[rivals.index(target)])
        entropies.append(-(renormalised.exp() * renormalised).sum())
    assert_close(logprobs, torch.stack(expected), atol=1e-12, rtol=0)
    assert_close(entropy, torch.stack(entropies).detach(), atol=1e-12, rtol=0)
    assert logprobs[5] == entropy[5] == 0  # alone in its set
    assert_close(logprobs[[0, 2, 4]].exp().sum().item(), 1.0)
    ours, theirs = (gradients(values, hidden, head) for values in (logprobs, torch.stack(expected)))
    for one, other in zip(ours, theirs, strict=True):
        assert_close(one, other, atol=1e-12, rtol=0)
