from __future__ import annotations

from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.compose import compose_checked
from mllmrec.errors import ConfigError
from mllmrec.rl.advantages import GroupRelative
from mllmrec.rl.losses import ClippedRatio
from mllmrec.testing.trials import trial_faults


def composed(*overrides: str, extra_dir: Path | None = None) -> DictConfig:
    result = compose_checked("train", overrides, CONFIG_DIR, None if extra_dir is None else str(extra_dir))
    assert result.faults == []
    return result.config


def faults_of(*overrides: str, extra_dir: Path | None = None) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        check_config(composed(*overrides, extra_dir=extra_dir))
    return raised.value.faults


# Written by hand from the papers: ratio and clip bounds, aggregation, KL weight, scale of the advantages, and what happens
# to groups of equal rewards.
WHOLE = {
    "loss=grpo": (("token", 0.2, 0.2), "token_mean", 0.1, "group", "auto"),
    "loss=gspo": (("sequence", 3e-4, 4e-4), "sequence_mean", 0.0, "group", "auto"),
    "loss=dapo": (("token", 0.2, 0.28), "token_mean", 0.0, "group", "drop"),
    "advantage=dr_grpo": (("token", 0.2, 0.2), "constant", 0.0, "none", "auto"),
}


@pytest.mark.parametrize("backbone", ["tiny", "qwen3_0.6b"])
@pytest.mark.parametrize("word", WHOLE)
def test_one_word_brings_the_whole_algorithm(word: str, backbone: str) -> None:
    # In either order: the backbone's recipe does not bring its own values back.
    for overrides in ([word, f"backbone={backbone}"], [f"backbone={backbone}", word]):
        cfg = composed(*overrides)
        check_config(cfg)
        loss, advantage = instantiate(cfg.loss), instantiate(cfg.advantage)
        assert isinstance(loss, ClippedRatio)
        assert isinstance(advantage, GroupRelative)
        found = (
            (loss.level, loss.low, loss.high),
            cfg.grpo.aggregation,
            cfg.grpo.beta,
            advantage.scale,
            cfg.grpo.skip_zero_variance,
        )
        assert found == WHOLE[word]


# The same of losses without a clip of their own, as TRL and the papers have them.
SOFT = {
    "cispo": ("token_mean", 0.0),
    "sapo": ("sequence_mean", 0.0),
    "gmpo": ("sequence_mean", 0.0),
    "vespo": ("token_mean", 0.0),
    "luspo": ("sequence_sum", 0.0),
    "reg_grpo": ("sequence_mean", 0.1),
    "reinforce": ("token_mean", 0.1),
}


@pytest.mark.parametrize("loss", SOFT)
def test_a_soft_loss_brings_its_aggregation(loss: str) -> None:
    cfg = composed(f"loss={loss}")
    check_config(cfg, trial_faults)
    assert (cfg.grpo.aggregation, cfg.grpo.beta) == SOFT[loss]


@pytest.mark.parametrize(
    ("overrides", "key", "value"),
    [
        (["loss=dapo", "grpo.beta=0.1"], "grpo.beta", 0.1),
        (["grpo.beta=0.1", "loss=dapo"], "grpo.beta", 0.1),
        (["loss=dapo", "grpo.skip_zero_variance=never"], "grpo.skip_zero_variance", "never"),
        (["loss=gspo", "grpo.aggregation=token_mean"], "grpo.aggregation", "token_mean"),
        (["advantage=dr_grpo", "grpo.aggregation=token_mean"], "grpo.aggregation", "token_mean"),
        (["advantage=dr_grpo", "advantage.scale=batch"], "advantage.scale", "batch"),
    ],
)
def test_the_command_line_wins(overrides: list[str], key: str, value: object) -> None:
    cfg = composed(*overrides)
    check_config(cfg)
    assert OmegaConf.select(cfg, key) == value


@pytest.mark.parametrize(("loss", "aggregation"), [("gspo", "sequence_mean"), ("dapo", "token_mean")])
def test_two_whole_algorithms_contradict(loss: str, aggregation: str) -> None:
    words = [f"loss={loss}", "advantage=dr_grpo"]
    assert faults_of(*words) == [
        f"advantage=dr_grpo sets grpo.aggregation=constant, but loss={loss} sets {aggregation}: add "
        f"grpo.aggregation=constant or grpo.aggregation={aggregation}"
    ]
    # No contradiction if no phase reads these settings.
    check_config(composed(*words, "method=sft"))
    cfg = composed(*words, "grpo.aggregation=constant")
    check_config(cfg)
    assert (cfg.grpo.aggregation, cfg.advantage.scale, cfg.loss.epsilon_high) == (
        "constant",
        "none",
        0.28 if loss == "dapo" else 4e-4,
    )


def test_a_preset_does_not_take_a_part_of_an_algorithm_away() -> None:
    # The released settings for Netflix have a KL weight of 0.2.
    words = ["experiment=paper_netflix", "dataset.root=folder", "trainer=auto", "loss=dapo"]
    assert faults_of(*words) == [
        "loss=dapo sets grpo.beta=0.0, but a preset sets 0.2: add grpo.beta=0.0 or grpo.beta=0.2"
    ]
    check_config(composed(*words, "grpo.beta=0.2"))


def test_a_preset_of_ones_own_may_take_an_algorithm_and_change_it(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /loss: dapo\ngrpo:\n  beta: 0.05\n"
    )
    cfg = composed("experiment=mine", extra_dir=tmp_path)
    check_config(cfg)
    assert (cfg.grpo.beta, cfg.grpo.skip_zero_variance) == (0.05, "drop")


def test_an_algorithm_of_ones_own_is_held_to_the_same(tmp_path: Path) -> None:
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss" / "mine.yaml").write_text(
        "# @package _global_\nloss:\n  _target_: mllmrec.rl.losses.ClippedRatio\ngrpo:\n  aggregation: sequence_mean\n"
    )
    check_config(composed("loss=mine", extra_dir=tmp_path))
    (fault,) = faults_of("loss=mine", "advantage=dr_grpo", extra_dir=tmp_path)
    assert fault.startswith("advantage=dr_grpo sets grpo.aggregation=constant, but loss=mine sets")
