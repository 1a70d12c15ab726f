"""A streamed backward pass, and what it cannot be combined with."""

from __future__ import annotations

import pytest

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.compose import compose_checked
from mllmrec.errors import ConfigError


def faults(*overrides: str) -> list[str]:
    composed = compose_checked("train", overrides, CONFIG_DIR)
    if composed.faults:
        return composed.faults
    try:
        check_config(composed.config)
    except ConfigError as error:
        return error.faults
    return []


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["engine=streambp", "backbone=smollm2_135m", "backbone.gradient_checkpointing=true"],
            "engine.chunk=256 with backbone.gradient_checkpointing=true: both compute activations again; set "
            "backbone.gradient_checkpointing=false, or engine.chunk=null",
        ),
        (
            ["engine=streambp", "backbone=tiny_vl", "prompt.item_tokens=image"],
            "engine.chunk=256 with prompt.item_tokens=image: a chunk could end within an image; set engine.chunk=null",
        ),
        (["engine.chunk=0"], "engine.chunk=0"),
        (["engine=plain", "engine.chunk=64"], "engine.chunk"),
    ],
)
def test_faults(overrides: list[str], words: str) -> None:
    assert any(words in fault for fault in faults(*overrides)), faults(*overrides)


def test_the_variant_streams() -> None:
    assert faults("variant=streambp", "backbone=smollm2_135m") == []
    config = compose_checked("train", ["variant=streambp", "engine.chunk=64"], CONFIG_DIR).config
    assert (config.engine._target_, config.engine.chunk) == ("mllmrec.engine.shared_prefix.SharedPrefix", 64)
