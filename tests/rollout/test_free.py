from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from mllmrec.engine.batches import pad
from mllmrec.engine.plain import Plain
from mllmrec.engine.shared_prefix import SharedPrefix
from mllmrec.rollout.base import Spelling
from mllmrec.rollout.free import Free

PROMPTS = pad([[11, 12, 13, 14, 15], [21, 22]], 0, side="left")
END = 33


def roll_out(model, seed=0, group=64, end=END, engine=None, prompts=PROMPTS, **settings):
    rollout = Free(**{"max_new_tokens": 12, **settings})
    engine = engine or SharedPrefix()
    generators = [torch.Generator().manual_seed(100 * seed + row) for row in range(len(prompts.ids))]
    return rollout.draw(engine, model, engine.encode(model, prompts), group, generators, Spelling(end))


@pytest.fixture
def model(make_pretrained):
    """Says the end token about every fourth time."""
    model = make_pretrained(lora=None).model.eval()
    weight = model.get_output_embeddings().weight
    assert weight.data_ptr() != model.get_input_embeddings().weight.data_ptr()
    model.lm_head.bias = torch.nn.Parameter(torch.zeros(len(weight)))
    with torch.no_grad():
        weight.mul_(0.3)
        model.lm_head.bias[END] = 4.5
    return model


def test_completions_end_at_the_end_token_or_the_limit(model):
    rollouts = roll_out(model)
    ids, mask = rollouts.tokens
    assert ids.shape == mask.shape == (128, 12)
    lengths = mask.sum(1)
    assert len(lengths.unique()) > 1
    for row, length in enumerate(lengths.tolist()):
        said = ids[row, :length].tolist()
        assert mask[row, :length].all()  # real tokens first, then padding
        assert END not in said[:-1]
        assert rollouts.finished[row] == (said[-1] == END)
        assert rollouts.finished[row] or length == 12
    assert rollouts.finished.any()
    assert not rollouts.finished.all()
    assert torch.equal(rollouts.decisions, mask)
    assert rollouts.choices is None


def test_rows_answer_their_prompt(model):
    assert roll_out(model, group=3).prompt_of.tolist() == [0, 0, 0, 1, 1, 1]


def test_decoding_stops_with_the_last_row(model):
    with torch.no_grad():
        model.lm_head.bias[END] = 100.0
    rollouts = roll_out(model, group=4)
    assert rollouts.tokens.ids.tolist() == [[END]] * 8
    assert rollouts.finished.all()


@pytest.mark.parametrize("engine", [SharedPrefix(), Plain()])
def test_temperature_zero_takes_the_most_likely_tokens(model, engine):
    with torch.no_grad():
        model.lm_head.bias[END] = 0.0  # or the most likely token is always the same
    rollouts = roll_out(model, group=1, temperature=0.0, end=-1, max_new_tokens=4, engine=engine)
    assert all(len(set(row)) > 1 for row in rollouts.tokens.ids.tolist())
    for row in range(2):
        tokens = PROMPTS.ids[row][PROMPTS.mask[row]].tolist()
        for place in range(4):
            tokens.append(int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
            assert rollouts.tokens.ids[row, place] == tokens[-1]


def test_frequencies_are_the_probabilities_of_the_loss(model):
    rollouts = roll_out(model, group=4000, max_new_tokens=1, temperature=0.8)
    with torch.no_grad():
        scores = (
            Plain().score(model, PROMPTS, rollouts.tokens, rollouts.prompt_of, temperature=0.8).logprobs[:, 0]
        )
    for prompt in range(2):
        rows = rollouts.prompt_of == prompt
        firsts, counts = unique_with_first(rollouts.tokens.ids[rows, 0])
        common = counts > 100
        assert common.any()
        expected = scores[rows][firsts][common].double().exp()
        deviation = (expected * (1 - expected) / 4000).sqrt()
        assert_close(counts[common] / 4000, expected, atol=4 * float(deviation.max()), rtol=0)


def unique_with_first(values):
    tokens, inverse, counts = values.unique(return_inverse=True, return_counts=True)
    firsts = torch.tensor([int((inverse == index).nonzero()[0]) for index in range(len(tokens))])
    return firsts, counts.double()


def test_same_seed_same_rollouts_whatever_the_global_generator(model):
    before = torch.get_rng_state()
    first = roll_out(model, seed=5).tokens.ids
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(roll_out(model, seed=5).tokens.ids, first)
    torch.set_rng_state(before)
    other = roll_out(model, seed=6).tokens.ids
    assert other.shape != first.shape or not torch.equal(other, first)


@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_both_engines_roll_out_alike(model, top_p):
    shared = roll_out(model, group=16, top_p=top_p)
    plain = roll_out(model, group=16, top_p=top_p, engine=Plain())
    assert torch.equal(shared.tokens.ids, plain.tokens.ids)
    assert torch.equal(shared.finished, plain.finished)


def test_a_prompt_alone_gets_the_rollouts_that_it_gets_in_company(model):
    together = roll_out(model, group=16)
    alone = roll_out(model, group=16, prompts=pad([[11, 12, 13, 14, 15]], 0, side="left"))
    width = alone.tokens.ids.shape[1]
    assert torch.equal(together.tokens.ids[:16, :width], alone.tokens.ids)
    assert torch.equal(together.tokens.mask[:16, :width], alone.tokens.mask)
