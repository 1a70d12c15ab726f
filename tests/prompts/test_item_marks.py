from __future__ import annotations

import pytest
import yaml

from mllmrec.errors import UserError
from mllmrec.prompts.markup import ITEM_MARK, item_mark, without_item_marks


def test_marks_stand_behind_titles_word_for_word(make_builder):
    builder = make_builder("compact", captions={"2": "Red square"}, marked=["0", "2", "4"], answer="id_title")
    assert builder.prompt([0, 2], [4]) == (
        "History [ITEM_0] Red Lamp<|item:0|> [ITEM_2] Red Chair<|item:2|> Red square "
        "Candidates [ITEM_4] Old Clock<|item:4|> Next"
    )
    assert builder.answer(4) == "[ITEM_4] Old Clock"
    assert builder.marks()[4] == "<|item:4|>"


@pytest.mark.parametrize("template", ["compact", "instruct"])
def test_without_marks_a_prompt_is_what_it_is_without_item_tokens(make_builder, template):
    titles = ["Red Lamp", "", "<|item:0|>", "  a |> b"]
    ids = ["a|b", "1", "2", "3"]
    plain, marked = (
        make_builder(template, ids=ids, titles=titles, captions={"1": "c"}, marked=chosen)
        for chosen in ([], ids)
    )
    prompts = [builder.prompt([0, 1, 2], [3, 1], "<|item:1|> said so") for builder in (plain, marked)]
    # No title and no reasoning can imitate a mark, and different ids have different marks, whatever they hold.
    assert ITEM_MARK.findall(prompts[0]) == []
    assert ITEM_MARK.findall(prompts[1]) == ["a%7Cb", "1", "2", "3", "1"]
    assert without_item_marks(prompts[1]) == prompts[0]


def test_marks_are_one_to_one():
    ids = ["1", "12", "1|>", "a b", "a%20b", "<", "é"]
    assert len({item_mark(item_id) for item_id in ids}) == len(ids)
    assert all(ITEM_MARK.fullmatch(item_mark(item_id)) for item_id in ids)


def test_a_template_without_titles_has_no_place_for_them(make_builder, tmp_path):
    template = dict.fromkeys(["history", "candidates"], "{items}") | {
        "hint": "{reasoning}",
        "think": "",
        "closing": "Next",
        "item": "{label}",
        "history_item": "{label} {title}",
        "caption": "{caption}",
        "joiner": " ",
        "punctuation": "keep",
    }
    path = tmp_path / "labels.yaml"
    path.write_text(yaml.safe_dump(template))
    assert make_builder(str(path)).prompt([0], [1]) == "[ITEM_0] Red Lamp [ITEM_1] Next"
    with pytest.raises(UserError, match=r"behind its title, but prompt\.template shows no titles"):
        make_builder(str(path), marked=["0"])
