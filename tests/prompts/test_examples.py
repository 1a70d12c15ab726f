from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from mllmrec.cot.base import CotKey, CotPolicy
from mllmrec.prompts.answers import parse_answer
from mllmrec.prompts.examples import CotUse, Forms


class Echo(CotPolicy):
    """Names the sample that it is asked about, so that a mix-up of samples would show."""

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
    examples = make_examples(make_builder("instruct", answer="id"), cot=CotUse(Echo(), chosen))
    for index in range(len(examples)):
        assert examples[index].has_reasoning == chosen[index]
        assert ("think" in examples[index].prompt) == chosen[index]
    assert "u3 3-4-5 to 6" in examples[3].prompt


def test_test_prompts_carry_no_reasoning_unless_asked(make_examples):
    examples = make_examples(split="test", cot=CotUse(Echo()))
    assert not any(examples[index].has_reasoning for index in range(len(examples)))


@pytest.mark.parametrize("listed", [True, False])
def test_candidates_are_listed_or_not(make_examples, listed):
    example = make_examples(list_size=None if listed else 0)[0]
    assert ("Candidates" in example.prompt) == listed
    assert len(example.candidates) == 4


class Pointing(Echo):
    """Also names the candidates at the places 2 and 0."""

    def closest(self, key: CotKey, candidates: Sequence[str]) -> list[int]:
        return [2, 0]


@pytest.mark.parametrize(
    ("template", "label", "names"),
    [
        ("instruct", "id", "Closest: [ITEM_{2}], [ITEM_{0}]."),
        ("instruct", "letter", "Closest: C, A."),
        ("compact", "id", "Closest [ITEM_{2}] [ITEM_{0}]"),
    ],
)
def test_learnt_reasoning_names_listed_candidates(make_examples, make_builder, template, label, names):
    builder = make_builder(template, label=label)
    example = make_examples(builder, cot=CotUse(Pointing(), np.ones(6, dtype=bool), "completion"))[2]
    ids = [builder.ids[item] for item in example.candidates]
    assert example.reasoning.endswith(names.format(*ids))
    assert f"<think>\n{example.reasoning}\n</think>\n" in example.reasoned_answer


@pytest.mark.parametrize("changes", [{"list_size": 0}, {"placement": "prompt"}])
def test_hints_and_reasoning_without_a_list_name_no_candidates(make_examples, make_builder, changes):
    cot = CotUse(Pointing(), np.ones(6, dtype=bool), changes.get("placement", "completion"))
    example = make_examples(make_builder("instruct"), list_size=changes.get("list_size"), cot=cot)[2]
    assert "u2 2-3-4 to 5" in example.prompt + example.reasoned_answer
    assert "Closest" not in example.prompt + example.reasoned_answer


def test_reasoning_to_be_learnt_stands_before_the_answer(make_examples, make_builder):
    builder = make_builder("instruct")
    examples = make_examples(builder, cot=CotUse(Echo(), np.ones(6, dtype=bool), "completion"))
    example = examples[2]
    assert example.has_reasoning
    assert "u2 2-3-4 to 5" not in example.prompt
    assert "First reason" in example.prompt
    assert example.reasoned_answer == f"<think>\nu2 2-3-4 to 5\n</think>\n{builder.answer(5)}"
    parsed = parse_answer(example.reasoned_answer)
    assert parsed.well_formed
    assert (parsed.items[0][0], parsed.reasoning) == ("5", "u2 2-3-4 to 5")
    plain = examples.with_reasoning(2, None)
    assert plain.reasoned_answer == ""
    assert "First reason" not in plain.prompt


def test_prompts_can_ask_for_reasoning_without_showing_any(make_examples, make_builder):
    builder = make_builder("instruct")
    asking = make_examples(builder, split="test", cot=CotUse(Echo(), asks=True))[2]
    assert (asking.has_reasoning, asking.reasoned_answer) == (False, "")
    learnt = make_examples(builder, cot=CotUse(Echo(), np.ones(6, dtype=bool), "completion"))[2]
    plain = make_examples(builder)[2]
    (instruction,) = set(learnt.prompt.splitlines()) - set(plain.prompt.splitlines())
    assert instruction in asking.prompt.splitlines()
    shown = make_examples(builder, cot=CotUse(Echo(), np.ones(6, dtype=bool), asks=True))[2]
    assert instruction not in shown.prompt.splitlines()  # reasoning that is shown need not be asked for
    several = make_examples(builder, cot=CotUse(Echo(), asks=True), list_size=2)
    lists = several.in_lists(several[2])
    assert len(lists) == 2
    assert all(instruction in part.prompt.splitlines() for part in lists)


def test_forms_are_the_plain_example_and_that_with_reasoning(make_examples, make_builder):
    examples = make_examples(make_builder("instruct"), cot=CotUse(Echo(), np.zeros(6, dtype=bool)))
    forms = Forms(examples)
    assert len(forms) == 12
    assert (forms[2].sample_id, forms[2].prompt) == (examples[2].sample_id, examples[2].prompt)
    assert "u2 2-3-4 to 5" in forms[6 + 2].prompt
    assert forms[8].candidates.tolist() == examples[2].candidates.tolist()


def test_a_prompt_can_show_another_history(make_examples, make_builder):
    plain = make_examples(make_builder("instruct", answer="id"))
    example = plain[2]
    assert plain.shown(example) == [2, 3, 4]
    other = plain.with_history(example, [4, 2])
    shown = [line for line in other.prompt.partition("Candidate")[0].splitlines() if "[ITEM_" in line]
    assert [line.split("]")[0] for line in shown] == ["1. [ITEM_4", "2. [ITEM_2"]
    # The rest of the prompt stays as it is.
    assert other.prompt.partition("Candidate")[2] == example.prompt.partition("Candidate")[2]
    assert plain.with_history(example, [2, 3, 4]).prompt == example.prompt


def test_another_history_asks_for_reasoning_as_before_and_shows_none(make_examples, make_builder):
    builder = make_builder("instruct", answer="id")
    asking = make_examples(builder).asking()
    assert builder.asks_for_reasoning(asking.with_history(asking[2], [2]).prompt)
    chosen = np.ones(6, dtype=bool)
    hinted = make_examples(builder, cot=CotUse(Echo(), chosen))
    assert "u2 2-3-4 to 5" in hinted[2].prompt
    assert "u2 2-3-4 to 5" not in hinted.with_history(hinted[2], [2, 3, 4]).prompt
