from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import DictConfig, OmegaConf

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.checks import plain_faults
from mllmrec.config.compose import compose_checked
from mllmrec.errors import ConfigError

CHOICES = sorted(
    (path.parent.name, path.stem)
    for path in CONFIG_DIR.glob("*/*.yaml")
    # A backbone brings its recipe; hydra/help is no part of a job.
    if not path.stem.startswith("_") and path.parent.name not in ("recipe", "hydra")
)
# Values that a user must give. Written by hand, so that this test fails for a new mandatory value.
MANDATORY = {
    ("backbone", "hf"): ["backbone.path=folder"],
    ("caption", "precomputed"): ["caption.path={captions}"],
    ("caption", "openai"): ["caption.model=name"],
    ("cot_policy", "precomputed"): ["cot_policy.path=cot.json"],
    ("draft", "openai"): ["draft.model=name"],
    ("draft", "precomputed"): ["draft.path=cot.json"],
    ("refine", "openai"): ["refine.model=name"],
    ("experience", "openai"): ["experience.inner.model=name"],
    ("refine", "precomputed"): ["refine.path=cot.json"],
    ("dataset", "microlens"): ["dataset.root=folder"],
    ("dataset", "netflix"): ["dataset.root=folder"],
    ("dataset", "tabular"): ["dataset.interactions=a.csv", "dataset.items=b.csv"],
    ("experiment", "paper_microlens"): ["dataset.root=folder"],
    ("experiment", "paper_movielens"): ["dataset.root=folder"],
    ("experiment", "paper_netflix"): ["dataset.root=folder"],
    ("reward", "release"): ["prompt.answer=id_title"],
    ("cot_policy", "none"): ["mix_ratio=0"],
    ("method", "visual"): ["backbone=tiny_vl"],
    ("rollout", "reasoned"): ["task=reasoned"],
    ("rollout", "serial_exit"): ["task=reasoned"],
    ("rollout", "evidence"): ["task=reasoned"],
    ("rollout", "teacher_feedback"): ["task=reasoned", "loss=shaped"],
    ("rollout", "rubric_refine"): ["reward=rubric", "loss=shaped"],
    ("rollout", "profiled"): ["task=profiled"],
    ("rollout", "lists"): ["task=ranked_list"],
    ("rollout", "prefix_states"): ["task=ranked_list"],
    ("inference", "value_search"): ["task=ranked_list"],
    ("generator", "vllm"): ["backbone=qwen3_0.6b", "rollout=free"],
    ("advantage", "rank_grpo"): ["task=ranked_list", "reward=rank_list"],
    ("advantage", "gigpo"): ["task=ranked_list", "reward=rank_list"],
    ("advantage", "step_grpo"): ["task=ranked_list", "reward=rank_list"],
}
ASKS_FOR_A_GPU = {
    ("trainer", "gpu"),
    *(("experiment", f"paper_{name}") for name in ("microlens", "movielens", "netflix")),
}

# Choices whose packages are extras that tests do without.
OPTIONAL = {
    ("logger", "mlflow"): "mlflow",
    ("logger", "trackio"): "trackio",
    ("trainer", "deepspeed"): "deepspeed",
}


def composed(*overrides: str) -> DictConfig:
    result = compose_checked("train", overrides, CONFIG_DIR)
    assert result.faults == []
    return result.config


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_file_composes_and_passes_the_checks(group: str, name: str, tmp_path: Path) -> None:
    captions = tmp_path / "captions.json"
    captions.write_text('{"7": "a red cup"}')
    given = [text.format(captions=captions) for text in MANDATORY.get((group, name), [])]
    cfg = composed(f"{group}={name}", *given)
    if (group, name) in ASKS_FOR_A_GPU and not torch.cuda.is_available():
        assert plain_faults(cfg) == []
        with pytest.raises(ConfigError) as raised:
            check_config(cfg)
        assert len(raised.value.faults) == 1
        assert "trainer.accelerator=gpu" in raised.value.faults[0]
    elif (group, name) in OPTIONAL and find_spec(OPTIONAL[group, name]) is None:
        with pytest.raises(ConfigError) as raised:
            check_config(cfg)
        (fault,) = raised.value.faults
        assert f"needs {name}: pip install 'mllmrec[{name}]'" in fault
    else:
        check_config(cfg)


