"""Whatever items are called and models say, answers are read as they were written, and prompts hold one label per item."""

from __future__ import annotations

import re

import pytest
from hostile import item_ids, texts
from hypothesis import assume, given
from hypothesis import strategies as st

from mllmrec.prompts.answers import parse_answer, ranked_text, reasoned, same_title
from mllmrec.prompts.builder import ItemTexts, PromptBuilder, load_template
from mllmrec.prompts.markup import ITEM_MARK, item_label, item_mark, label_item, neutral
from mllmrec.prompts.naming import LABELS

TEMPLATES = {name: load_template(name) for name in ("instruct", "compact")}


@st.composite
def builders(draw: st.DrawFn, places: int = 1) -> PromptBuilder:
    ids = draw(st.lists(item_ids(), min_size=2, max_size=6, unique=True))
    titles = draw(st.lists(texts(), min_size=len(ids), max_size=len(ids)))
    captions = {ids[0]: draw(texts())}
    return PromptBuilder(
        ItemTexts(ids, titles, captions, marked=ids[1:]),
        TEMPLATES[draw(st.sampled_from(sorted(TEMPLATES)))],
        answer=draw(st.sampled_from(["id", "id_title"])),
        label=draw(st.sampled_from(LABELS)),
        places=places,
    )


def listed(builder: PromptBuilder) -> dict[str, str]:
    return dict(zip(builder.ids, builder.titles, strict=True))


@given(builders(), texts(12), st.integers(1, 3))
def test_no_completion_raises(builder: PromptBuilder, completion: str, places: int) -> None:
    found = parse_answer(completion, places, builder.naming.reader(listed(builder)))
    assert found.stray_lines >= 0
    assert not (found.well_formed and len(found.items) != 1)
    assert not re.search("</?think>", "".join(title for _, title in found.items))


@given(builders(), st.data(), texts())
def test_an_answer_is_read_as_the_item_that_it_names(
    builder: PromptBuilder, data: st.DataObject, thought: str
) -> None:
    code = data.draw(st.integers(0, len(builder.ids) - 1))
    answer = builder.answer(code, code)
    for completion in (answer, reasoned(builder.clean(thought), answer), f" {answer} \n"):
        found = parse_answer(completion, 1, builder.naming.reader(listed(builder)))
        assert found.well_formed, (answer, found)
        (item, title), shows = (
            found.items[0],
            builder.naming.answer == "id_title" or builder.naming.label == "none",
        )
        assert item == builder.ids[code]
        assert same_title(title, builder.titles[code] if shows else "")


@given(builders(places=3), st.randoms())
def test_a_ranked_list_is_read_in_its_order(builder: PromptBuilder, random) -> None:
    order = list(range(len(builder.ids)))
    random.shuffle(order)
    found = parse_answer(
        ranked_text([builder.answer(code, code) for code in order]), 3, builder.naming.reader(listed(builder))
    )
    assert [item for item, _ in found.items] == [builder.ids[code] for code in order]
    assert found.stray_lines == 0


@given(builders(), texts())
def test_foreign_text_adds_no_label_mark_or_tag_to_a_prompt(builder: PromptBuilder, thought: str) -> None:
    codes = list(range(len(builder.ids)))
    builder.experience = (thought,)
    prompt = builder.prompt(codes, codes, reasoning=thought)
    like = PromptBuilder(
        ItemTexts(["a"] * len(codes), ["x"] * len(codes)),
        builder.template,
        answer=builder.naming.answer,
        label=builder.naming.label,
    )
    like.experience = ("x",)
    plain = like.prompt(codes, codes, reasoning="x")
    if builder.clean(thought):
        assert prompt.count("<think>") == plain.count("<think>")
    assert prompt.count("</think>") <= plain.count("</think>")
    assert prompt.count("[ITEM_") == plain.count("[ITEM_")
    assert len(ITEM_MARK.findall(prompt)) == 2 * (len(codes) - 1)
    assert not re.search(r"<\|(?!item:)", prompt)


@given(texts())
def test_neutral_text_is_one_line_without_markup_and_stays(text: str) -> None:
    safe = neutral(text)
    assert not set(safe) & set("[]<>")
    assert len(safe.splitlines()) <= 1
    assert neutral(safe) == safe


@given(item_ids(), item_ids())
def test_every_id_has_a_label_and_a_mark_of_its_own(one: str, other: str) -> None:
    assume(one != other)
    assert item_label(one) != item_label(other)
    assert label_item(item_label(one)[len("[ITEM_") : -1]) == one
    assert label_item(ITEM_MARK.fullmatch(item_mark(one))[1]) == one


@pytest.mark.parametrize("label", LABELS)
@given(text=texts(12))
def test_whatever_is_read_of_one_line_names_one_item(label: str, text: str) -> None:
    items = {"1": "Red Lamp", "2": "Blue Lamp"}
    read = PromptBuilder(
        ItemTexts(["1", "2"], [*items.values()]), TEMPLATES["compact"], label=label
    ).naming.reader(items)
    found = read(text.strip())
    assert found is None or (isinstance(found[0], str) and isinstance(found[1], str))
