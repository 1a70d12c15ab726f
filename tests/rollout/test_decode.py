from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from mllmrec.engine.batches import pad
from mllmrec.rollout.decode import Decoder, draw

PROMPTS = [[11, 12, 13, 14, 15], [21, 22]]


@pytest.mark.parametrize("name", ["qwen3", "qwen2", "llama"])
@pytest.mark.parametrize("group", [1, 3])
def test_step_by_step_equals_the_whole_sequence(make_pretrained, name, group):
    model = make_pretrained(name, lora=None).model.eval()
    rows = 2 * group
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(2, 200, (rows, 4), generator=generator)
    with torch.no_grad():
        decoder = Decoder(model, pad(PROMPTS, 0, side="left"), group)
        for step in range(5):
            expected = [
                model(
                    input_ids=torch.tensor([[*PROMPTS[row // group], *tokens[row, :step].tolist()]])
                ).logits[0, -1]
                for row in range(rows)
            ]
            assert decoder.logits.std() > 1
            assert_close(decoder.logits, torch.stack(expected), atol=1e-5, rtol=0)
            if step < 4:
                decoder.advance(tokens[:, step])


LOGITS = torch.tensor([0.3, -1.0, 1.2, -math.inf, 0.0])
DRAWS = 20_000


def frequencies(**settings):
    drawn = draw(LOGITS.expand(DRAWS, -1), torch.Generator().manual_seed(0), **settings)
    return torch.bincount(drawn, minlength=5).double() / DRAWS


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_are_the_probabilities(temperature):
    expected = torch.softmax(LOGITS.double() / temperature, -1)
    deviation = (expected * (1 - expected) / DRAWS).sqrt()
    found = frequencies(temperature=temperature)
    assert ((found - expected).abs() <= 3 * deviation).all()
    assert found[3] == 0


def test_nucleus_is_the_smallest_set_that_reaches_top_p():
    # exp: 1.350, 0.368, 3.320, 0, 1; sum 6.038; in order 0.550, 0.224, 0.166, 0.061.
    kept = {0.5: [2], 0.55: [2, 0], 0.8: [2, 0, 4], 0.95: [2, 0, 4, 1], 1.0: [2, 0, 4, 1]}
    probabilities = torch.softmax(LOGITS.double(), -1)
    assert 0.549 < probabilities[2] < 0.55
    for top_p, tokens in kept.items():
        expected = torch.zeros(5, dtype=torch.float64)
        expected[tokens] = probabilities[tokens]
        expected /= expected.sum()
        found = frequencies(top_p=top_p)
        assert ((found - expected).abs() <= 3 * (expected * (1 - expected) / DRAWS).sqrt() + 1e-12).all()


def test_temperature_zero_is_the_most_likely_token():
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert draw(LOGITS.expand(5, -1), generator, temperature=0).tolist() == [2] * 5
    assert torch.equal(generator.get_state(), before)


def test_draws_depend_on_their_generator_alone():
    logits = torch.zeros(50, 10)
    before = torch.get_rng_state()
    first = draw(logits, torch.Generator().manual_seed(3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert torch.equal(draw(logits, torch.Generator().manual_seed(3)), first)
    assert not torch.equal(draw(logits, torch.Generator().manual_seed(4)), first)
    torch.set_rng_state(before)


def test_a_row_does_not_depend_on_the_rows_after_it():
    logits = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))
    some = draw(logits[:3], torch.Generator().manual_seed(3))
    assert torch.equal(draw(logits, torch.Generator().manual_seed(3))[:3], some)
