from __future__ import annotations

import re

import numpy as np
import pytest

from mllmrec.cot.base import CotKey, CotPolicy
from mllmrec.prompts.examples import CotUse
from mllmrec.prompts.page import PromptSet, write_prompts
from mllmrec.prompts.questions import Questions, load_question_wording


class Says(CotPolicy):
    def reasoning(self, key: CotKey) -> str | None:
        return f"thought about {key.user_id}"


def page(tmp_path, *sets, seed=0, render=lambda prompt: f"<user>{prompt}<assistant>"):
    write_prompts(tmp_path / "prompts.md", render, sets, seed)
    return (tmp_path / "prompts.md").read_text(encoding="utf-8")


def blocks(text):
    return re.findall(r"```text\n(.*?)\n```", text, flags=re.DOTALL)


def test_prompts_stand_word_by_word_with_the_answers_that_are_wanted(tmp_path, make_examples):
    examples = make_examples()
    text = page(tmp_path, PromptSet("SFT", examples, [2]))
    assert "## SFT" in text
    # User 2 has items 2 … 7; the third last, 5, is in column 2 of 4.
    assert "### Sample `u2:3`: the target is candidate 3 of 4" in text
    assert blocks(text) == [f"<user>{examples[2].prompt}<assistant>", "[ITEM_5]"]


def test_prompts_with_and_without_reasoning_are_shown(tmp_path, make_examples):
    chosen = np.array([True, False, True, True, False, False])
    text = page(tmp_path, PromptSet("SFT", make_examples(cot=CotUse(Says(), chosen)), range(6)))
    headings = re.findall(r"^### Sample `u(\d):3`(, with reasoning)?", text, flags=re.MULTILINE)
    assert [bool(chosen[int(user)]) for user, _ in headings] == [False, False, True, True]
    assert [bool(told) for _, told in headings] == [False, False, True, True]
    for user, told in headings:
        assert (f"thought about u{user}" in text) == bool(told)


def test_reasoning_that_is_learnt_stands_in_the_answer(tmp_path, make_examples):
    examples = make_examples(cot=CotUse(Says(), np.ones(6, dtype=bool), "completion"))
    prompt, answer = blocks(page(tmp_path, PromptSet("SFT", examples, [3])))
    assert "thought" not in prompt
    assert answer.startswith("<think>\nthought about u3")


def test_only_the_positions_that_are_used_are_shown_and_the_seed_decides_which(tmp_path, make_examples):
    examples = make_examples()
    shown = [page(tmp_path, PromptSet("SFT", examples, [1, 3, 5]), seed=seed) for seed in range(20)]
    found = {tuple(re.findall(r"Sample `u(\d)", text)) for text in shown}
    assert {user for pair in found for user in pair} == {"1", "3", "5"}
    assert len(found) > 1
    assert page(tmp_path, PromptSet("SFT", examples, [1, 3, 5]), seed=0) == shown[0]


def test_a_prompt_of_the_whole_catalogue_says_that_it_lists_none(tmp_path, make_examples):
    text = page(tmp_path, PromptSet("Evaluation", make_examples(list_size=0), [0]))
    assert "4 candidates, none of them listed\n" in text


def test_of_several_prompts_the_one_that_lists_the_target_is_shown(tmp_path, make_examples):
    examples = make_examples(list_size=3)
    text = page(tmp_path, PromptSet("Evaluation", examples, [3]))
    # User 3's next item is 6, in column 3 of 7 8 9 6. The lists are 7 8 and 9 6.
    assert "the target is candidate 4 of 4, listed 3 at a time; the prompt that lists it\n" in text
    assert examples.builder.prompt([3, 4, 5], [9, 6]) in text
    assert "[ITEM_7]" not in text


@pytest.mark.parametrize("sample", [0, 1])
def test_questions_about_one_candidate_come_with_yes_and_no(tmp_path, make_examples, make_builder, sample):
    builder = make_builder(answer="id")
    questions = Questions(builder, load_question_wording("instruct"), 3)
    example = make_examples(builder)[sample]
    found = blocks(page(tmp_path, PromptSet("Yes or no", make_examples(builder), [sample], questions)))
    (asked, yes), (other, no) = found[:2], found[2:]
    assert (yes, no) == (questions.positive, questions.negative)
    assert f"[ITEM_{example.target}]" in asked
    assert f"[ITEM_{example.target}]" not in other


def test_a_prompt_with_a_fence_of_its_own_does_not_end_the_block(tmp_path, make_examples):
    text = page(tmp_path, PromptSet("SFT", make_examples(), [0]), render=lambda prompt: "a\n```\nb")
    assert "````text\na\n```\nb\n````" in text
