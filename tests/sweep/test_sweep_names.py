from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from mllmrec.sweeping.names import job_name


def test_a_job_is_named_by_what_distinguishes_it() -> None:
    overrides = ["seed=0", "experiment=main_table", "scale=small", "method=sft", "skip_finished=true"]
    assert job_name(overrides) == "method-sft+seed-0"
    assert job_name(overrides[::-1]) == "method-sft+seed-0"
    assert job_name(["experiment=main_table", "debug=fast"]) == "job"
    # A key that only begins like a preset is not one.
    assert job_name(["scales=1"]) == "scales-1"


@pytest.mark.parametrize("value", ["[1,3]", "org/model", "a b", "ü", "x" * 300, "'quoted'"])
def test_odd_values_give_names_that_can_be_typed(value: str) -> None:
    name = job_name([f"eval.ks={value}", "seed=0"])
    assert len(name) < 200
    assert "/" not in name
    assert OverridesParser.create().parse_override(f"run={name}").value() == name


def test_values_that_look_alike_in_a_name_have_names_of_their_own() -> None:
    assert job_name(["a=[1,2]"]) != job_name(["a=[1;2]"])
    assert job_name(["a=" + "x" * 200]) != job_name(["a=" + "x" * 201])


def test_a_long_name_begins_with_what_was_chosen() -> None:
    many = [f"dataset.{letter * 20}={letter}" for letter in "abcdef"]
    assert job_name([*many, "seed=0", "method=sft"]).startswith("method-sft+seed-0+dataset.a")
