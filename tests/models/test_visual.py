from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)

from mllmrec.data.base import Items
from mllmrec.engine.batches import pad
from mllmrec.engine.plain import Plain
from mllmrec.engine.shared_prefix import SharedPrefix
from mllmrec.errors import UserError
from mllmrec.models.visual import Pictures
from mllmrec.models.visual_backbones import PretrainedVisual, TinyVisual
from mllmrec.prompts.markup import ITEM_MARK

SIZES = {
    "0": (64, 64),
    "1": (96, 40),
    "2": (70, 130),
    "3": (20, 20),
}  # item -> height and width; others have none
TOKENS = {"0": 4, "1": 3, "2": 8, "3": 1}  # squares of 32 x 32 pixels, sides rounded to whole squares
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
# History, candidates: items with an image, items without one, and an item that appears twice.
SHOWN = [([0, 5, 1], [2, 6]), ([2], [3, 2, 0]), ([7, 8], [9]), ([3, 3], [1])]
COMPLETIONS = [[5, 6, 7], [5, 8], [9], [6, 7, 8]]
ENGINES = [Plain, SharedPrefix]


class OwnProcessor(Qwen3VLProcessor):
    """Qwen3-VL's processor without its video part, which transformers hides if torchvision is missing."""

    def check_argument_for_proper_class(self, argument_name, argument):
        return None if argument is None else super().check_argument_for_proper_class(argument_name, argument)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    made = {}
    for item, size in SIZES.items():
        made[item] = folder / f"{item}.png"
        noise = np.random.default_rng(int(item)).integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(noise).save(made[item])
    return made


@pytest.fixture
def items(catalogue, paths):
    return Items(np.array(catalogue.ids), np.array(catalogue.titles), np.array([""] * 12), paths)


@pytest.fixture
def builder(make_builder, paths):
    return make_builder(answer="id", marked=paths.keys())


@pytest.fixture
def policy(builder, items):
    made = TinyVisual(hidden_size=32, num_layers=2, num_heads=2, vocabulary=300, vision_size=16).build(
        [builder.prompt([item], None) for item in range(12)], [builder.label(item) for item in range(12)], 0
    )
    made.meet_items(items)
    return made


@pytest.fixture
def prompts(builder):
    return [builder.prompt(history, candidates) for history, candidates in SHOWN]


@pytest.fixture
def saved(policy, tmp_path):
    return policy.save_phase("sft", tmp_path / "adapters", tmp_path / "model")


@pytest.fixture
def original(saved, paths):
    """transformers' own model and processor of the saved policy: ``logits(prompt, completion)`` of one sequence."""
    model = Qwen3VLForConditionalGeneration.from_pretrained(saved)
    tokenizer = AutoTokenizer.from_pretrained(saved)
    processor = OwnProcessor(AutoImageProcessor.from_pretrained(saved, backend="pil"), tokenizer, None)

    def logits(prompt, completion):
        pictures = [Image.open(paths[item]).convert("RGB") for item in ITEM_MARK.findall(prompt)]
        inputs = processor(text=[ITEM_MARK.sub(IMAGE, prompt)], images=pictures or None, return_tensors="pt")
        inputs["input_ids"] = torch.cat(
            [inputs["input_ids"], torch.tensor([completion], dtype=torch.long)], 1
        )
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        types = inputs.pop("mm_token_type_ids")
        inputs["mm_token_type_ids"] = torch.nn.functional.pad(types, (0, len(completion)))
        return model(**inputs).logits[0]

    return SimpleNamespace(logits=logits, model=model)


def test_an_image_takes_the_tokens_that_the_processor_gives_it(policy, prompts):
    for prompt, row in zip(prompts, policy.encode_prompts(prompts), strict=True):
        shown = [token - policy.model.config.text_config.vocab_size for token in row]
        expected = [int(item) for item in ITEM_MARK.findall(prompt) for _ in range(TOKENS[item])]
        assert [item for item in shown if item >= 0] == expected
        assert len(row) <= policy.most_tokens(prompt)


def test_logits_are_those_of_qwen3_vl_with_its_own_processor(policy, prompts, original):
    batch = policy.prompt_batch(prompts)
    with torch.no_grad():
        found = policy.model(input_ids=batch.ids, attention_mask=batch.mask.long()).logits
        for row, prompt in enumerate(prompts):
            expected = original.logits(prompt, [])
            assert expected.shape[0] == int(batch.mask[row].sum())
            assert_close(found[row][batch.mask[row]], expected, atol=1e-5, rtol=0)


