"""The share of training samples that carry reasoning is `mix_ratio`, whoever writes it and however it is chosen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.samples.prepare import prepare
from mllmrec.samples.prepared import Prepared

USERS = 30


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def prepared(cache: Path):
    def of(*overrides: str) -> Prepared:
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            cfg = compose(
                "train",
                [
                    *(f"dataset.num_users={USERS}", "dataset.num_items=40", f"cache_dir={cache}"),
                    *("split.windows=last", "split.min_history=1", *overrides),
                ],
            )
        check_config(cfg)
        return prepare(cfg)

    return of


def carriers(data: Prepared) -> list[str]:
    """The training samples with reasoning in their prompts."""
    examples = (data.train[index] for index in range(len(data.train)))
    return [example.sample_id for example in examples if example.has_reasoning]


@pytest.fixture
def records(prepared, tmp_path) -> Path:
    """A file with reasoning for every second sample."""
    train = prepared("cot_policy=none").train
    path = tmp_path / "records.json"
    path.write_text(
        json.dumps(
            [
                {
                    "user_id": key.user_id,
                    "history_items": list(key.history_ids),
                    "target_item": key.target_id,
                    "reasoning": f"about {key.user_id}",
                }
                for key in map(train.cot_key, range(0, USERS, 2))
            ]
        )
    )
    return path


MIXINGS = ("replace", "augment")


@pytest.mark.parametrize("form", MIXINGS)
@pytest.mark.parametrize("policy", ["template", "pseudo", "refined", "leaky", "confident"])
@pytest.mark.parametrize(("ratio", "expected"), [(0.1, 3), (0.3, 9), (0.5, 15)])
def test_the_share_is_the_one_asked_for(prepared, policy, form, ratio, expected):
    data = prepared(f"cot_policy={policy}", f"mixing={form}", f"mix_ratio={ratio}")
    assert len(carriers(data)) == expected
    assert len(data.mixture) == USERS + (expected if form == "augment" else 0)
    assert data.summary["cot"]["share"] == pytest.approx(ratio)
    assert data.summary["cot"]["training_samples_chosen"] == expected


@pytest.mark.parametrize("form", MIXINGS)
@pytest.mark.parametrize("rule", ["cot_policy.top_share=0.5", "cot_policy.threshold=0.1"])
def test_choosing_by_confidence_gives_the_share_asked_for(prepared, form, rule):
    other = ["cot_policy.top_share=null"] if "threshold" in rule else []
    data = prepared(
        *("cot_policy=confident", f"mixing={form}", "mixing.select=confidence", "mix_ratio=0.3", rule), *other
    )
    assert len(carriers(data)) == 9


@pytest.mark.parametrize("rule", ["cot_policy.top_share=0.25", "cot_policy.threshold=0.1"])
def test_only_as_many_texts_are_written_as_the_share_needs(prepared, rule):
    other = ["cot_policy.top_share=null"] if "threshold" in rule else []
    data = prepared("cot_policy=confident", "mix_ratio=0.1", rule, *other)
    assert len(carriers(data)) == 3
    # A quarter of 12 is 3. If every text reaches the threshold, only 3 are needed.
    written = data.summary["cot"]["stages"]["refined"]["samples"]
    assert written == (12 if "top_share" in rule else 3)
    assert data.summary["cot"]["looked_at"] == written


def test_samples_that_a_file_says_nothing_of_are_passed_over(prepared, records):
    data = prepared("cot_policy=precomputed", f"cot_policy.path={records}", "mix_ratio=0.3")
    assert len(carriers(data)) == 9
    examples = [data.train[index] for index in range(USERS)]
    assert all(f"about {example.user_id}" in example.prompt for example in examples if example.has_reasoning)


def test_a_file_with_too_few_records_brings_a_warning(prepared, records, caplog):
    data = prepared("cot_policy=precomputed", f"cot_policy.path={records}", "mix_ratio=0.8")
    assert len(carriers(data)) == 15
    (warning,) = (record.getMessage() for record in caplog.records if "mix_ratio" in record.getMessage())
    assert "mix_ratio=0.8" in warning
    assert "24 of 30" in warning
    assert "15" in warning
    assert "0.5" in warning
    assert "absent 15" in warning
    assert data.summary["cot"]["share"] == 0.5
    assert data.summary["cot"]["wanted"] == 24
    assert data.summary["cot"]["coverage"] == {"matched": 15, "absent": 15}


def test_no_more_carry_reasoning_than_pass_the_assessment(prepared, caplog):
    data = prepared("cot_policy=confident", "mix_ratio=1.0")
    # Half of the 30 texts are kept.
    assert len(carriers(data)) == 15
    assert data.summary["cot"]["share"] == 0.5
    assert any("30 of 30" in record.getMessage() and "15" in record.getMessage() for record in caplog.records)


def test_enough_reasoning_brings_no_warning(prepared, caplog):
    prepared("cot_policy=confident", "mix_ratio=0.5")
    assert not [record for record in caplog.records if "mix_ratio" in record.getMessage()]


def test_a_ratio_that_rounds_to_no_sample_brings_a_warning(prepared, caplog):
    data = prepared("mix_ratio=0.01")
    assert carriers(data) == []
    assert any("mix_ratio=0.01" in record.getMessage() for record in caplog.records)


def test_equally_confident_texts_are_chosen_like_any_others(prepared):
    """Rules that count words agree with themselves: all texts are equally confident, and `refined` chooses the same."""
    refined = carriers(prepared("cot_policy=refined", "mix_ratio=0.3"))
    assert carriers(prepared("cot_policy=confident", "mix_ratio=0.3")) == refined
    other = carriers(prepared("cot_policy=confident", "mix_ratio=0.3", "seed=1"))
    assert len(other) == 9
    assert other != refined


def test_a_pipeline_that_writes_nothing_is_not_asked_for_ever(prepared, caplog):
    data = prepared("cot_policy=confident", "mix_ratio=0.1", "cot_policy.min_words=119")
    assert carriers(data) == []
    assert data.summary["cot"]["share"] == 0.0
    assert any("3 of 30" in record.getMessage() for record in caplog.records)
