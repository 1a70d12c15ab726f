"""Rollouts by few large operations draw what rollouts layer by layer draw."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, Gemma3TextConfig, MistralConfig

from mllmrec.engine.batches import pad
from mllmrec.engine.decoding import SharedPrefixDecoder
from mllmrec.engine.fused import fused_decoder
from mllmrec.engine.products import Packed
from mllmrec.engine.shared_prefix import SharedPrefix
from mllmrec.rollout.base import Spelling
from mllmrec.rollout.free import Free

PROMPTS = [[11, 12, 13, 14, 15, 16, 17], [21], [31, 32, 33, 34]]
NEVER = 10**9


@pytest.fixture
def patience(monkeypatch):
    return lambda steps: monkeypatch.setattr(SharedPrefixDecoder, "_PATIENCE", steps)


def adapted(make_pretrained, shake, name):
    policy = make_pretrained(name)
    policy.begin_phase("sft")
    policy.begin_phase("grpo")
    for phase in ("sft", "grpo"):
        shake(policy, phase)
    return policy.model.eval()


def decoder_of(model, prompts, group):
    engine = SharedPrefix()
    return engine.decoder(model, engine.encode(model, pad(prompts, 41, side="left")), group)


@pytest.mark.parametrize("name", ["qwen3", "qwen2", "llama"])
def test_logits_are_those_of_the_layers_one_by_one(make_pretrained, shake, name):
    model = adapted(make_pretrained, shake, name)
    with torch.no_grad():
        slow, fast = (decoder_of(model, PROMPTS, 3) for _ in range(2))
        slow._PATIENCE, fast._PATIENCE = NEVER, 2
        for step in range(5):
            tokens = torch.arange(40, 40 + len(fast.logits)) + step
            for decoder in (fast, slow):
                decoder.advance(tokens)
                if step == 3:  # the second prompt is left with one row
                    decoder.keep(torch.tensor([0, 1, 2, 4, 6, 7, 8]))
            assert (fast._fused is not None) == (step >= 1)
            assert_close(fast.logits.log_softmax(-1), slow.logits.log_softmax(-1), atol=1e-5, rtol=0)
    assert slow._fused is None


@pytest.mark.parametrize("prompts", [PROMPTS, [[21], [22]]], ids=["ragged", "single tokens"])
def test_the_same_generators_draw_the_same_tokens(make_pretrained, shake, patience, prompts):
    model = adapted(make_pretrained, shake, "qwen3")
    drawn = []
    for steps in (NEVER, 1):
        patience(steps)
        engine = SharedPrefix()
        encoded = engine.encode(model, pad(prompts, 41, side="left"))
        generators = [torch.Generator().manual_seed(seed) for seed in range(len(prompts))]
        # Of 64 likely tokens one is the end, so rows leave at any time.
        drawn.append(Free(1.0, 0.9, 24).draw(engine, model, encoded, 4, generators, Spelling(end=2)))
    assert torch.equal(drawn[0].tokens.ids, drawn[1].tokens.ids)
    assert drawn[0].tokens.ids.shape[1] == 24


def test_what_is_not_known_runs_layer_by_layer(make_pretrained, shake, lora):
    def made(model):
        return fused_decoder(model, SharedPrefix().encode(model, pad(PROMPTS, 41, side="left")).layers)

    def plain(config):
        return AutoModelForCausalLM.from_config(config).eval()

    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    assert made(plain(MistralConfig(**sizes, **heads, sliding_window=None))) is not None
    assert made(plain(MistralConfig(**sizes, **heads, sliding_window=64))) is None
    assert made(plain(Gemma3TextConfig(**sizes, **heads, layer_types=["full_attention"] * 2))) is None
    model = adapted(make_pretrained, shake, "qwen3")
    assert made(model) is not None
    hook = model.get_base_model().get_decoder().layers[0].mlp.register_forward_hook(lambda *given: None)
    assert made(model) is None
    hook.remove()
    with torch.autocast("cpu", torch.bfloat16):
        assert made(model) is None
    assert made(adapted(make_pretrained, shake, "qwen3").double()) is None
    policy = make_pretrained(lora={**lora, "use_dora": True})
    policy.begin_phase("sft")
    assert made(policy.model.eval()) is None


@pytest.mark.parametrize("by_onednn", [True, False])
@pytest.mark.parametrize("copies", [True, False])
def test_what_follows_a_product_is_computed_with_it(by_onednn, copies):
    generator = torch.Generator().manual_seed(0)
    inputs, weight, other = (torch.randn(size, generator=generator) for size in ((8, 12), (16, 12), (8, 16)))
    bias = torch.arange(16.0)
    expected = torch.nn.functional.linear(inputs, weight, bias)
    with torch.backends.mkldnn.flags(enabled=by_onednn), torch.no_grad():
        packed = Packed(weight, bias, copies=copies)
        assert_close(packed(inputs), expected)
        assert_close(packed.silu(inputs), torch.nn.functional.silu(expected))
        assert_close(packed.times(inputs, other), expected * other)
        assert_close(packed.plus(inputs, other), expected + other)
