from __future__ import annotations

import pytest

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.compose import compose_checked
from mllmrec.errors import ConfigError

SPLIT = ["dataset=tabular", "dataset.items=i.csv", "dataset.train=a.csv", "dataset.test=b.csv"]
SAMPLES = [*SPLIT, "split=given", "dataset.history_column=history"]


def faults_of(*overrides: str) -> list[str]:
    result = compose_checked("train", overrides, CONFIG_DIR)
    try:
        check_config(result.config)
    except ConfigError as error:
        return [*result.faults, *error.faults]
    return result.faults


@pytest.mark.parametrize(
    "overrides",
    [
        ["dataset=tabular", "dataset.items=i.csv", "dataset.interactions=a.csv"],
        [*SPLIT, "split=given"],
        [*SPLIT, "split=given", "dataset.validation=c.csv", "split.validation_share=0"],
        [*SAMPLES, "dataset.header=none"]
        + [f"dataset.{name}_column={number}" for name, number in (("user", 1), ("item", 2), ("title", 3))]
        + ["dataset.history_column=4", "dataset.items_id_column=1"],
    ],
)
def test_settings_that_agree(overrides: list[str]) -> None:
    assert faults_of(*overrides) == []


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (SPLIT, "set split=given"),
        ([*SPLIT, "split=given", "dataset.interactions=c.csv"], "remove one or the other"),
        (
            ["dataset=tabular", "split=given", "dataset.items=i.csv", "dataset.train=a.csv"],
            "dataset.test not set: add dataset.test=PATH",
        ),
        (
            ["dataset=tabular", "dataset.items=i.csv", "dataset.interactions=a.csv", "split=given"],
            "which has no published split: name dataset.train and dataset.test",
        ),
        (
            [
                "dataset=tabular",
                "dataset.items=i.csv",
                "dataset.interactions=a.csv",
                "dataset.history_column=h",
            ],
            "dataset.history_column=h without a published split",
        ),
        (["dataset=tabular"], "dataset.interactions and dataset.items not set"),
        ([*SPLIT, "split=given", "split.validation_share=0"], "no validation users"),
        (
            [*SAMPLES, "dataset.header=none"],
            "dataset.user_column=user_id, dataset.item_column=item_id, dataset.history_column=history, "
            "dataset.title_column=title with dataset.header=none: columns of a table without header are numbers, from 1",
        ),
        ([*SAMPLES, "dataset.header=no"], "'both', 'interactions', 'items' or 'none'"),
    ],
)
def test_settings_that_contradict_each_other(overrides: list[str], expected: str) -> None:
    (fault,) = faults_of(*overrides)
    assert expected in fault
