from __future__ import annotations

import copy

import pytest
import torch
from torch.testing import assert_close

from mllmrec.engine.batches import pad
from mllmrec.errors import UserError
from mllmrec.models.backbones import Pretrained
from mllmrec.models.policy import Policy
from mllmrec.prompts.answers import parse_answer
from mllmrec.rewards.base import Question
from mllmrec.rewards.hit_format import HitFormat

IDS = torch.tensor([[11, 12, 13, 14, 15], [21, 22, 23, 24, 25]])


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def weights(policy, *marks):
    return {
        name: weight.detach().clone()
        for name, weight in policy.model.named_parameters()
        if all(mark in name for mark in marks)
    }


def update(policy):
    """Make one step of SGD on the current model."""
    policy.model(input_ids=IDS).logits.logsumexp(-1).sum().backward()
    with torch.no_grad():
        for weight in policy.model.parameters():
            if weight.requires_grad:
                weight -= 0.01 * weight.grad
    policy.model.zero_grad()


def same(before, after):
    return all(torch.equal(before[name], after[name]) for name in before)


@pytest.fixture
def two_stages(make_pretrained, shake):
    """A trained first adapter and a fresh second one."""
    policy = make_pretrained()
    policy.begin_phase("sft")
    shake(policy, "sft")
    policy.begin_phase("grpo", {"alpha": 16, "dropout": None})
    return policy


def test_first_stage_begins_at_the_base_model(make_pretrained):
    policy = make_pretrained()
    base = logits(policy.model)
    policy.begin_phase("sft")
    assert torch.equal(logits(policy.model), base)
    with policy.reference() as reference:
        assert torch.equal(logits(reference), base)


def test_second_stage_begins_exactly_at_its_reference(two_stages, make_pretrained):
    policy = two_stages
    with policy.reference() as reference:
        expected = logits(reference)
    assert torch.equal(logits(policy.model), expected)
    assert (
        expected - logits(make_pretrained().model)
    ).abs().max() > 0.1  # the first phase did change something


def test_only_the_new_adapter_trains(two_stages):
    policy = two_stages
    assert policy.num_trainable() > 0
    for name, weight in policy.model.named_parameters():
        assert weight.requires_grad == (".grpo." in name)
    # Two layers, rank 4 on both sides: q 32+32, k and v 32+16, o 32+32, gate, up and down 32+48.
    assert policy.num_trainable() == 2 * 4 * (64 + 48 + 48 + 64 + 80 + 80 + 80)


def test_an_update_moves_the_policy_and_nothing_below_it(two_stages):
    policy = two_stages
    sft, base = weights(policy, ".sft."), weights(policy, "base_layer")
    rest = {name: w for name, w in weights(policy).items() if "lora_" not in name}
    with policy.reference() as reference:
        before = logits(reference)
    update(policy)
    assert same(sft, weights(policy, ".sft."))
    assert base
    assert same(base, weights(policy, "base_layer"))
    assert same(rest, weights(policy))
    with policy.reference() as reference:
        assert torch.equal(logits(reference), before)
    assert not torch.equal(logits(policy.model), before)


def test_reference_restores_what_trains_and_the_mode(two_stages):
    policy = two_stages
    policy.model.train()
    trainable = {name for name, weight in policy.model.named_parameters() if weight.requires_grad}
    for _ in range(2):
        with policy.reference() as reference:
            assert not reference.training
        assert policy.model.training
        assert {name for name, weight in policy.model.named_parameters() if weight.requires_grad} == trainable
    with pytest.raises(RuntimeError, match="inside"), policy.reference():
        raise RuntimeError("inside")
    assert {name for name, weight in policy.model.named_parameters() if weight.requires_grad} == trainable


def test_a_frozen_adapter_drops_nothing_out(make_pretrained, shake, lora):
    # The released SFT has LoRA dropout 0.05. If it still acted in the next phase, the KL would not begin at 0.
    policy = make_pretrained(lora={**lora, "dropout": 0.5})
    policy.begin_phase("sft")
    shake(policy, "sft")
    policy.model.train()
    torch.manual_seed(0)
    assert not torch.equal(logits(policy.model), logits(policy.model))
    policy.begin_phase("grpo", {"dropout": 0.0})
    policy.model.train()
    with policy.reference() as reference:
        expected = logits(reference)
    assert torch.equal(logits(policy.model), expected)


