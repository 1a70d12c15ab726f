"""Ways to rank by drawn answers that cannot work are refused with the settings and the way out."""

from __future__ import annotations

import pytest

from mllmrec.config import CONFIG_DIR
from mllmrec.config.checks import plain_faults
from mllmrec.config.compose import compose_checked
from mllmrec.inference.base import Inference


class Drawing(Inference):
    def ranker(self, inputs):
        return inputs.plain()


class OfLists(Drawing):
    needs_lists = True


def faults_of(*overrides: str, part: type[Inference] = Drawing) -> list[str]:
    target = f"++inference._target_={part.__module__}.{part.__name__}"
    composed = compose_checked("train", [*overrides, target], CONFIG_DIR)
    assert composed.faults == []
    return plain_faults(composed.config)


@pytest.mark.parametrize(
    "overrides",
    [[], ["task=ranked_list"], ["task=reasoned"], ["eval.listing=none", "eval.num_negatives=full"]],
)
def test_answers_may_be_drawn(overrides):
    assert faults_of(*overrides) == []


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["method=item_knn"], "leave inference out"),
        (["method=pointwise"], "set inference=greedy, or eval.ranking=likelihood"),
        (["eval.calibrate=history"], "set eval.calibrate=none or inference=greedy"),
        (["eval.num_negatives=99"], "set eval.listing=all or none, or eval.num_negatives=9"),
    ],
)
def test_answers_that_cannot_be_drawn_are_refused(overrides, expected):
    (fault,) = faults_of(*overrides)
    assert "inference._target_=" in fault
    assert expected in fault
    assert compose_plain(*overrides) == []


def compose_plain(*overrides: str) -> list[str]:
    return plain_faults(compose_checked("train", [*overrides], CONFIG_DIR).config)


def test_a_part_that_works_on_lists_needs_lists():
    (fault,) = faults_of(part=OfLists)
    assert "prompt.places=1: answers must be ranked lists; choose a run of task=ranked_list" in fault
    assert faults_of("task=ranked_list", part=OfLists) == []


def test_a_search_over_lists_needs_lists():
    (fault,) = compose_plain("inference=value_search")
    assert "ValueSearch with prompt.places=1" in fault
    assert "choose a run of task=ranked_list, or inference=best_of_n" in fault
    assert compose_plain("inference=value_search", "task=ranked_list") == []
    # After reasoning it would have to write that first.
    (fault,) = compose_plain("inference=value_search", "task=reasoned")
    assert "choose a run of task=ranked_list, or inference=best_of_n" in fault
    written = [
        "task=ranked_list",
        "cot.placement=completion",
        "rollout=free",
        "eval.ranking=generate",
        "mix_ratio=1",
    ]
    (fault,) = compose_plain("inference=value_search", *written)
    assert "ValueSearch with cot.placement=completion: prompts ask for reasoning first" in fault
    assert compose_plain("inference=best_of_n", *written) == []
    assert compose_plain("inference=value_search", *written[:-1], "mix_ratio=0") == []
