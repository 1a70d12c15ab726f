from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from mllmrec.errors import UserError
from mllmrec.models.backbones import Pretrained, Tiny

LABELS = [f"[ITEM_{item}]" for item in range(12)]
CORPUS = ["History [ITEM_0] Red Lamp Next", "History [ITEM_1] Blue Lamp Next"]


def build(seed=0, **settings):
    return Tiny(hidden_size=32, num_layers=2, num_heads=2, vocabulary=280, **settings).build(
        CORPUS, LABELS, seed
    )


def test_tiny_depends_on_its_seed_alone():
    before = torch.get_rng_state()
    first = build(seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    again, other = build(seed=1), build(seed=2)
    torch.set_rng_state(before)
    weight = [policy.model.get_input_embeddings().weight for policy in (first, again, other)]
    assert torch.equal(weight[0], weight[1])
    assert not torch.equal(weight[0], weight[2])


def test_tiny_saved_and_loaded_is_the_same(tmp_path):
    policy = build(max_length=64)
    policy.save_phase("sft", tmp_path / "adapters", tmp_path / "model")
    loaded = Tiny(hidden_size=8).load(tmp_path / "adapters", ["sft"], tmp_path / "model")
    prompts = ["History [ITEM_3] Red Lamp", "History [ITEM_4]"]
    assert loaded.encode_prompts(prompts) == policy.encode_prompts(prompts)
    assert loaded.max_length == policy.max_length == 64
    batch = policy.prompt_batch(prompts)
    with torch.no_grad():
        found, expected = (
            p.model(input_ids=batch.ids, attention_mask=batch.mask.long()).logits for p in (loaded, policy)
        )
    assert torch.equal(found, expected)


def test_tiny_ties_its_embeddings_so_that_warm_up_trains_both():
    policy = build()
    assert policy.model.get_input_embeddings().weight is policy.model.get_output_embeddings().weight


def test_tiny_prompts_stand_as_they_are():
    assert build().render("History [ITEM_3] Next") == "History [ITEM_3] Next"


@pytest.mark.parametrize("name", ["qwen3", "qwen2", "llama"])
def test_a_folder_is_loaded(make_pretrained, name):
    policy = make_pretrained(name)
    assert policy.model.config.model_type == name
    assert policy.model.dtype == torch.float32
    assert policy.num_trainable() > 0


def test_what_cannot_be_loaded_is_a_message(tmp_path):
    with pytest.raises(UserError, match=r"backbone\.path=.*save_pretrained") as caught:
        Pretrained(path=str(tmp_path)).build((), (), 0)
    assert "\n" not in str(caught.value)


def test_four_bits_need_an_adapter(checkpoints):
    with pytest.raises(UserError, match="LoRA"):
        Pretrained(path=checkpoints("qwen3"), lora={"rank": 0}, quantization="4bit")


def test_four_bits_learn_in_every_layer_after_an_evaluation(make_pretrained, shake):
    pytest.importorskip("bitsandbytes")
    policy = make_pretrained(quantization="4bit")
    policy.begin_phase("sft")
    shake(policy, "sft")
    ids = torch.tensor([[5, 6, 7, 8]])
    found = []
    for evaluated in (False, True):
        if evaluated:
            policy.model.eval()
            with torch.no_grad():
                policy.model(input_ids=ids)
        policy.model.train().zero_grad()
        torch.manual_seed(0)  # of the adapters' dropout
        policy.model(input_ids=ids).logits.logsumexp(-1).sum().backward()
        found.append({name: w.grad for name, w in policy.model.named_parameters() if w.requires_grad})
    assert found[0]
    assert all(gradient.abs().max() > 0 for gradient in found[0].values())
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


def test_gradient_checkpointing_gives_the_same_gradients(make_pretrained, shake):
    found = []
    for checkpointing in (False, True):
        policy = make_pretrained(gradient_checkpointing=checkpointing)
        policy.begin_phase("sft")
        torch.manual_seed(0)
        shake(policy, "sft")
        with torch.no_grad():
            for name, weight in policy.model.named_parameters():
                if "lora_A" in name:
                    weight.copy_(torch.linspace(-0.1, 0.1, weight.numel()).view_as(weight))
        policy.model.train()
        policy.model(input_ids=torch.tensor([[5, 6, 7, 8]]), use_cache=False).logits.logsumexp(
            -1
        ).sum().backward()
        found.append({name: w.grad for name, w in policy.model.named_parameters() if w.requires_grad})
    assert found[0]
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


def test_code_beside_a_checkpoint_is_never_offered(checkpoints, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(checkpoints("qwen3"), tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "theirs",
        "auto_map": {"AutoConfig": "theirs.Config", "AutoModelForCausalLM": "theirs.Model"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "theirs.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')\n")
    monkeypatch.setattr("builtins.input", lambda question: "y")  # whoever is asked says yes
    with pytest.raises(UserError, match=r"cannot be loaded: .*contains custom code"):
        Pretrained(path=str(folder)).build((), (), 0)
    assert not (tmp_path / "owned").exists()
