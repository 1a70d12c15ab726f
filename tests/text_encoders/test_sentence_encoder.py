from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer, CLIPConfig, CLIPModel, T5Config, T5EncoderModel

from mllmrec.errors import UserError
from mllmrec.text_encoders.sentence import SentenceEncoder
from mllmrec.text_encoders.sentence_model import Pooling, read_folder

TEXTS = ["red lamp", "lamp red", "blue chair", "chair blue wood"]
MODULES = {"": "Transformer", "1_Pooling": "Pooling"}


def write_modules(folder: Path, pooling: dict, further: dict[str, str] | None = None) -> None:
    """The files of sentence-transformers around a model; ``further`` maps the folders of more modules to their classes."""
    modules = {**MODULES, **(further or {})}
    (folder / "modules.json").write_text(
        json.dumps(
            [
                {
                    "idx": place,
                    "name": str(place),
                    "path": path,
                    "type": f"sentence_transformers.models.{kind}",
                }
                for place, (path, kind) in enumerate(modules.items())
            ]
        )
    )
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 16, **pooling}))


def states_of(folder: Path, text: str) -> torch.Tensor:
    """(L, 16) last states of a text, straight from transformers."""
    tokens = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    with torch.no_grad():
        return AutoModel.from_pretrained(folder)(**tokens).last_hidden_state[0]


def unit(vector: torch.Tensor) -> list[float]:
    return (vector / vector.norm()).tolist()


def test_a_text_is_the_mean_over_its_tokens_whatever_the_batch(sentence_folder):
    encoder = SentenceEncoder(str(sentence_folder))
    texts = [*TEXTS, "a much longer text about a lamp and a chair"]
    vectors = encoder.encode(texts)
    assert vectors.shape == (5, 16)
    for row, text in zip(vectors, texts, strict=True):
        assert row == pytest.approx(unit(states_of(sentence_folder, text).mean(0)), abs=1e-5)
        assert row == pytest.approx(encoder.encode([text])[0], abs=1e-5)


def test_an_empty_text_says_nothing(sentence_folder):
    encoder = SentenceEncoder(str(sentence_folder))
    assert np.linalg.norm(encoder.encode(["red", " "]), axis=1) == pytest.approx([1, 0])
    with pytest.raises(UserError, match="no words"):
        encoder.encode([""])


@pytest.mark.parametrize(
    ("flag", "word", "expected"),
    [
        ("pooling_mode_cls_token", "cls", (1, 2)),
        ("pooling_mode_max_tokens", "max", (3, 6)),
        ("pooling_mode_mean_tokens", "mean", (2, 4)),
        ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens", (4 / 2**0.5, 8 / 2**0.5)),
        ("pooling_mode_weightedmean_tokens", "weightedmean", (7 / 3, 14 / 3)),
        ("pooling_mode_lasttoken", "lasttoken", (3, 6)),
    ],
)
def test_poolings_of_two_tokens_and_padding(flag, word, expected):
    states, real = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [9.0, 9.0]]]), torch.tensor([[True, True, False]])
    for config in ({"pooling_mode_mean_tokens": False, flag: True}, {"pooling_mode": word}):
        assert Pooling(config)(states, real)[0].tolist() == pytest.approx(expected)


def test_two_poolings_stand_side_by_side():
    # Old files without a word on the mean have it.
    pooling = Pooling({"pooling_mode_cls_token": True})
    states, real = torch.tensor([[[1.0, 2.0], [3.0, 6.0]]]), torch.ones(1, 2, dtype=torch.bool)
    assert pooling(states, real)[0].tolist() == [1, 2, 2, 4]