def test_stages_add_up_in_their_order(two_stages, shake, make_pretrained):
    policy = two_stages
    shake(policy, "grpo")
    merged = make_pretrained(lora=None)
    state = merged.model.state_dict()
    stacked = policy.model.state_dict()
    for name in list(state):
        prefix = "base_model.model." + name.removesuffix(".weight")
        # W + (8 / 4) B A of SFT + (16 / 4) B A of GRPO
        for stage, scale in (("sft", 2.0), ("grpo", 4.0)):
            if f"{prefix}.lora_A.{stage}.weight" in stacked:
                product = (
                    stacked[f"{prefix}.lora_B.{stage}.weight"] @ stacked[f"{prefix}.lora_A.{stage}.weight"]
                )
                state[name] = state[name] + scale * product
    merged.model.load_state_dict(state)
    assert_close(logits(policy.model), logits(merged.model), atol=1e-4, rtol=1e-4)


def test_saved_stages_load_to_the_same_policy(two_stages, shake, tmp_path, checkpoints, lora):
    policy = two_stages
    shake(policy, "grpo")
    for stage in policy.phases:
        assert (
            policy.save_phase(stage, tmp_path / "adapters", tmp_path / "model")
            == tmp_path / "adapters" / stage
        )
    assert not (tmp_path / "model").exists()
    backbone = Pretrained(path=checkpoints("qwen3"), dtype="float32", lora=lora)
    both = backbone.load(tmp_path / "adapters", ["sft", "grpo"], tmp_path / "model")
    assert torch.equal(logits(both.model), logits(policy.model))
    with policy.reference() as reference:
        sft_alone = backbone.load(tmp_path / "adapters", ["sft"], tmp_path / "model")
        assert torch.equal(logits(sft_alone.model), logits(reference))
    with pytest.raises(UserError, match="no finished phase 'dpo'"):
        backbone.load(tmp_path / "adapters", ["sft", "dpo"], tmp_path / "model")


@pytest.mark.parametrize("settings", [{"rank": 0}, {"target_modules": ["no_such_layer"]}])
@pytest.mark.parametrize("earlier", [False, True])
def test_a_stage_without_trainable_weights_is_refused(make_pretrained, settings, earlier):
    policy = make_pretrained()
    if earlier:
        policy.begin_phase("sft")
    with pytest.raises(UserError, match=r"backbone\.lora"):
        policy.begin_phase("grpo", settings)


def test_whole_weights_train_against_a_frozen_copy(make_pretrained):
    policy = make_pretrained(lora=None)
    policy.begin_phase("grpo")
    before = logits(policy.model)
    with policy.reference() as reference:
        assert torch.equal(logits(reference), before)
        assert not {id(weight) for weight in reference.parameters()} & {
            id(w) for w in policy.model.parameters()
        }
    update(policy)
    with policy.reference() as reference:
        assert torch.equal(logits(reference), before)
    assert not torch.equal(logits(policy.model), before)
    policy.begin_phase("again")
    with policy.reference() as reference:
        assert torch.equal(logits(reference), logits(policy.model))


def test_whole_weights_save_and_load(make_pretrained, checkpoints, tmp_path):
    policy = make_pretrained(lora=None)
    policy.begin_phase("sft")
    update(policy)
    assert policy.save_phase("sft", tmp_path / "adapters", tmp_path / "model") == tmp_path / "model"
    backbone = Pretrained(path=checkpoints("qwen3"), dtype="float32")
    assert torch.equal(
        logits(backbone.load(tmp_path, ["sft"], tmp_path / "model").model), logits(policy.model)
    )
    untrained = backbone.load(tmp_path, [], tmp_path / "model")
    assert not torch.equal(logits(untrained.model), logits(policy.model))


