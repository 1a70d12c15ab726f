"""The key of a shared phase is the content that it was trained on, not its names: tests with pairs of real jobs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

USERS, ITEMS, LENGTH = 12, 16, 6


@pytest.fixture
def sharing(tmp_path: Path) -> tuple[str, ...]:
    return (f"cache_dir={tmp_path / 'cache'}", "share_stages=true", "method=sft", "mix_ratio=0")


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., tuple[str, ...]]:
    """``table(rated_low=...)`` writes small tables and returns the overrides that read them.

    User u has the items u, u + 1, ... u + 5 (mod 16), all rated 5, and before them ``rated_low`` others rated 1.
    """

    def write(rated_low: int = 0) -> tuple[str, ...]:
        rows = [
            f"u{user},i{(user + step) % ITEMS},{step},{5 if step >= 0 else 1}"
            for user in range(USERS)
            for step in range(-rated_low, LENGTH)
        ]
        (tmp_path / "ratings.csv").write_text("\n".join(["user_id,item_id,timestamp,rating", *rows]))
        titles = [f"i{item},Thing {chr(65 + item)}" for item in range(ITEMS)]
        (tmp_path / "items.csv").write_text("\n".join(["item_id,title", *titles]))
        return (
            "dataset=tabular",
            f"dataset.interactions={tmp_path / 'ratings.csv'}",
            f"dataset.items={tmp_path / 'items.csv'}",
            "dataset.rating_column=rating",
            "dataset.filters.min_rating=3",
            "caption=none",
            "candidates.num_negatives=3",
            "eval.ks=[1,3]",
            "heldout.users=4",
            "backbone.hidden_size=32",
            "backbone.num_layers=1",
            "backbone.vocabulary=400",
            "warmup.max_steps=2",
        )

    return write


def trained(tmp_path: Path, last: str) -> list[Path]:
    """The stored folders whose latest phase is this one."""
    folders = (path.parent for path in (tmp_path / "cache" / "stages").glob("*/weights.safetensors"))
    return [folder for folder in folders if list(json.loads((folder / "cost.json").read_text()))[-1] == last]


def test_another_domain_is_another_sft(job, tmp_path, sharing, table):
    settings = (*sharing, *table(), "prompt.template=instruct", "dataset.domain=item")
    job(tmp_path / "items", *settings, small=False)
    job(tmp_path / "again", *settings, small=False)
    assert len(trained(tmp_path, "sft")) == 1
    job(tmp_path / "restaurants", *settings, "dataset.domain=restaurant", small=False)
    assert len(trained(tmp_path, "sft")) == 2


def test_another_text_in_the_same_template_file_is_another_sft(job, tmp_path, sharing, table):
    words = tmp_path / "words.yaml"
    shipped = (resources.files("mllmrec.prompts") / "templates" / "compact.yaml").read_text()
    words.write_text(shipped)
    settings = (*sharing, *table(), f"prompt.template={words}")
    job(tmp_path / "first", *settings, small=False)
    words.write_text(shipped.replace("History", "Earlier"))
    job(tmp_path / "second", *settings, small=False)
    assert len(trained(tmp_path, "sft")) == 2


def test_interactions_that_a_filter_hides_make_another_sft(job, tmp_path, sharing, table):
    job(tmp_path / "first", *sharing, *table(), small=False)
    # Five more items of each user cannot be negatives, though no prompt shows them in a history.
    job(tmp_path / "second", *sharing, *table(rated_low=5), small=False)
    assert len(trained(tmp_path, "sft")) == 2


@pytest.fixture
def pretrained(tmp_path: Path, checkpoints, adapters) -> tuple[Path, tuple[str, ...]]:
    """A checkpoint for one test, and the overrides of a job on it."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoints("qwen3"), folder)
    return folder, (*adapters, f"backbone.path={folder}", "sft.max_steps=2", "heldout.keep=last")


def test_other_weights_in_the_same_folder_are_another_sft(job, tmp_path, sharing, pretrained):
    folder, settings = pretrained
    first = job(tmp_path / "first", *sharing, *settings, small=False)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        model.model.embed_tokens.weight.add_(0.1)
    model.save_pretrained(folder)
    second = job(tmp_path / "second", *sharing, *settings, small=False)
    assert len(trained(tmp_path, "sft")) == 2
    one, two = (load_file(run / "adapters" / "sft" / "adapter_model.safetensors") for run in (first, second))
    assert any(not torch.equal(weight, two[name]) for name, weight in one.items())


def test_weights_of_another_vocabulary_are_never_met(job, tmp_path, sharing, pretrained):
    folder, settings = pretrained
    # All weights train, so that the stored weights have a row for every token.
    settings = (*settings, "backbone.lora.rank=0")
    job(tmp_path / "first", *sharing, *settings, small=False)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<one>", "<more>"])
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    job(tmp_path / "second", *sharing, *settings, small=False)
    assert len(trained(tmp_path, "sft")) == 2


def test_another_encoder_in_the_same_folder_is_another_recommender(job, tmp_path, checkpoints):
    folder = tmp_path / "encoder"
    shutil.copytree(checkpoints("qwen3"), folder)
    settings = (
        f"cache_dir={tmp_path / 'cache'}",
        "share_stages=true",
        "method=sasrec_text",
        "text_encoder=sentence",
        f"text_encoder.path={folder}",
        "method.recommender.max_epochs=1",
    )
    job(tmp_path / "first", *settings)
    job(tmp_path / "again", *settings)
    kept = tmp_path / "cache" / "recommenders"
    assert len(list(kept.glob("*/"))) == 1
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        model.model.embed_tokens.weight.add_(0.1)
    model.save_pretrained(folder)
    job(tmp_path / "second", *settings)
    assert len(list(kept.glob("*/"))) == 2
