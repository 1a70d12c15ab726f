"""DoRA and rsLoRA by hand, in stacked phases, merged into the weights, and saved."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.testing import assert_close

from mllmrec.engine.batches import pad
from mllmrec.engine.plain import Plain
from mllmrec.engine.shared_prefix import SharedPrefix
from mllmrec.models.backbones import Pretrained

IDS = torch.tensor([[11, 12, 13, 14, 15], [21, 22, 23, 24, 25]])
BOTH = {"use_dora": True, "use_rslora": True}


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.fixture
def make_phases(make_pretrained, shake, lora):
    """A policy after these phases; adapters are not zero, and magnitudes are not those of the base weights."""

    def make(*phases, **kind):
        policy = make_pretrained(lora={**lora, **kind})
        for phase in phases:
            policy.begin_phase(phase)
            shake(policy, phase)
            with torch.no_grad():
                for name, weight in policy.model.named_parameters():
                    if f"magnitude_vector.{phase}." in name:
                        weight *= torch.linspace(0.8, 1.3, len(weight))
        return policy

    return make


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("rslora", [False, True])
def test_a_layer_computes_the_published_formula(make_phases, dora, rslora):
    model = make_phases("sft", use_dora=dora, use_rslora=rslora).model
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    down, up = layer.lora_A["sft"].weight, layer.lora_B["sft"].weight
    # Rank 4 and alpha 8: 8 / 4 = 2, and 8 / sqrt(4) = 4.
    weight = layer.base_layer.weight + (4.0 if rslora else 2.0) * up @ down
    if dora:
        magnitude = layer.lora_magnitude_vector["sft"].weight
        weight = weight * (magnitude / weight.norm(dim=1))[:, None]
    inputs = torch.randn(3, weight.shape[1], generator=torch.Generator().manual_seed(0))
    assert_close(layer(inputs), inputs @ weight.T, atol=1e-5, rtol=1e-5)


def test_a_phase_begins_exactly_at_its_reference(make_phases):
    policy = make_phases("sft", **BOTH)
    before = logits(policy.model)
    policy.begin_phase("grpo")
    assert torch.equal(logits(policy.model), before)
    with policy.reference() as model:
        assert torch.equal(logits(model), before)


@pytest.mark.parametrize("engine", [SharedPrefix(), SharedPrefix(4)])
def test_all_parts_of_the_adapter_train_in_every_engine(make_phases, engine):
    policy = make_phases("sft", "grpo", **BOTH)
    prompts, completions = (
        pad([list(range(11, 20)), [21, 22]], 0, side="left"),
        pad([[31, 2], [32, 2]], 0, side="right"),
    )
    found = []
    for one in (engine, Plain()):
        policy.model.zero_grad()
        encoded = one.encode(policy.model, prompts)
        one.score(policy.model, encoded, completions, torch.tensor([0, 1])).logprobs.sum().backward()
        found.append(
            {name: weight.grad for name, weight in policy.model.named_parameters() if weight.requires_grad}
        )
    ours, theirs = found
    assert {name.split(".")[-3] for name in theirs} >= {"lora_magnitude_vector"}
    assert all(".grpo." in name for name in theirs)
    largest = max(float(gradient.abs().max()) for gradient in theirs.values())
    for name, gradient in theirs.items():
        assert gradient.abs().max() > 0, name
        assert_close(ours[name], gradient, atol=1e-5 * largest, rtol=0)


@pytest.mark.parametrize("phases", [("sft",), ("sft", "grpo")])
def test_merged_weights_compute_the_same(make_phases, make_pretrained, phases):
    model = make_phases(*phases, **BOTH).model
    assert (logits(model) - logits(make_pretrained().model)).abs().max() > 0.1
    if len(phases) == 1:
        layer = model.base_model.model.model.layers[0].self_attn.q_proj
        ratio = layer.lora_magnitude_vector["sft"].weight / layer.base_layer.weight.norm(dim=1)
        assert ratio.min() < 0.9
        assert ratio.max() > 1.2
    merged = copy.deepcopy(model).merge_and_unload()
    assert not any("lora" in name for name, _ in merged.named_parameters())
    assert_close(logits(merged), logits(model), atol=2e-4, rtol=0)


def test_saved_phases_load_to_the_same_policy(make_phases, tmp_path, checkpoints, lora):
    policy = make_phases("sft", "grpo", **BOTH)
    for phase in policy.phases:
        policy.save_phase(phase, tmp_path, tmp_path / "whole")
    backbone = Pretrained(path=checkpoints("qwen3"), dtype="float32", lora={**lora, **BOTH})
    loaded = backbone.load(tmp_path, policy.phases, tmp_path / "whole")
    assert_close(logits(loaded.model), logits(policy.model), atol=1e-5, rtol=0)
