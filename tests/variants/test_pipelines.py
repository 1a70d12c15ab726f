"""Presets that are an order of phases: VerIPO, UAV-VL-R1 and R1-Code-Interpreter."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from omegaconf import OmegaConf

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.compose import compose_checked
from mllmrec.config.phases import phases_of


def settings_of(*overrides: str) -> dict[str, Any]:
    result = compose_checked("train", overrides, CONFIG_DIR)
    assert result.faults == []
    check_config(result.config)
    cfg = OmegaConf.masked_copy(result.config, [key for key in result.config if key != "hydra"])
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    return plain


def test_veripo_prefers_among_its_own_rollouts_between_two_phases_of_grpo():
    cfg = settings_of("variant=veripo")
    warmup, sft, grpo, dpo, again = phases_of(cfg)
    assert [one.kind.name for one in (warmup, sft, grpo, again)] == ["warmup", "sft", "grpo", "grpo"]
    assert (dpo.kind.name, dpo.own("answers_of")) == ("dpo", grpo.name)
    # README and scripts of the authors.
    assert (cfg["dpo"]["beta"], cfg["dpo"]["prompts_per_step"], cfg["grpo"]["group_size"]) == (0.1, 32, 8)


@pytest.mark.parametrize("task", ["reasoned", "ranked_list"])
def test_rollouts_of_veripo_may_be_reasoned_or_lists(task):
    settings_of("variant=veripo", f"task={task}", *(["reward=rank_list"] if task == "ranked_list" else []))


def test_stages_of_uav_vl_r1_get_harder_and_share_no_sample():
    cfg = settings_of("variant=uav_vl_r1")
    stages = [phase for phase in phases_of(cfg) if phase.kind.name == "grpo"]
    shares = [phase.own("samples") for phase in stages]
    assert (shares[0][0], shares[-1][1]) == (0, 1)
    assert all(one[1] == other[0] for one, other in pairwise(shares))
    rewards = [phase.settings(cfg)["reward"] for phase in stages]
    assert [one["_target_"].rpartition(".")[2] for one in rewards] == ["Semantic", "Semantic", "HitFormat"]
    assert [one["hit_weight"] for one in rewards] == [0.0, 1.0, 1.0]


def test_r1_code_interpreter_pays_the_right_answer_alone_after_sft_on_reasoning():
    cfg = settings_of("variant=r1_code_interpreter")
    assert [phase.name for phase in phases_of(cfg)] == ["warmup", "sft", "grpo"]
    paid = [cfg["reward"][name] for name in ("hit_weight", "format_weight", "invalid")]
    assert (paid, cfg["cot"]["placement"]) == ([1.0, 0.0, 0.0], "completion")
