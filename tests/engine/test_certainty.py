"""Self-certainty: how far the next token's distribution is from the uniform one."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from mllmrec.engine.base import ChoiceSets, certainty_of
from mllmrec.engine.batches import pad
from mllmrec.engine.plain import Plain
from mllmrec.engine.shared_prefix import SharedPrefix

INF = float("inf")


def test_a_certainty_that_can_be_checked_in_the_head():
    # Uniform: 0. Probabilities 0.8 and 0.2: -log 2 - (log 0.8 + log 0.2) / 2 = -log 2 - log 0.4 = log 1.25.
    logits = torch.tensor([[3.0, 3.0, -INF], [math.log(8), math.log(2), -INF], [5.0, -INF, -INF]])
    found = certainty_of(logits, torch.logsumexp(logits, -1))
    assert_close(found, torch.tensor([0.0, math.log(1.25), 0.0]))


@pytest.mark.parametrize("engine", [Plain(), SharedPrefix()])
def test_engines_compute_it_over_the_vocabulary_and_over_a_few_tokens(make_pretrained, engine):
    model = make_pretrained(lora=None).model.eval()
    prompts, completions = pad([[5, 6, 7]], 0, side="left"), pad([[41, 9]], 0, side="right")
    choices = ChoiceSets(torch.tensor([[-1, 0]]), torch.tensor([[8, 9, -1]]))
    with torch.no_grad():
        scores = engine.score(
            model,
            engine.encode(model, prompts),
            completions,
            torch.tensor([0]),
            choices=choices,
            temperature=2.0,
            certainty=True,
        )
        logits = model(input_ids=torch.tensor([[5, 6, 7, 41]])).logits[0, 2:] / 2
    whole = torch.log_softmax(logits[0], -1)
    few = torch.log_softmax(logits[1, 8:10], -1)
    expected = torch.stack([-math.log(len(whole)) - whole.mean(), -math.log(2) - few.mean()])
    assert_close(scores.entropy[0], expected, atol=1e-4, rtol=1e-4)
    assert_close(scores.logprobs[0], torch.stack([whole[41], few[1]]), atol=1e-4, rtol=1e-4)
