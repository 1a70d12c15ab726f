"""Published rewards that hit_format pays with the right weights."""

from __future__ import annotations

import pytest
from hydra.utils import instantiate

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.compose import compose_checked
from mllmrec.testing import toy_batch


@pytest.mark.parametrize(
    ("variant", "paid"), [("wirelessmathlm", [1.0, 0.0, 0.0]), ("timemaster", [1.0, 0.1, 0.0])]
)
def test_a_hit_a_valid_miss_and_nothing_valid(variant, paid):
    composed = compose_checked("train", [f"variant={variant}"], CONFIG_DIR)
    assert composed.faults == []
    check_config(composed.config)
    batch = toy_batch(["[ITEM_1]", "[ITEM_2]", "a lamp"])
    assert instantiate(composed.config.reward)(batch).total.tolist() == pytest.approx(paid)


def test_wirelessmathlm_trains_without_sft():
    composed = compose_checked("train", ["variant=wirelessmathlm"], CONFIG_DIR)
    assert composed.config.method.phases == ["warmup", "grpo"]
