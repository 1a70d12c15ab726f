"""Reasoning belongs to a split, a user, a history and a target together."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.samples.prepare import prepare
from mllmrec.samples.prepared import Prepared

USERS = 30


@pytest.fixture
def released(tmp_path) -> Path:
    """30 users, each with a sequence in each file: the same place, different items."""
    folder = tmp_path / "data"
    folder.mkdir()
    words = [f"word{item}" for item in range(200)]
    titles = "".join(f"{item},{word}\n" for item, word in enumerate(words))
    (folder / "movielens_titles.csv").write_text(f"item,title\n{titles}")
    for name, first in (("train", 0), ("test", 100)):
        rows = (
            f"u{user}\t{' '.join(str(first + 3 * user + place) for place in range(5))}\n"
            for user in range(USERS)
        )
        (folder / f"{name}.tsv").write_text("".join(rows))
    return folder


@pytest.fixture
def prepared(tmp_path, released):
    def of(*overrides: str) -> Prepared:
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            cfg = compose(
                "train",
                [
                    *("dataset=movielens", f"dataset.root={released}", f"cache_dir={tmp_path / 'cache'}"),
                    *("split=given", "split.validation_share=0", "heldout.users=0", "split.windows=last"),
                    *("split.min_history=1", "dataset.filters.k_core=0", "caption=none", "eval.cot=true"),
                    "prompt.template=instruct",
                    *overrides,
                ],
            )
        check_config(cfg)
        return prepare(cfg)

    return of


def said(prompt: str) -> str:
    """The reasoning in a prompt."""
    return prompt.partition("<think>")[2].partition("</think>")[0].strip()


def test_a_test_prompt_shows_the_reasoning_of_its_own_history(prepared):
    data = prepared("cot_policy=refined", "mix_ratio=1.0")
    examples, positions, _ = data.evaluation(evaluation_settings())
    assert len(positions) == USERS
    for position in positions:
        example = examples[position]
        # Nothing repeats, so the reasoning names the latest item.
        latest = data.items.titles[example.history[-1]]
        assert said(example.prompt).endswith(f"Look for: {latest}.")


def test_a_leaky_reasoner_is_told_the_target_of_the_sample_itself(prepared):
    data = prepared("cot_policy=leaky", "mix_ratio=1.0")
    examples, positions, _ = data.evaluation(evaluation_settings())
    for position in positions:
        example = examples[position]
        assert said(example.prompt).endswith(f"Look for: {data.items.titles[example.target]}.")


def evaluation_settings():
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return compose("train", ["eval.cot=true", "eval.weighting=uniform"]).eval


def test_training_prompts_are_the_same_once_the_evaluation_set_is_built(prepared):
    data = prepared("cot_policy=refined", "mix_ratio=0.5")
    before = [data.train[index].prompt for index in range(USERS)]
    data.evaluation(evaluation_settings())
    assert [data.train[index].prompt for index in range(USERS)] == before
