from __future__ import annotations

import copy

import pytest
import torch
from peft import PeftModel

from mllmrec.errors import UserError
from mllmrec.exporting.weights import merged, one_adapter

IDS = torch.tensor([[5, 9, 40, 7, 7, 21]])


@pytest.fixture
def stacked(make_pretrained, shake, lora):
    """A policy with adapters of these phases, and its logits."""

    def make(*phases, name="qwen3", **settings):
        policy = make_pretrained(name, lora={**lora, **settings})
        for phase in phases:
            policy.begin_phase(phase)
            shake(policy, phase)
        policy.model.eval()
        return policy, logits(policy.model)

    return make


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


KINDS = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["qwen3", "llama"])
def test_a_merged_stack_is_the_policy(stacked, tmp_path, kind, name):
    policy, before = stacked("sft", "grpo", name=name, **KINDS[kind])
    plain = merged(policy, torch.float32)
    assert not any("lora" in key for key, _ in plain.named_parameters())
    torch.testing.assert_close(logits(plain), before, atol=2e-4, rtol=0)
    plain.save_pretrained(tmp_path)
    again = type(plain).from_pretrained(tmp_path)
    torch.testing.assert_close(logits(again), before, atol=2e-4, rtol=0)


@pytest.mark.parametrize("kind", ["lora", "rslora", "embedding"])
def test_one_adapter_on_the_plain_base_is_the_policy_and_the_last_alone_is_not(
    stacked, make_pretrained, tmp_path, kind
):
    policy, before = stacked("sft", "grpo", **KINDS[kind])
    policy.model.save_pretrained(tmp_path / "alone", selected_adapters=["grpo"])
    model, name = one_adapter(policy, None)
    model.save_pretrained(tmp_path, selected_adapters=[name])

    def loaded(folder):
        return logits(PeftModel.from_pretrained(make_pretrained(lora=None).model, str(folder)).eval())

    torch.testing.assert_close(loaded(tmp_path), before, atol=2e-4, rtol=0)
    assert (loaded(tmp_path / "alone" / "grpo") - before).abs().max() > 0.5


def test_a_stack_of_dora_adapters_is_no_adapter_but_one_is(stacked, make_pretrained, tmp_path):
    policy, _ = stacked("sft", "grpo", use_dora=True)
    with pytest.raises(UserError, match=r"sft and grpo are DoRA.*set merge=true"):
        one_adapter(policy, None)
    policy, before = stacked("sft", use_dora=True)
    model, name = one_adapter(policy, None)
    model.save_pretrained(tmp_path, selected_adapters=[name])
    alone = PeftModel.from_pretrained(make_pretrained(lora=None).model, str(tmp_path / "sft")).eval()
    torch.testing.assert_close(logits(alone), before, atol=2e-4, rtol=0)


def test_a_tied_embedding_with_an_adapter_gets_a_head_of_its_own(stacked, tmp_path):
    policy, _ = stacked("sft", target_modules=["embed_tokens"])
    base = policy.model.get_base_model()
    base.lm_head.weight = base.model.embed_tokens.base_layer.weight
    base.config.tie_word_embeddings = True
    before = logits(policy.model)
    plain = merged(policy, torch.float32)
    plain.save_pretrained(tmp_path)
    again = type(plain).from_pretrained(tmp_path)
    torch.testing.assert_close(logits(again), before, atol=2e-4, rtol=0)


def test_weights_of_fewer_bits_are_rounded_once(stacked):
    policy, _ = stacked("sft", "grpo")
    exact = merged(copy.deepcopy(policy), torch.float32).state_dict()
    rounded = merged(policy, torch.bfloat16).state_dict()
    assert all(torch.equal(rounded[name], weight.bfloat16()) for name, weight in exact.items())