def test_what_an_image_shows_matters(policy, prompts, paths, items):
    batch = policy.prompt_batch(prompts[:1])
    with torch.no_grad():
        before = policy.model(input_ids=batch.ids).logits[0, -1]
        swapped = {**paths, "0": paths["1"], "1": paths["0"]}
        policy.meet_items(Items(items.ids, items.titles, items.details, swapped))
        batch = policy.prompt_batch(prompts[:1])
        after = policy.model(input_ids=batch.ids).logits[0, -1]
    assert (before - after).abs().max() > 1e-3


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_score_and_learn_as_qwen3_vl_does(policy, prompts, original, engine):
    expected = []
    for prompt, completion in zip(prompts, COMPLETIONS, strict=True):
        logits = original.logits(prompt, completion)[-len(completion) - 1 : -1]
        expected.append(logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None]).sum())
    torch.stack(expected).sum().backward()
    engine = engine()
    encoded = engine.encode(policy.model, policy.prompt_batch(prompts))
    completions = pad(COMPLETIONS, 0, side="right")
    found = engine.score(policy.model, encoded, completions, torch.arange(4)).logprobs.sum(1)
    assert_close(found, torch.stack(expected), atol=1e-5, rtol=0)
    found.sum().backward()
    gradients = dict(original.model.named_parameters())
    for name, weight in policy.model.named_parameters():
        wanted = gradients[name].grad
        if wanted is None:
            assert weight.grad is None, name
        else:
            assert_close(weight.grad, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("engine", ENGINES)
def test_decoding_goes_on_from_the_images(policy, prompts, original, engine):
    engine = engine()
    policy.model.eval()
    with torch.no_grad():
        decoder = engine.decoder(
            policy.model, engine.encode(policy.model, policy.prompt_batch(prompts)), group_size=2
        )
        decoder.advance(torch.tensor([5, 6] * 4))
        kept = torch.tensor([1, 2, 7])
        decoder.keep(kept)
        decoder.advance(torch.tensor([7, 8, 9]))
        for row, last in enumerate((7, 8, 9)):
            said = [5, 6][int(kept[row]) % 2]
            expected = original.logits(prompts[int(kept[row]) // 2], [said, last])[-1]
            assert_close(decoder.logits[row], expected, atol=1e-5, rtol=0)


def test_saved_and_loaded_is_the_same(policy, prompts, saved, items, tmp_path):
    loaded = TinyVisual().load(tmp_path / "adapters", ["sft"], saved)
    loaded.meet_items(items)
    batch = policy.prompt_batch(prompts)
    assert torch.equal(loaded.prompt_batch(prompts).ids, batch.ids)
    with torch.no_grad():
        found, expected = (p.model(input_ids=batch.ids, attention_mask=batch.mask) for p in (loaded, policy))
    assert torch.equal(found.logits, expected.logits)


def test_marks_are_no_words_of_the_tokenizer(policy, builder):
    assert not [token for token in policy.tokenizer.get_vocab() if "item:" in token]
    assert builder.prompt([5], None).count("<|item:") == 0


def test_adapters_are_the_language_models_and_the_reference_is_exact(saved, prompts, items, lora):
    policy = PretrainedVisual(str(saved), dtype="float32", lora=lora).build((), (), 0)
    policy.meet_items(items)
    batch = policy.prompt_batch(prompts)
    policy.begin_phase("sft")
    trained = [name for name, weight in policy.model.named_parameters() if weight.requires_grad]
    assert trained
    assert all("language_model" in name for name in trained)
    engine = SharedPrefix()
    completions = pad(COMPLETIONS, 0, side="right")

    def score(model):
        return engine.score(model, engine.encode(model, batch), completions, torch.arange(4)).logprobs

    found = score(policy.model)
    with policy.reference() as reference, torch.no_grad():
        assert torch.equal(score(reference), found.detach())
    found.sum().backward()
    assert all(w.grad is None for n, w in policy.model.named_parameters() if "visual" in n)


def test_pixels_of_a_checkpoint_can_be_limited(saved, items):
    policy = PretrainedVisual(str(saved), dtype="float32", max_pixels=2048).build((), (), 0)
    policy.meet_items(items)
    assert [policy.pictures.tokens(item) for item in range(4)] == [1, 2, 1, 1]


def test_a_text_model_is_refused(checkpoints):
    with pytest.raises(UserError, match="type qwen3: give a Qwen3-VL"):
        PretrainedVisual(checkpoints("qwen3")).build((), (), 0)


def test_what_cannot_be_loaded_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"backbone\.path=.*cannot be loaded") as caught:
        PretrainedVisual(str(tmp_path)).build((), (), 0)
    assert "\n" not in str(caught.value)


def test_an_image_that_went_away_is_a_message(policy, builder, paths, items, tmp_path):
    policy.meet_items(Items(items.ids, items.titles, items.details, {**paths, "0": tmp_path / "none.png"}))
    with pytest.raises(UserError, match=r"cannot be read: .*none\.png"):
        policy.encode_prompts([builder.prompt([0], None)])


def test_patches_beyond_the_room_are_read_again(policy, paths, monkeypatch):
    monkeypatch.setattr("mllmrec.models.visual._KEPT_BYTES", 1)
    pictures = Pictures(policy.pictures.processor)
    pictures.assign([*paths.values()])
    first = pictures.of([0, 1, 0, 2])
    assert len(pictures._kept) == 1
    assert first[0].shape[0] == 4 * (4 + 3 + 4 + 8)
    again = pictures.of([0, 1, 0, 2])
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