@pytest.mark.parametrize("modules", [["embed_tokens"], ["q_proj", "embed_tokens", "lm_head"]])
def test_adapters_on_embeddings_train_stack_and_come_back(
    make_pretrained, checkpoints, lora, shake, tmp_path, modules
):
    policy = make_pretrained(lora={**lora, "target_modules": modules})
    policy.begin_phase("sft")
    # 4 x (V + 32) numbers on the embedding.
    vocabulary = policy.model.get_input_embeddings().weight.shape[0]
    if modules == ["embed_tokens"]:
        assert policy.num_trainable() == 4 * (vocabulary + 32)
    before = weights(policy, "lora_embedding_A.sft")
    assert len(before) == 1
    update(policy)
    assert not same(before, weights(policy, "lora_embedding_A.sft"))
    trained = logits(policy.model)
    policy.begin_phase("grpo")
    with policy.reference() as reference:
        assert torch.equal(logits(reference), trained)
    first, second = weights(policy, ".sft"), weights(policy, "lora_embedding_A.grpo")
    update(policy)
    assert same(first, weights(policy, ".sft"))
    assert not same(second, weights(policy, "lora_embedding_A.grpo"))

    for stage in policy.phases:
        policy.save_phase(stage, tmp_path, tmp_path / "model")
    backbone = Pretrained(path=checkpoints("qwen3"), dtype="float32", lora=policy.lora)
    loaded = backbone.load(tmp_path, policy.phases, tmp_path / "model")
    assert_close(logits(loaded.model), logits(policy.model))


def test_an_adapter_on_the_embedding_is_refused_where_item_vectors_go_past_it(make_pretrained, lora):
    policy = make_pretrained(lora={**lora, "target_modules": ["q_proj", "embed_tokens"]})
    policy.add_marks(["<|item:0|>", "<|item:1|>"])
    policy.read_items(torch.zeros(2, 3), seed=0)
    with pytest.raises(UserError, match=r"leave the embedding out of backbone\.lora\.target_modules"):
        policy.begin_phase("sft")


def test_one_text_in_every_stage(make_pretrained):
    # Fault 19: the release renders prompts one way in SFT and another in GRPO. Here there is one function.
    policy = make_pretrained()
    text = policy.render("Which?")
    assert text == "<|im_start|>user\nWhich?<|end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    (tokens,) = policy.encode_prompts(["Which?"])
    assert policy.tokenizer.decode(tokens) == text
    batch = policy.prompt_batch(["Which?", "Which one of them?"])
    assert batch.ids[0][batch.mask[0]].tolist() == tokens
    assert not batch.mask[0, 0]  # padded on the left
    assert batch.mask[:, -1].all()


def test_without_a_chat_template_the_answer_begins_on_a_new_line(make_pretrained):
    policy = make_pretrained()
    policy.tokenizer.chat_template = None
    assert policy.render("Which?") == "Which?\n"


def test_completions_decode_to_what_was_encoded(make_pretrained):
    policy = make_pretrained()
    policy.tokenizer.clean_up_tokenization_spaces = True  # as Llama's tokenizers ask for
    texts = ["[ITEM_1] Who 's there ? No , it is n't .", "[ITEM_22] Amélie"]
    rows = [[*tokens, policy.end_token] for tokens in policy.encode_answers(texts)]
    decoded = policy.decode(pad(rows, policy.padding_token, side="right"))
    assert decoded == texts
    assert parse_answer(decoded[1]).items == (("22", "Amélie"),)


@pytest.mark.parametrize("kind", ["tiny", "qwen3"])
def test_special_tokens_in_an_answer_are_shown_and_judged(kind, tiny, make_pretrained):
    policy = tiny.policy if kind == "tiny" else make_pretrained()
    (label,) = policy.encode_answers(["[ITEM_1]"])
    end, padding, unknown = policy.end_token, policy.padding_token, len(policy.tokenizer) + 5
    assert end != padding
    said = {
        "[ITEM_1]": [*label, end],
        "<|pad|>[ITEM_1]": [padding, *label, end],
        "[ITEM_1]<|pad|>": [*label, padding, end],
        "[ITEM_1]<|pad|><|pad|>": [*label, padding, unknown],  # no end: cut off at the limit
        "<|end|>[ITEM_1]": [end, *label, end],
        "<|pad|>": [unknown, end],
        "": [end],
    }
    texts = policy.decode(pad(list(said.values()), padding, side="right"))
    assert texts == list(said)
    rewards = [HitFormat().judge(text, Question("1", {"1": "", "2": ""}))["reward"] for text in texts]
    assert rewards == [1.0] + [-1.0] * 6


def test_longest_sequence(make_pretrained):
    assert make_pretrained().max_length == 512
    assert make_pretrained(max_length=100).max_length == 100
    assert make_pretrained(max_length=1000).max_length == 512


def test_a_tokenizer_without_end_is_refused(make_pretrained):
    policy = make_pretrained()
    tokenizer = copy.deepcopy(policy.tokenizer)
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="end-of-sequence"):
        Policy(policy.model, tokenizer)
