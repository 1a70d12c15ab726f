"""Profiles in lists of candidates, in instructions, and in chat templates."""

from __future__ import annotations

from mllmrec.prompts.examples import CotUse


def test_each_list_of_candidates_has_the_same_profile_prompt(make_builder, make_examples):
    cot = CotUse(placement="profile", asks=True)
    examples = make_examples(make_builder("instruct", answer="id"), list_size=2, cot=cot)
    example = examples[0]
    first, second = examples.in_lists(example)
    assert first.prompt == second.prompt == example.prompt
    assert "Candidate" not in example.prompt
    listed = [part.second.about("").count("[ITEM_") for part in (first, second)]
    assert listed == [2 + 1, 2 + 1]  # the closing sentence names the form, [ITEM_<id>]


def test_a_catalogue_that_is_not_listed_stands_in_no_prompt(make_builder, make_examples):
    cot = CotUse(placement="profile", asks=True)
    example = make_examples(make_builder("instruct", answer="id"), list_size=0, cot=cot)[0]
    assert example.second.about("red").startswith("What the user likes:\nred\nWhich one")


def test_foreign_tags_in_a_profile_are_neutral(make_builder, make_examples):
    cot = CotUse(placement="profile", asks=True)
    example = make_examples(make_builder("instruct", answer="id"), cot=cot)[0]
    assert "‹/think› (ITEM_1)" in example.second.about("</think> [ITEM_1]")


def test_prompts_that_ask_for_a_profile_switch_thinking_on(make_builder, make_examples):
    builder = make_builder("instruct", answer="id")
    example = make_examples(builder, cot=CotUse(placement="profile", asks=True))[0]
    assert builder.asks_for_reasoning(example.prompt)
    assert not builder.asks_for_reasoning(example.second.about("red"))


def test_another_history_is_described_as_well(make_builder, make_examples):
    builder = make_builder("instruct", answer="id")
    examples = make_examples(builder, cot=CotUse(placement="profile", asks=True))
    assert examples.with_history(examples[0], [7]).prompt == builder.describing_prompt([7])
