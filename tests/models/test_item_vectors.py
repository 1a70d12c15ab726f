from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from mllmrec.engine.batches import pad
from mllmrec.engine.plain import Plain
from mllmrec.engine.shared_prefix import SharedPrefix
from mllmrec.errors import UserError
from mllmrec.models.backbones import Pretrained, Tiny
from mllmrec.models.item_vectors import NAME, ItemVectorEmbedding, add_marks
from mllmrec.prompts.markup import item_mark, without_item_marks

ITEMS = 12
MARKS = [item_mark(str(item)) for item in range(ITEMS)]


def vectors(seed: int = 3) -> torch.Tensor:
    return torch.randn(ITEMS, 4, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def doubling() -> ItemVectorEmbedding:
    """An embedding with three own rows and two items; the projector doubles item vectors through GELU and back."""
    base = nn.Embedding.from_pretrained(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), freeze=False)
    embedding = ItemVectorEmbedding(base, torch.tensor([[100.0, 200.0], [300.0, 400.0]]), first=3)
    with torch.no_grad():
        for layer in (embedding.item_projector[0], embedding.item_projector[2]):
            layer.bias.zero_()
        embedding.item_projector[0].weight.copy_(torch.eye(2))
        embedding.item_projector[2].weight.copy_(2 * torch.eye(2))
    return embedding


def test_ids_of_the_vocabulary_are_its_rows_and_ids_beyond_are_projected_items(doubling):
    found = doubling(torch.tensor([[1, 3], [4, 2]]))
    # GELU of 100 and more is the number itself in single precision: 2 x (100, 200) and 2 x (300, 400).
    assert found.tolist() == [[[3, 4], [200, 400]], [[600, 800], [5, 6]]]
    assert doubling(torch.tensor([0, 2])).tolist() == [[1, 2], [5, 6]]
    assert doubling.weight is doubling.base.weight


def test_the_projector_learns_and_the_vectors_do_not(doubling):
    doubling(torch.tensor([1, 3])).sum().backward()
    # Row 1 is read once. Row 0 is a placeholder for the item's token and must get no gradient from it.
    assert doubling.base.weight.grad.tolist() == [[0, 0], [1, 1], [0, 0]]
    assert doubling.item_projector[2].bias.grad.tolist() == [1, 1]
    assert doubling.item_projector[2].weight.grad.tolist() == [[100, 200], [100, 200]]
    assert not doubling.item_vectors.requires_grad
    assert [name for name, _ in doubling.named_parameters() if "vectors" in name] == []


def test_exchanged_vectors_exchange_their_items_and_nothing_else(doubling):
    before = doubling(torch.arange(5))
    doubling.item_vectors.copy_(doubling.item_vectors.flip(0))
    after = doubling(torch.arange(5))
    assert torch.equal(after[:3], before[:3])
    assert torch.equal(after[3:], before[3:].flip(0))


@pytest.fixture
def with_items(tiny):
    """The tiny policy with prompts that also show items as tokens."""
    tiny.policy.add_marks(MARKS)
    tiny.policy.read_items(vectors(), seed=0)
    return tiny.policy


def test_marks_become_the_ids_beyond_the_vocabulary(with_items, make_builder):
    policy, size = with_items, with_items.model.config.vocab_size
    builder = make_builder(marked=[str(number) for number in range(12)])
    prompt = builder.prompt([4, 11], [0, 4])
    (ids,) = policy.encode_prompts([prompt])
    assert [token - size for token in ids if token >= size] == [4, 11, 0, 4]
    # Without marks the prompt has the same tokens as before any were added.
    assert policy.encode_prompts([without_item_marks(prompt)])[0] == [token for token in ids if token < size]
    assert without_item_marks(prompt) == make_builder().prompt([4, 11], [0, 4])
    assert max(policy.encode_answers([builder.answer(item) for item in range(ITEMS)])[3]) < size
    logits = policy.model(input_ids=torch.tensor([ids])).logits
    assert logits.shape == (1, len(ids), size)


def test_a_model_with_more_rows_than_its_tokenizer_has_tokens(tiny):
    tokenizer = tiny.policy.tokenizer
    rows = len(tokenizer) + 5
    assert add_marks(tokenizer, MARKS, rows) == rows
    assert tokenizer(MARKS[7], add_special_tokens=False)["input_ids"] == [rows + 7]
    assert add_marks(tokenizer, MARKS, rows) == rows  # a second call changes nothing
    with pytest.raises(UserError, match="cannot give each item a token of its own"):
        add_marks(tokenizer, MARKS[::-1], rows)


