"""ReST-RL's search over ranked lists of a toy policy, with values that are set by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from mllmrec.errors import UserError
from mllmrec.inference.value_search import ValueSearch
from mllmrec.rewards.hit_format import HitFormat
from mllmrec.rl.parts import REFERENCE
from mllmrec.testing.inference import toy_inputs
from mllmrec.testing.toys import toy_examples


class ByReference(HitFormat):
    needs = frozenset({REFERENCE})


# Lists name two of three candidates, so there are six.
PATHS = [(first, second) for first in range(3) for second in range(3) if second != first]


def ranked(part, worth=None, inputs=None):
    """The first toy example's list, with its ranker; ``worth`` values prefixes in place of the value model."""
    ranker = part.ranker(toy_inputs("constrained", 2) if inputs is None else inputs)
    if worth is not None:
        ranker.values = "set by hand"
        ranker.worth = lambda prefixes: [worth(tuple(path)) for _, path in prefixes]
    with ranker.ready():
        return ranker.rank(toy_examples(1))[0], ranker


@pytest.mark.parametrize("best", PATHS)
def test_the_best_valued_complete_list_is_found(best):
    part = ValueSearch(iterations=20, samples=20, temperature=5.0)
    found, _ = ranked(part, lambda path: float(path == best[: len(path)]))
    assert tuple(found.order) == best
    ids = [f"[ITEM_{column + 1}]" for column in best]
    assert [line.split()[1] for line in found.text.splitlines()] == ids


def test_a_beginning_that_misleads_is_left():
    """The first item's value says 0, but all its lists are bad; 2, then 1 is the only good one."""
    values = {(0,): 0.9, (1,): 0.1, (2,): 0.5, (2, 1): 1.0}
    found, _ = ranked(
        ValueSearch(iterations=20, samples=20, temperature=5.0), lambda path: values.get(path, 0.0)
    )
    assert found.order.tolist() == [2, 1]


def test_a_beginning_goes_on_as_the_policy_likes_it():
    """One step names one item, so no list is complete."""
    found, ranker = ranked(
        ValueSearch(iterations=1, samples=20, temperature=5.0), lambda path: float(path == (1,))
    )
    asked = ranker._asked(toy_examples(1))[0]
    with torch.no_grad():
        (probabilities,) = ranker._next([(asked, type("At", (), {"path": (1,)}))])
    assert found.order.tolist() == [1, [0, 2][int(np.argmax(probabilities))]]


def test_the_probabilities_of_the_next_item_are_the_model_s():
    part = ValueSearch(temperature=0.5)
    inputs = toy_inputs("constrained", 2)
    ranker = part.ranker(inputs)
    asked = ranker._asked(toy_examples(1))[0]
    at = type("At", (), {"path": (0,)})
    with torch.no_grad():
        (found,) = ranker._next([(asked, at)])
        # "1." item 1 "2.": the items that are left begin with the same token and part at the one after it.
        row = torch.tensor([[*asked.prompt, 13, 7, 14, 8]])
        logits = inputs.policy.model(input_ids=row).logits[0, -1, [9, 10]]
    np.testing.assert_allclose(found, torch.softmax(logits / 0.5, -1).numpy(), rtol=1e-4)


def test_the_value_model_learns_from_lists_for_training_prompts_once(caplog):
    caplog.set_level("INFO")
    part = ValueSearch(iterations=2, samples=2, value_lists=3, value_prompts=2)
    inputs = toy_inputs("constrained", 2)
    ranker = part.ranker(inputs)
    with ranker.ready():
        written, values = ranker.generated_tokens, ranker.values
    # Three lists for each of two prompts: six tokens at least (places, items and the end), eight at most.
    assert 2 * 3 * 6 <= written <= 2 * 3 * 8
    assert "of 2 training prompts" in caplog.text
    with ranker.ready():
        ranker.rank(toy_examples(2))
    assert ranker.values is values
    assert ranker.generated_tokens > written


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"iterations": 0}, "iterations=0: must be 1 or more"),
        ({"value_prompts": 1}, "value_prompts=1: must be 2 or more"),
        ({"temperature": 0.0}, "temperature=0: must be above 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ValueSearch(**settings)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"prompt": {"item_tokens": "image"}}, "choose inference=best_of_n"),
        ({"reward": {"_target_": f"{__name__}.ByReference"}}, "such as reward=rank_list"),
    ],
)
def test_runs_that_it_cannot_search_are_refused_with_a_way_out(section, message):
    inputs = toy_inputs("constrained", 2)
    cfg = OmegaConf.merge(inputs.cfg, section)
    with pytest.raises(UserError, match=message):
        ValueSearch().ranker(replace(inputs, cfg=OmegaConf.create(cfg)))
