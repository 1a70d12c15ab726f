from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from mllmrec.config import CONFIG_DIR
from mllmrec.config.checks import plain_faults
from mllmrec.config.compose import compose_checked

SERVED = ("generator=vllm", "backbone=qwen3_0.6b")
FREE = "rollout=free"


PAGE = (Path(__file__).resolve().parents[2] / "docs" / "vllm.md").read_text(encoding="utf-8")


def faults_of(more: tuple[str, ...]) -> list[str]:
    composed = compose_checked("train", [*SERVED, *more], CONFIG_DIR)
    assert composed.faults == []
    return plain_faults(composed.config)


@pytest.mark.parametrize(
    "more",
    [
        (FREE,),
        (FREE, "generator.max_lag=1"),
        ("task=reasoned",),
        ("task=reasoned", "rollout.answer=sampled"),
        ("task=profiled", "generator.max_lag=1"),
        (FREE, "sampler=dynamic"),
        (FREE, "loss=reinforce", "generator.max_lag=1"),
        (FREE, "peft=lora", "method=grpo_only", "grpo.iterations=2"),
    ],
    ids=" ".join,
)
def test_what_works(more: tuple[str, ...]) -> None:
    assert faults_of(more) == []


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("rollout=constrained",), "needs the probabilities of the model itself"),
        (("rollout=enumerate",), "needs the probabilities of the model itself"),
        (("task=ranked_list",), "needs the probabilities of the model itself"),
        (("task=reasoned", "rollout=serial_exit"), "needs the probabilities of the model itself"),
        (("rollout=xrpo",), "is made of several draws"),
        ((FREE, "backbone=tiny"), "a server gets each update as an adapter"),
        ((FREE, "backbone.lora.rank=0"), "a server gets each update as an adapter"),
        ((FREE, "peft=dora_rslora"), "the DoRA adapter of sft"),
        ((FREE, "method=sft"), "only phases of kind grpo let a server draw"),
        ((FREE, "sampler=dynamic", "generator.max_lag=1"), "set generator.max_lag=0, or sampler=shuffled"),
        (
            (FREE, "loss=reinforce", "generator.max_lag=1", "generator.truncate_at=null"),
            "nothing would correct for the older adapter",
        ),
        ((FREE, "generator.max_lag=two"), "generator.max_lag="),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_work_is_refused(more: tuple[str, ...], words: str) -> None:
    faults = faults_of(more)
    assert any(words in fault for fault in faults), faults
    assert all("generator" in fault for fault in faults if words in fault)


def test_the_page_names_settings_that_there_are() -> None:
    known = yaml.safe_load((CONFIG_DIR / "generator" / "vllm.yaml").read_text())
    named = set(re.findall(r"generator\.(\w+)", PAGE))
    assert len(named) >= 8
    assert named <= set(known)
