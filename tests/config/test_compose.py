from __future__ import annotations

from pathlib import Path

import pytest

from mllmrec.config import CONFIG_DIR
from mllmrec.config.compose import compose_checked


def faults_of(*overrides: str) -> list[str]:
    return compose_checked("train", overrides, CONFIG_DIR).faults


def test_an_unknown_choice_lists_the_valid_ones_and_the_nearest() -> None:
    assert faults_of("reward=hitformat") == [
        "reward=hitformat: no such reward (did you mean hit_format?); choose hit_format or release"
    ]


@pytest.mark.parametrize(
    "override",
    ["experiment=mian_table", "debug=fats", "debug=[fast,limti]", "scale=smal", "+ablation=no_cott"],
)
def test_a_choice_that_may_be_left_out_is_not_left_out_by_a_misspelling(override: str) -> None:
    (fault,) = faults_of(override)
    assert fault.startswith(f"{override}: no such {override.lstrip('+').split('=')[0]} (did you mean ")


def test_private_bases_are_not_offered() -> None:
    (fault,) = faults_of("backbone=qwen3_0.6")
    assert "did you mean" in fault
    assert "qwen3_0.6b" in fault
    assert "_pretrained" not in fault


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("grpo.grup_size=4", "grpo.group_size"),
        ("seeed=1", "seed"),
        # The same name stands in two other sections.
        ("num_negatives=9", "candidates.num_negatives, dpo.new_negatives or eval.num_negatives"),
        ("hydra.run.dirr=here", "hydra.run.dir"),
    ],
)
def test_an_unknown_key_names_the_nearest(override: str, meant: str) -> None:
    (fault,) = faults_of(override)
    assert fault.startswith(f"{override}: no such setting (did you mean ")
    assert meant in fault


def test_all_faults_come_together_and_what_is_right_is_applied() -> None:
    result = compose_checked(
        "train", ["dataset=nothing", "seed=7", "seeed=1", "a=[", "+new=1", "backbone=hf"], CONFIG_DIR
    )
    assert sorted(fault.split(":")[0] for fault in result.faults) == [
        "+new=1",
        "a=[",
        "dataset=nothing",
        "seeed=1",
    ]
    assert result.config.seed == 7
    assert result.config.dataset["_target_"].endswith("Synthetic")
    assert result.config.backbone["_target_"].endswith("Pretrained")


@pytest.mark.parametrize(
    "overrides",
    [
        ["seed=1,2,3"],
        ["seed=range(1,4)"],
        ["grpo.beta=interval(0,1)"],
        ["dataset=synthetic,amazon_beauty"],
        ["debug=glob(f*)"],
        ["+reward.extra=1"],
        ["~sft.weight_decay"],
        ["mix_ratio=${grpo.beta}"],
        ["eval.ks=[1,5]", "prompt.template='a, b'"],
        ["hydra.run.dir=here", "hydra.job.chdir=true", "hydra/launcher=basic"],
        ["backbone=hf", "backbone.path=/some/where"],
        ["backbone.path=/some/where", "backbone=hf"],
        ["~experiment"],
    ],
)
def test_what_hydra_takes_is_taken(overrides: list[str]) -> None:
    assert faults_of(*overrides) == []


def test_each_choice_of_a_sweep_is_checked() -> None:
    (fault,) = faults_of("dataset=synthetic,nothing", "seed=1,2")
    assert fault.startswith("dataset=nothing: no such dataset")


@pytest.mark.parametrize("override", ["dataset=null", "~dataset", "~mix_ratio"])
def test_what_is_needed_cannot_be_removed(override: str) -> None:
    (fault,) = faults_of(override)
    assert override.strip("~").split("=")[0] in fault


def test_files_in_a_folder_of_ones_own_are_found(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 5\n")
    result = compose_checked("train", ["experiment=mine"], CONFIG_DIR, extra_dir=str(tmp_path))
    assert result.faults == []
    assert result.config.seed == 5
    (fault,) = compose_checked("train", ["experiment=mien"], CONFIG_DIR, extra_dir=str(tmp_path)).faults
    assert "did you mean mine?" in fault
