"""Weights from GGUF files, which are turned into ordinary numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mllmrec.models.backbones
from mllmrec.errors import UserError
from mllmrec.models.backbones import Pretrained

WIDTH, HEADS, INNER, LETTERS, END = 32, 2, 64, "abcdefgh", 9


@pytest.fixture
def folder(tmp_path):
    """A folder with a Llama of one layer whose tokens are letters, ``ab`` and an end."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "small.gguf", "llama")
    tokens = [*LETTERS, "ab", "<|end|>"]
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * (len(tokens) - 1) + [3])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(END)
    writer.add_eos_token_id(END)
    draw = np.random.default_rng(0)
    shapes = {
        "token_embd": (len(tokens), WIDTH),
        "output_norm": (WIDTH,),
        "output": (len(tokens), WIDTH),
        "blk.0.attn_norm": (WIDTH,),
        "blk.0.ffn_norm": (WIDTH,),
        **{f"blk.0.attn_{part}": (WIDTH, WIDTH) for part in ("q", "k", "v", "output")},
        "blk.0.ffn_gate": (INNER, WIDTH),
        "blk.0.ffn_up": (INNER, WIDTH),
        "blk.0.ffn_down": (WIDTH, INNER),
    }
    embedding = None
    for name, shape in shapes.items():
        weight = draw.normal(size=shape).astype(np.float32)
        embedding = weight if embedding is None else embedding
        writer.add_tensor(f"{name}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path, embedding


def test_a_gguf_file_gives_weights_and_tokens_that_train_and_come_back(folder, lora, tmp_path):
    path, embedding = folder
    backbone = Pretrained(path=str(path), gguf_file="small.gguf", dtype="float32", lora=lora)
    policy = backbone.build((), (), 0)
    np.testing.assert_array_equal(policy.model.get_input_embeddings().weight.detach().numpy(), embedding)
    (tokens,) = policy.encode_answers(["cabad"])
    assert tokens == [2, 8, 0, 3]
    assert policy.end_token == END
    policy.begin_phase("sft", keep_reference=False)
    policy.model(input_ids=torch.tensor([tokens])).logits.sum().backward()
    policy.save_phase("sft", tmp_path / "adapters", tmp_path / "model")
    again = backbone.load(tmp_path / "adapters", ["sft"], tmp_path / "model")
    assert again.phases == ["sft"]


def test_all_weights_of_a_gguf_file_train_and_come_back_without_it(folder, tmp_path):
    path, embedding = folder
    backbone = Pretrained(path=str(path), gguf_file="small.gguf", dtype="float32", lora=None)
    policy = backbone.build((), (), 0)
    policy.begin_phase("sft", keep_reference=False)
    with torch.no_grad():
        policy.model.get_input_embeddings().weight.add_(1)
    policy.save_phase("sft", tmp_path / "adapters", tmp_path / "model")
    again = backbone.load(tmp_path / "adapters", ["sft"], tmp_path / "model")
    np.testing.assert_array_equal(
        again.model.get_input_embeddings().weight.detach().numpy(), embedding + np.float32(1)
    )


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(mllmrec.models.backbones, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"backbone\.gguf_file=small\.gguf needs: pip install 'mllmrec\[gguf\]'"
    ):
        Pretrained(path=str(tmp_path), gguf_file="small.gguf").build((), (), 0)


def test_a_missing_file_is_named(tmp_path):
    pytest.importorskip("gguf")
    with pytest.raises(UserError, match=r"with backbone\.gguf_file=small\.gguf cannot be loaded"):
        Pretrained(path=str(tmp_path), gguf_file="small.gguf").build((), (), 0)
