from __future__ import annotations

import numpy as np
import pytest

from mllmrec.cot.base import CotKey, CotPolicy


class Echo(CotPolicy):
    """Says who is asked about, so that a mix-up of samples would show."""

    reads_item_texts = False

    def reasoning(self, key: CotKey) -> str | None:
        return f"{key.user_id} {'-'.join(key.history_ids)} to {key.target_id}"


def test_an_example_holds_its_own_sample(make_examples, make_builder):
    examples = make_examples(make_builder("instruct", answer="id"))
    assert len(examples) == 6
    example = examples[2]
    # User 2 has items 2 … 7; training predicts the third last, 5, after 2, 3, 4.
    assert (example.sample_id, example.user_id, example.target) == ("u2:3", "u2", 5)
    assert example.candidates[example.target_column] == 5
    assert not example.has_reasoning
    shown = [line for line in example.prompt.splitlines() if "[ITEM_" in line and "form" not in line]
    assert [line.split("[ITEM_")[1].split("]")[0] for line in shown] == ["2", "3", "4", "6", "7", "5", "8"]


def test_each_sample_gets_its_own_reasoning_and_only_when_chosen(make_examples, make_builder):
    chosen = np.array([False, True, False, True, False, False])
    examples = make_examples(make_builder("instruct", answer="id"), cot=Echo(), with_cot=chosen)
    for index in range(len(examples)):
        assert examples[index].has_reasoning == chosen[index]
        assert ("think" in examples[index].prompt) == chosen[index]
    assert "u3 3-4-5 to 6" in examples[3].prompt


def test_test_prompts_carry_no_reasoning_unless_asked(make_examples):
    examples = make_examples(split="test", cot=Echo())
    assert not any(examples[index].has_reasoning for index in range(len(examples)))


@pytest.mark.parametrize("listed", [True, False])
def test_candidates_are_listed_or_not(make_examples, listed):
    example = make_examples(list_candidates=listed)[0]
    assert ("Candidates" in example.prompt) == listed
    assert len(example.candidates) == 4