def test_modules_are_those_that_the_folder_names(sentence_folder):
    write_modules(
        sentence_folder,
        {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
        {"2_Dense": "Dense", "3_Normalize": "Normalize"},
    )
    dense = sentence_folder / "2_Dense"
    dense.mkdir()
    weight = torch.zeros(2, 16)
    weight[0, 3], weight[1, 5] = 1.0, 2.0
    save_file({"linear.weight": weight, "linear.bias": torch.tensor([0.0, 0.5])}, dense / "model.safetensors")
    (dense / "config.json").write_text(
        json.dumps(
            {"in_features": 16, "out_features": 2, "activation_function": "torch.nn.modules.activation.Tanh"}
        )
    )
    first = states_of(sentence_folder, "red lamp")[0]
    expected = unit(torch.stack([first[3], 2 * first[5] + 0.5]).tanh())
    assert SentenceEncoder(str(sentence_folder)).encode(["red lamp"])[0] == pytest.approx(expected, abs=1e-5)


def test_texts_are_read_as_the_folder_says(sentence_folder):
    write_modules(sentence_folder, {})
    (sentence_folder / "sentence_bert_config.json").write_text(
        json.dumps({"max_seq_length": 5, "do_lower_case": True})
    )
    (sentence_folder / "config_sentence_transformers.json").write_text(
        json.dumps({"prompts": {"passage": "Item: "}, "default_prompt_name": "passage"})
    )
    reading = read_folder(sentence_folder)[2]
    assert (reading.max_tokens, reading.shown(" Red Lamp")) == (5, "item: red lamp")
    assert read_folder(sentence_folder, prompt="", max_tokens=3)[2].max_tokens == 3
    assert read_folder(sentence_folder, max_tokens=9)[2].max_tokens == 5
    said, silent = SentenceEncoder(str(sentence_folder)), SentenceEncoder(str(sentence_folder), prompt="")
    assert np.array_equal(said.encode(["Red Lamp"]), silent.encode(["item: red lamp"]))
    assert not np.array_equal(said.encode(["Red Lamp"]), silent.encode(["Red Lamp"]))


def test_of_a_translator_only_the_reading_half_is_used(sentence_folder, tmp_path):
    folder = tmp_path / "t5"
    tokenizer = AutoTokenizer.from_pretrained(sentence_folder)
    tokenizer.save_pretrained(folder)
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    model = T5EncoderModel(T5Config(vocab_size=len(tokenizer), **sizes)).eval()
    model.save_pretrained(folder)
    with torch.no_grad():
        states = model(**tokenizer("red lamp", return_tensors="pt")).last_hidden_state[0]
    assert SentenceEncoder(str(folder)).encode(["red lamp"])[0] == pytest.approx(
        unit(states.mean(0)), abs=1e-5
    )


@pytest.mark.parametrize(
    ("pooling", "further", "settings", "said"),
    [
        ({"pooling_mode": "median"}, {}, {}, "its pooling is median"),
        ({"include_prompt": False}, {}, {"prompt": "Item: "}, "its pooling leaves prompts out"),
        (
            {},
            {"2_LSTM": "LSTM"},
            {},
            "it has a module LSTM; Transformer, Pooling, Dense and Normalize are read",
        ),
        ({}, {"2_Dense": "Dense"}, {}, "its Dense has the activation os.system"),
    ],
)
def test_what_is_not_read_is_refused_with_the_way_out(sentence_folder, pooling, further, settings, said):
    write_modules(sentence_folder, pooling, further)
    (sentence_folder / "2_Dense").mkdir()
    (sentence_folder / "2_Dense" / "config.json").write_text('{"activation_function": "os.system"}')
    with pytest.raises(UserError, match=said) as raised:
        SentenceEncoder(str(sentence_folder), **settings).encode(["a"])
    assert f"text_encoder.path={sentence_folder} cannot be loaded" in str(raised.value)
    assert "or text_encoder=tfidf for word counts" in str(raised.value)


@pytest.mark.parametrize("broken", ["modules.json", "model.safetensors", "config.json"])
def test_a_damaged_folder_is_refused(sentence_folder, broken):
    (sentence_folder / broken).write_text("{")
    with pytest.raises(UserError, match="cannot be loaded"):
        SentenceEncoder(str(sentence_folder)).encode(["a"])


def test_weights_that_are_absent_or_no_numbers_are_refused(sentence_folder):
    stored = sentence_folder / "model.safetensors"
    weights = load_file(stored)
    # Transformers' own pooler is not used.
    save_file(
        {name: weight for name, weight in weights.items() if "pooler" not in name}, stored, {"format": "pt"}
    )
    SentenceEncoder(str(sentence_folder)).encode(["a"])
    name = "encoder.layer.0.output.dense.weight"
    save_file({**weights, name: weights[name] * float("nan")}, stored, {"format": "pt"})
    with pytest.raises(UserError, match="values that are no numbers, so its weights are broken"):
        SentenceEncoder(str(sentence_folder)).encode(["a"])
    del weights[name]
    save_file(weights, stored, {"format": "pt"})
    with pytest.raises(UserError, match=rf"cannot be loaded: it has no weights for {name}"):
        SentenceEncoder(str(sentence_folder)).encode(["a"])


def test_a_model_of_texts_and_pictures_is_refused(sentence_folder, tmp_path):
    folder = tmp_path / "clip"
    AutoTokenizer.from_pretrained(sentence_folder).save_pretrained(folder)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    seen = {**sizes, "image_size": 16, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config={**sizes, "vocab_size": 300}, vision_config=seen)).save_pretrained(
        folder
    )
    with pytest.raises(UserError, match="it does not turn texts alone into vectors"):
        SentenceEncoder(str(folder)).encode(["a"])


