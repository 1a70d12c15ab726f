"""Everything that made a recommender's weights is part of its key: tests change one part, and the key must change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from mllmrec.baselines.key import recommender_parts
from mllmrec.config import CONFIG_DIR
from mllmrec.jobs.main import held_out_protocol
from mllmrec.samples.prepare import prepare
from mllmrec.samples.prepared import Prepared
from mllmrec.store import fingerprints
from mllmrec.store.trained_once import place_of


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    (folder / "encoder").mkdir()
    return folder


@pytest.fixture
def parts_of(cache) -> Callable[..., dict[str, Any]]:
    """``parts_of(*overrides, before=...)``: parts of a SASRec with texts; ``before`` may change the prepared data."""
    (cache / "encoder" / "weights").write_text("one")

    def make(*overrides: str, before: Callable[[Prepared], None] | None = None) -> dict[str, Any]:
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            cfg = compose(
                "train",
                overrides=[
                    f"cache_dir={cache}",
                    "method=sasrec_text",
                    "text_encoder=sentence",
                    f"text_encoder.path={cache / 'encoder'}",
                    "dataset.num_users=30",
                    "dataset.num_items=40",
                    "mix_ratio=0",
                    "heldout.users=4",
                    *overrides,
                ],
            )
        prepared = prepare(cfg)
        if before is not None:
            before(prepared)
        return recommender_parts(cfg.method.recommender, cfg, prepared, held_out_protocol(cfg, prepared))

    return make


def changed(first: dict[str, Any], second: dict[str, Any]) -> set[str]:
    names = {name for name in first.keys() | second.keys() if first.get(name) != second.get(name)}
    assert (place_of(Path(), first) != place_of(Path(), second)) == bool(names)
    return names


def other_caption(prepared: Prepared) -> None:
    prepared.captions[prepared.items.ids[0]] = "unlike any other"


def other_sequence(held_out: bool) -> Callable[[Prepared], None]:
    """Swaps the first two items in the history of a held-out user, or of another user."""

    def change(prepared: Prepared) -> None:
        interactions = prepared.interactions
        shown = set(prepared_held_out(prepared))
        user = next(user for user in range(interactions.num_users) if (user in shown) == held_out)
        start = interactions.offsets[user]
        interactions.items[start : start + 2] = interactions.items[start : start + 2][::-1].copy()

    return change


def prepared_held_out(prepared: Prepared) -> np.ndarray:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        cfg = compose("train", overrides=["heldout.users=4"])
    measured = held_out_protocol(cfg, prepared)
    return prepared.samples["validation"].users[measured.positions]


# One change per part; it changes no other part. If the part were left out, the two recommenders would share a key.
PARTS: dict[str, dict[str, Any]] = {
    "settings": {"overrides": ["method.recommender.dropout=0.1"]},
    "trainer": {"overrides": ["trainer.precision=bf16-mixed"]},
    "seed": {"overrides": ["seed=1"]},
    "code": {"patch": (fingerprints, "library_version", lambda package: "0.0.0")},
    "files": {"encoder": "two"},
    "sequences": {"before": other_sequence(held_out=False)},
    "texts": {"before": other_caption},
    "held out": {"overrides": ["eval.num_negatives=5"]},
}


def test_every_part_of_the_key_is_listed_here(parts_of):
    assert set(parts_of()) == set(PARTS)


@pytest.mark.parametrize("part", PARTS)
def test_each_part_alone_makes_another_key(parts_of, cache, monkeypatch, part):
    change = PARTS[part]
    first = parts_of()
    assert changed(first, parts_of()) == set()
    if "patch" in change:
        monkeypatch.setattr(*change["patch"])
    if "encoder" in change:
        (cache / "encoder" / "weights").write_text(change["encoder"])
    after = parts_of(*change.get("overrides", ()), before=change.get("before"))
    assert changed(first, after) == {part}


@pytest.mark.parametrize("prompt", ["''", "x" * 300])
def test_a_text_that_is_no_path_names_no_file(parts_of, cache, prompt):
    # The empty text would be the current folder, and a long one is no name of a file.
    assert set(parts_of(f"text_encoder.prompt={prompt}")["files"]) == {str(cache / "encoder")}


def test_the_histories_that_stop_the_training_make_another_key(parts_of):
    # Held-out users of a published split have no training sequence.
    found = changed(parts_of(), parts_of(before=other_sequence(held_out=True)))
    assert "held out" in found


@pytest.mark.parametrize(
    "override",
    [
        "prompt.template=instruct",
        "eval.ranking=constrained",
        "eval.resamples=7",
        "eval.faithfulness=false",
        "eval.max_reasoning_tokens=7",
        "eval.reasoning_samples=7",
    ],
)
def test_what_only_a_language_model_reads_is_shared(parts_of, override):
    assert changed(parts_of(), parts_of(override)) == set()


def test_a_setting_that_refers_to_another_counts_with_its_value(parts_of):
    linked = "method.recommender.patience=${grpo.group_size}"
    first = parts_of(linked, "grpo.group_size=4")
    assert changed(first, parts_of(linked, "grpo.group_size=5")) == {"settings"}