def test_mandatory_values_are_asked_for() -> None:
    cfg = composed("backbone=hf", "dataset=tabular", "cot_policy=precomputed")
    with pytest.raises(ConfigError) as raised:
        check_config(cfg)
    assert sorted(raised.value.faults) == [
        "backbone.path is not set: add backbone.path=VALUE",
        "cot_policy.path is not set: add cot_policy.path=VALUE",
        "dataset.interactions and dataset.items not set: add dataset.interactions=PATH dataset.items=PATH",
    ]


def leaves(node: yaml.Node, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    if isinstance(node, yaml.MappingNode) and not node.flow_style:
        for key, value in node.value:
            inner = (*path, key.value)
            if isinstance(value, yaml.MappingNode) and not value.flow_style:
                yield from leaves(value, inner)
            else:
                yield inner, key.start_mark.line


@pytest.mark.parametrize(
    "path", sorted(CONFIG_DIR.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONFIG_DIR))
)
def test_every_key_has_a_comment_on_its_line(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    # The class explains _target_; Hydra's manual explains the defaults list and the hydra section.
    bare = [
        ".".join(keys)
        for keys, line in leaves(yaml.compose(text, Loader=yaml.SafeLoader))
        if keys[0] not in ("defaults", "hydra")
        and keys[-1] not in ("_target_", "_partial_")
        and " # " not in lines[line]
    ]
    assert bare == []


# Released values (paper-facts, section 3): SFT epochs, GRPO epochs, min_inter, beta.
RELEASED = {
    "movielens": (3, 3, 10, 0.10),
    "microlens": (5, 3, 10, 0.05),
    "netflix": (3, 2, 5, 0.20),
}


@pytest.mark.parametrize("dataset", RELEASED)
def test_paper_experiments_carry_the_released_values(dataset: str) -> None:
    sft_epochs, grpo_epochs, min_inter, beta = RELEASED[dataset]
    cfg = composed(f"experiment=paper_{dataset}", "dataset.root=folder")
    expected = {
        "backbone.path": "Qwen/Qwen3-4B",
        "backbone.dtype": "bfloat16",
        "backbone.lora.rank": 16,
        "backbone.lora.alpha": 16,
        "backbone.lora.dropout": 0.05,
        "grpo.lora.alpha": 32,
        "grpo.lora.dropout": 0.05,
        "mix_ratio": 0.1,
        "prompt.history_length": min_inter - 1,
        "split.min_history": min_inter - 1,
        "dataset.filters.min_length": min_inter,
        "candidates.num_negatives": 9,
        "sft.epochs": sft_epochs,
        "sft.batch_size": 2 * 8,
        "sft.micro_batch_size": 2,
        "sft.learning_rate": 1e-5,
        "sft.schedule": "linear",
        "sft.warmup_ratio": 0.0,
        "sft.loss_on": "all",
        "grpo.epochs": grpo_epochs,
        "grpo.beta": beta,
        "grpo.group_size": 8,
        "grpo.new_negatives": False,
        "grpo.prompts_per_step": 4 * 8 // 8,
        "grpo.micro_batch_size": 4,
        "grpo.iterations": 1,
        "grpo.learning_rate": 1e-5,
        "grpo.schedule": "linear",
        "grpo.aggregation": "token_mean",
        "loss.epsilon_low": 0.2,
        "loss.epsilon_high": 0.2,
        "advantage.scale": "group",
        "rollout.temperature": 0.9,
        "rollout.top_p": 0.9,
        "rollout.max_new_tokens": 128,
        "reward.malformed": -1.0,
        "reward.miss": 0.3,
        "reward.hit": 1.0,
        "seed": 42,
    }
    assert {key: OmegaConf.select(cfg, key) for key in expected} == expected


@pytest.mark.parametrize(
    "path",
    sorted((CONFIG_DIR / "debug").glob("*.yaml")) + sorted((CONFIG_DIR / "experiment").glob("[!_]*.yaml")),
    ids=lambda path: path.stem,
)
def test_presets_begin_with_the_command_that_runs_them(path: Path) -> None:
    first, second = path.read_text(encoding="utf-8").splitlines()[:2]
    assert first == "# @package _global_"
    assert second.startswith("# python -m mllmrec.train ")
    assert f"{path.parent.name}={path.stem}" in second.split()