@pytest.mark.parametrize("place", ["modules.json", "config.json"])
def test_code_in_a_folder_is_never_run(sentence_folder, place, monkeypatch):
    monkeypatch.chdir(sentence_folder)
    monkeypatch.syspath_prepend(str(sentence_folder))
    (sentence_folder / "own.py").write_text("open('was_run', 'w').close()\nclass Own: ...\n")
    if place == "modules.json":
        (sentence_folder / place).write_text('[{"path": "", "type": "own.Own"}]')
    else:
        config = json.loads((sentence_folder / place).read_text())
        config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.Own"}}
        (sentence_folder / place).write_text(json.dumps(config))
    with pytest.raises(UserError, match="cannot be loaded"):
        SentenceEncoder(str(sentence_folder)).encode(["a"])
    assert not (sentence_folder / "was_run").exists()


def test_a_model_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"text_encoder.path=.*nowhere cannot be loaded"):
        SentenceEncoder(str(tmp_path / "nowhere")).encode(["a"])


@pytest.mark.parametrize("pickled", [False, True])
def test_a_hub_model_is_downloaded_without_weights_that_are_not_read(sentence_folder, monkeypatch, pickled):
    if pickled:
        (sentence_folder / "model.safetensors").rename(sentence_folder / "pytorch_model.bin")
    asked = []

    def download(name, revision, allow_patterns, ignore_patterns):
        asked.append((name, revision, "*.bin" in allow_patterns, "onnx/*" in ignore_patterns))
        return str(sentence_folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    identity = SentenceEncoder("some/name", revision="v2").identity()
    assert identity["model"] == SentenceEncoder(str(sentence_folder)).identity()["model"]
    assert asked == [
        ("some/name", "v2", fetched, True) for fetched in ([False, True] if pickled else [False])
    ]


def test_content_and_settings_are_the_identity(sentence_folder):
    path = str(sentence_folder)
    first = SentenceEncoder(path).identity()
    assert SentenceEncoder(path).identity() == first
    assert SentenceEncoder(path, prompt="").identity() != first
    assert SentenceEncoder(path, max_tokens=9).identity() != first
    model = AutoModel.from_pretrained(path)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight.add_(0.1)
    model.save_pretrained(path)
    assert SentenceEncoder(path).identity() != first


def test_settings_out_of_range_are_refused():
    with pytest.raises(UserError, match=r"text_encoder\.max_tokens=0 must be above 0"):
        SentenceEncoder("name", max_tokens=0)
    with pytest.raises(UserError, match=r"text_encoder\.path is empty"):
        SentenceEncoder("")


def test_a_published_model_gives_its_published_cosines():
    root = Path(os.environ.get("MLLMREC_MODELS", Path.home() / ".cache" / "mllmrec-models"))
    if not (root / "minilm").is_dir():
        pytest.skip(f"{root} has no folder minilm: put all-MiniLM-L6-v2 there, or set MLLMREC_MODELS")
    vectors = SentenceEncoder(str(root / "minilm")).encode(
        ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    )
    assert vectors.shape == (3, 384)
    # The first example on sbert.net, which has four decimals.
    cosines = vectors @ vectors.T
    assert cosines[0].tolist() == pytest.approx([1.0, 0.6660, 0.1046], abs=2e-4)
    assert float(cosines[1, 2]) == pytest.approx(0.1411, abs=2e-4)
