"""Reasoning for test and validation prompts is judged without their targets, and changes nothing in training."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from scribe import Scribe

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.cot import Confident
from mllmrec.cot.assess.reference import TRAINED, Effect
from mllmrec.evaluation.protocol import Protocol
from mllmrec.reasoners.base import Written
from mllmrec.samples.prepare import prepare

GOOD = "Signals: red in most. Preference: mostly red lamps. Look for: red and blue lamps."


class Author(Scribe):
    """Writes the text that it is given for each user, as draft and as refinement."""

    def __init__(self, texts: dict[str, str]) -> None:
        super().__init__("author")
        self.texts = texts

    def write(self, requests):
        for request in requests:
            yield request, Written(self.texts[request.user_id])


class Judge:
    """A reference with a given effect of the text on each target. It knows user u2 by heart."""

    def __init__(self) -> None:
        self.asked = []

    def barred(self, keys, items):
        self.asked += keys
        return {key: TRAINED for key in keys if key.user_id == "u2"}

    def effects(self, texts, draw):
        self.asked += texts
        return {key: Effect(5.0 if key.target_id == "3" else -5.0, 0.5) for key in texts}


def at_test(keys):
    return [dataclasses.replace(key, split="test") for key in keys]


@pytest.fixture
def policy(make_pipeline):
    def of(text: str = GOOD, **settings) -> Confident:
        author = Author(dict.fromkeys(("u0", "u1", "u2"), text))
        made = Confident(make_pipeline(author, author), **settings)
        made.reference = Judge()
        return made

    return of


def test_the_reference_is_asked_about_training_samples_alone(policy, keys):
    made = policy(top_share=0.5)
    made.make(keys)
    asked = len(made.reference.asked)
    made.make(at_test(keys))
    assert len(made.reference.asked) == asked
    # It can judge users 0 and 1; the reasoning helps the target of user 0.
    assert [made.reasoning(key) is not None for key in keys] == [True, False, False]
    # At test all three have reasoning: neither the share nor the target decides.
    assert [made.reasoning(key) for key in at_test(keys)] == [GOOD] * 3
    assert made.coverage(at_test(keys)) == {"matched": 3}


@pytest.mark.parametrize("rule", [{"top_share": 0.5}, {"threshold": 0.9, "top_share": None}], ids=str)
def test_what_is_made_for_evaluation_changes_no_training_prompt(policy, keys, rule):
    made = policy(**rule)
    made.make(keys)
    before = [made.reasoning(key) for key in keys]
    made.make(at_test(keys))
    made.make([dataclasses.replace(key, split="validation") for key in keys])
    assert [made.reasoning(key) for key in keys] == before


def test_form_still_vetoes(policy, keys):
    made = policy("no steps at all in this one, which has words enough for any length")
    made.make(at_test(keys))
    assert made.coverage(at_test(keys)) == {"form: steps": 3}


def test_no_target_changes_what_is_thought_of_a_text(policy, keys):
    """A text is not dropped for happening to name the target's id."""
    key = dataclasses.replace(keys[0], split="test", target_id="7")
    named = dataclasses.replace(key, target_id="9")
    made = policy(GOOD.replace("blue lamps", "blue lamps like item 9"))
    made.make([key, named])
    one, other = made.records[key], made.records[named]
    assert (one.text, one.scores, one.confidence, one.dropped) == (
        other.text,
        other.scores,
        other.confidence,
        other.dropped,
    )
    # In training the target's id counts like the ids of the history.
    trained = dataclasses.replace(named, split="train")
    made.make([trained])
    assert made.records[trained].dropped == "form: no_ids"


def prepared(cache: Path, *overrides: str):
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        cfg = compose(
            "train",
            [
                *("dataset.num_users=30", "dataset.num_items=40", f"cache_dir={cache}", "split.windows=last"),
                *("split.min_history=1", "cot_policy=confident", "mix_ratio=0.5", "eval.cot=true"),
                *("eval.weighting=uniform", *overrides),
            ],
        )
    check_config(cfg)
    return prepare(cfg), cfg


def test_every_evaluated_prompt_carries_reasoning_and_training_prompts_stay(tmp_path):
    data, cfg = prepared(tmp_path)
    before = [data.train[index].prompt for index in range(30)]
    examples, positions, _ = data.evaluation(cfg.eval)
    assert all(examples[index].has_reasoning for index in positions)
    assert [data.train[index].prompt for index in range(30)] == before
    assert sum(data.train[index].has_reasoning for index in range(30)) == 15
    assert Protocol(cfg.eval, 0, data).describe()["cot_share"] == 1.0


def test_prompts_of_evaluation_that_carry_none_are_counted(tmp_path, caplog):
    """A file, such as the released one, holds reasoning only for training samples; no test prompt finds any."""
    path = tmp_path / "records.json"
    path.write_text("[]")
    data, cfg = prepared(tmp_path, "cot_policy=precomputed", f"cot_policy.path={path}", "mix_ratio=0")
    described = Protocol(cfg.eval, 0, data).describe()
    assert (described["cot"], described["cot_share"]) == (True, 0.0)
    (warning,) = [record.getMessage() for record in caplog.records if "eval.cot" in record.getMessage()]
    assert warning == "eval.cot=true: 0 of 30 test prompts carry reasoning; absent 30"
