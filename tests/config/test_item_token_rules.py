from __future__ import annotations

import pytest
from omegaconf import DictConfig, OmegaConf

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.compose import compose_checked
from mllmrec.errors import ConfigError

VECTORS = "+method.item_vectors._target_=mllmrec.baselines.sasrec.SasRec"


def composed(*overrides: str) -> DictConfig:
    result = compose_checked("train", overrides, CONFIG_DIR)
    assert result.faults == []
    return result.config


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["prompt.item_tokens=vector"], "method=mllmrec_r1, which trains no vectors: choose method=llara"),
        (["method=sft", "prompt.item_tokens=vector"], "method=sft, which trains no vectors"),
        (["method=sasrec", "prompt.item_tokens=vector"], "method=sasrec, which reads no prompt"),
        (["method=sasrec", VECTORS], "method.item_vectors with method=sasrec, which reads no prompt"),
        (
            ["method=sft", VECTORS],
            "no prompt would show the vectors of this method; set prompt.item_tokens=vector",
        ),
        (["method=sft", "prompt.curriculum=linear"], "prompt.curriculum=linear with prompt.item_tokens=none"),
        (
            ["method=llara", "method.phases=[warmup]"],
            "without phase sft, which learns to read them: add sft to method.phases",
        ),
        (
            ["method=llara", "sft.loss_on=all"],
            "reads item tokens but cannot write them; set sft.loss_on=answer",
        ),
        (["method=llara", "prompt.item_tokens=pixels"], "prompt.item_tokens=pixels: must be"),
        (["method=llara", "prompt.curriculum=steps"], "prompt.curriculum=steps: must be"),
        (
            ["method=llara", "method.item_vectors.dropout=2"],
            "method.item_vectors.dropout=2 must be at least 0",
        ),
        (["method=llara", "+method.item_vectors.width=2"], "method.item_vectors.width: no such setting here"),
    ],
)
def test_faults_of_item_tokens(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check_config(composed(*overrides))
    assert any(words in fault for fault in raised.value.faults), raised.value.faults


@pytest.mark.parametrize(
    "overrides",
    [
        ["method=llara"],
        ["method=llara", "backbone=qwen3_0.6b"],
        ["method=llara", "prompt.curriculum=none", "engine=plain"],
        # GRPO may follow LLaRA's SFT.
        ["method=llara", "method.phases=[warmup,sft,grpo]"],
        ["method=mllmrec_r1", "prompt.item_tokens=vector", VECTORS],
    ],
)
def test_what_is_allowed_with_item_tokens(overrides: list[str]) -> None:
    check_config(composed(*overrides))


def test_the_vectors_are_those_of_sasrec() -> None:
    llara, sasrec = (OmegaConf.load(CONFIG_DIR / "method" / f"{name}.yaml") for name in ("llara", "sasrec"))
    assert llara.method.item_vectors == sasrec.recommender


def test_the_vectors_with_texts_are_those_of_sasrec_text() -> None:
    llara, alone = composed("method=llara_text"), composed("method=sasrec_text")
    for cfg in (llara, alone):
        OmegaConf.resolve(cfg.method)
    assert llara.method.item_vectors == alone.method.recommender
    # All else is LLaRA's.
    plain = composed("method=llara")
    assert llara.prompt == plain.prompt
    assert llara.method.phases == plain.method.phases
