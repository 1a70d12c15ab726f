from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mllmrec.config import CONFIG_DIR
from mllmrec.config.compose import compose_checked
from mllmrec.errors import choices

REWARDS = sorted(path.stem for path in (CONFIG_DIR / "reward").glob("[!_]*.yaml"))


def faults_of(*overrides: str) -> list[str]:
    return compose_checked("train", overrides, CONFIG_DIR).faults


def test_an_unknown_choice_lists_the_valid_ones_and_the_nearest() -> None:
    assert faults_of("reward=hitformat") == [
        f"reward=hitformat: no such reward (did you mean hit_format?); choose {choices(REWARDS)}"
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
        # Two other sections have this name.
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
def test_overrides_that_hydra_accepts_are_accepted(overrides: list[str]) -> None:
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


@pytest.fixture
def extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, import_from: Callable[[Path], None]) -> Path:
    """A folder whose name has a space, with a folder of a user's files and a package that contains another."""
    folder = tmp_path / "my files"
    (folder / "extra" / "reward").mkdir(parents=True)
    (folder / "extra" / "reward" / "mine.yaml").write_text("_target_: mllmrec.rewards.hit_format.HitFormat\n")
    (folder / "ourlab" / "conf" / "reward").mkdir(parents=True)
    (folder / "ourlab" / "conf" / "reward" / "ours.yaml").write_text(
        "_target_: mllmrec.rewards.hit_format.HitFormat\n"
    )
    for package in ("ourlab", "ourlab/conf"):
        (folder / package / "__init__.py").touch()
    monkeypatch.chdir(folder)
    import_from(folder)
    return folder


@pytest.mark.parametrize(
    "place", ["extra", "file://{escaped}/extra", "'{folder}/extra'", "extra,pkg://ourlab.conf"]
)
def test_the_search_path_of_the_command_line_is_taken(extra: Path, place: str) -> None:
    given = place.format(folder=extra, escaped=str(extra).replace(" ", "\\ "))
    search = f"hydra.searchpath=[{given}]"
    assert faults_of(search, "reward=mine") == []
    (fault,) = faults_of(search, "reward=miine")
    assert "did you mean mine?" in fault
    assert ", mine" in fault


def test_packages_and_folders_are_searched_together(extra: Path) -> None:
    search = "hydra.searchpath=[pkg://ourlab.conf]"
    result = compose_checked("train", [search, "reward=ours"], CONFIG_DIR, extra_dir="extra")
    assert result.faults == []
    (fault,) = compose_checked("train", [search, "reward=theirs"], CONFIG_DIR, extra_dir="extra").faults
    assert fault.endswith(f"choose {choices(sorted([*REWARDS, 'mine', 'ours']))}")


@pytest.mark.parametrize("place", ["extr", "pkg://nowhere.conf", "file:///nowhere"])
def test_a_missing_place_of_files_is_named(extra: Path, place: str) -> None:
    fault, _ = faults_of(f"hydra.searchpath=[{place}]", "reward=mine")
    assert fault.startswith(f"hydra.searchpath=[{place}]: {place} does not exist: give a folder")


def test_a_search_path_is_a_list(extra: Path) -> None:
    (fault,) = faults_of("hydra.searchpath=extra")
    assert "hydra.searchpath=[DIR,pkg://PACKAGE]; --config-dir DIR" in fault


def test_a_missing_folder_for_config_dir_is_named(extra: Path) -> None:
    (fault,) = compose_checked("train", [], CONFIG_DIR, extra_dir="extr").faults
    assert fault.startswith("--config-dir extr: no such folder")


def test_places_that_a_root_file_names_are_searched(extra: Path) -> None:
    (extra / "roots").mkdir()
    root = f"defaults:\n  - reward: mine\nhydra:\n  searchpath: ['file://{extra}/extra']\n"
    (extra / "roots" / "main.yaml").write_text(root)
    (fault,) = compose_checked("main", ["reward=miine"], extra / "roots").faults
    assert "did you mean mine?" in fault