@pytest.mark.parametrize("backbone", ["tiny", "lora"])
def test_engines_agree_on_prompts_with_item_tokens(backbone, tiny, make_pretrained, make_builder, shake):
    policy = tiny.policy if backbone == "tiny" else make_pretrained()
    policy.add_marks(MARKS)
    policy.read_items(vectors(), seed=0)
    policy.begin_phase("sft", keep_reference=False)
    shake(policy, "sft")
    builder = make_builder(marked=[str(number) for number in range(12)], answer="id")
    prompts = policy.prompt_batch([builder.prompt([4, 11], [0, 3, 4]), builder.prompt([7], [1, 2, 3])])
    answers = [[*tokens, policy.end_token] for tokens in policy.encode_answers([builder.answer(3)] * 2)]
    completions = pad(answers, policy.padding_token, side="right")
    results = []
    for engine in (Plain(), SharedPrefix()):
        encoded = engine.encode(policy.model, prompts)
        scores = engine.score(policy.model, encoded, completions, torch.arange(2)).logprobs
        weights = {name: part for name, part in policy.model.named_parameters() if part.requires_grad}
        gradients = torch.autograd.grad(scores.sum(), list(weights.values()))
        decoder = engine.decoder(policy.model, engine.encode(policy.model, prompts), 2)
        results.append((scores.detach(), dict(zip(weights, gradients, strict=True)), decoder.logits))
    plain, fast = results
    assert_close(fast[0], plain[0], atol=1e-5, rtol=1e-5)
    assert_close(fast[2], plain[2], atol=1e-4, rtol=1e-4)
    for name, gradient in plain[1].items():
        assert (fast[1][name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-7, name
    assert min(part.norm() for name, part in plain[1].items() if "item_projector" in name) > 0


@pytest.mark.parametrize("adapted", [False, True])
def test_what_a_stage_saved_is_read_as_it_was(
    adapted, tiny, make_pretrained, checkpoints, shake, tmp_path, lora
):
    policy = make_pretrained() if adapted else tiny.policy
    policy.add_marks(MARKS)
    policy.read_items(vectors(), seed=5)
    policy.begin_phase("sft", keep_reference=False)
    shake(policy, "sft")
    folder = policy.save_phase("sft", tmp_path / "adapters", tmp_path / "model")
    assert (folder / NAME).is_file()
    if adapted:
        backbone = Pretrained(path=checkpoints("qwen3"), dtype="float32", lora=lora)
    else:
        backbone = Tiny(hidden_size=32)
    loaded = backbone.load(tmp_path / "adapters", ["sft"], tmp_path / "model")
    loaded.load_items(folder)
    prompts = [f"Red Lamp {MARKS[2]} Blue {MARKS[11]}", "Red"]
    assert loaded.encode_prompts(prompts) == policy.encode_prompts(prompts)
    batch = policy.prompt_batch(prompts)
    with torch.no_grad():
        found, expected = (
            p.model.eval()(input_ids=batch.ids, attention_mask=batch.mask.long()).logits
            for p in (loaded, policy)
        )
    assert torch.equal(found, expected)
    (folder / NAME).unlink()
    with pytest.raises(UserError, match="cannot be read as item tokens"):
        loaded.load_items(folder)


def trainable(policy) -> set[str]:
    return {
        "adapter" if ".lora_" in name else "projector" if "item_projector" in name else "other"
        for name, weight in policy.model.named_parameters()
        if weight.requires_grad
    }


def test_beside_an_adapter_the_projector_trains_where_no_reference_shares_it(make_pretrained):
    policy = make_pretrained()
    policy.add_marks(MARKS)
    policy.read_items(vectors(), seed=0)
    policy.begin_phase("sft", {"target_modules": "all-linear"}, keep_reference=False)
    assert trainable(policy) == {"adapter", "projector"}
    # all-linear means the model's layers; the projector has no adapter.
    assert not any("item_projector" in name and "lora" in name for name, _ in policy.model.named_parameters())
    kinds = {name.rsplit(".", 1)[-1] if "lora" not in name else "lora" for name in policy.changed_weights()}
    assert kinds == {"lora", "weight", "bias", "item_vectors"}
    policy.begin_phase("grpo", keep_reference=True)
    assert trainable(policy) == {"adapter"}
    with policy.reference():
        pass
    assert trainable(policy) == {"adapter"}


def test_a_policy_of_whole_weights_trains_all_of_them_against_a_copy(with_items):
    with_items.begin_phase("grpo", keep_reference=True)
    assert trainable(with_items) == {"other", "projector"}
    with torch.no_grad():
        for name, weight in with_items.model.named_parameters():
            if "item_projector" in name:
                weight.zero_()
    with with_items.reference() as reference:
        kept = [weight for name, weight in reference.named_parameters() if "item_projector" in name]
    assert len(kept) == 4
    assert all(weight.abs().sum() > 0 for weight in kept)
