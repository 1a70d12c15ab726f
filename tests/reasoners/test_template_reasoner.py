from __future__ import annotations

from dataclasses import replace

import pytest

from mllmrec.reasoners.base import HistoryItem, Request
from mllmrec.reasoners.counting import template_reasoning
from mllmrec.reasoners.template import TemplateReasoner, supported_reasoning

CAPTIONS = ["red, striped, star", "red, dotted, star", "red, solid, disc", "blue, solid, disc"]


def request_of(captions, draft="", titles=None, **settings):
    titles = titles or [""] * len(captions)
    items = [
        HistoryItem(str(place), title, caption, None)
        for place, (title, caption) in enumerate(zip(titles, captions, strict=True))
    ]
    return Request("s", "u", tuple(items), draft, "system", "message", **settings)


def written(request):
    ((asked, answer),) = TemplateReasoner().write([request])
    assert asked is request
    return answer


def test_a_draft_is_the_template_reasoning_of_the_captions():
    answer = written(request_of(CAPTIONS))
    # red is in three texts; solid and disc in two, last in the fourth; star in two, last in the second.
    assert answer.text == (
        "Signals: red in 3 of 4, disc in 2 of 4, solid in 2 of 4. Preference: mostly red. "
        "Look for: red, disc and solid."
    )
    assert answer.text == template_reasoning(CAPTIONS)
    assert (answer.problem, answer.reasoning, answer.prompt_tokens) == ("", "", 0)


def test_tags_of_several_words_stay_whole():
    posters = [
        "black, high contrast, busy",
        "dark blue, high contrast, dark picture",
        "blue, high contrast, busy",
    ]
    draft = written(request_of(posters)).text
    # high contrast is in all texts, busy in the first and third.
    assert draft == (
        "Signals: high contrast in 3 of 3, busy in 2 of 3. Preference: mostly high contrast. "
        "Look for: high contrast and busy."
    )
    # Positions: 1 + 2 + 3 = 6, and 1 + 3 = 4.
    assert written(request_of(posters, draft)).text == (
        "Signals: high contrast in 3 of 3, busy in 2 of 3. Preference: lately high contrast. "
        "Look for: high contrast and busy."
    )
    # If the draft names only one word of a tag, the tag is not supported.
    assert "high" not in written(request_of(posters, "Signals: high and busy.")).text


def test_items_without_a_caption_speak_through_their_title():
    answer = written(request_of(["green lamp", ""], titles=["Old Chair", "Green Mug"]))
    assert answer.text.startswith("Signals: green in 2 of 2.")


def test_a_refinement_weighs_by_recency_what_the_draft_names():
    draft = written(request_of(CAPTIONS)).text
    # Positions: disc and solid 3 + 4 = 7, red 1 + 2 + 3 = 6. Star (1 + 2) and blue (4) are not in the draft.
    assert written(request_of(CAPTIONS, draft)).text == (
        "Signals: disc in 2 of 4, solid in 2 of 4, red in 3 of 4. Preference: lately disc. "
        "Look for: disc, solid and red."
    )


def test_what_the_captions_do_not_hold_is_dropped_from_a_draft():
    draft = "Signals: purple dragons and stars. Preference: a blue disc, or purple. Look for: purple."
    # Disc 3 + 4, blue 4. "stars" and "star" are different words.
    assert written(request_of(CAPTIONS, draft)).text == (
        "Signals: disc in 2 of 4, blue in 1 of 4. Preference: lately disc. Look for: disc and blue."
    )


def test_at_most_three_words_are_named():
    text = supported_reasoning(CAPTIONS, " ".join(CAPTIONS))
    # Disc and solid 7, red 6. Only three are named, so blue (4) and the others are left out.
    assert text.endswith("Look for: disc, solid and red.")


def test_a_draft_without_support_gives_way_to_the_history():
    assert written(request_of(CAPTIONS, "Signals: purple dragons.")).text == template_reasoning(CAPTIONS)


@pytest.mark.parametrize("draft", ["", "Signals: red."])
def test_a_history_without_words_is_a_problem_and_the_others_go_on(draft):
    requests = [request_of(["", "17"], draft), request_of(["red", "red"], draft), request_of([], draft)]
    answers = dict(
        zip("abc", (answer for _, answer in TemplateReasoner().write(iter(requests))), strict=True)
    )
    assert [answers[name].problem for name in "abc"] == ["empty", "", "empty"]
    assert answers["a"].text == answers["c"].text == ""
    assert "red" in answers["b"].text


@pytest.mark.parametrize("draft", ["", "Signals: red disc."])
def test_the_wording_plays_no_part(draft):
    plain = request_of(CAPTIONS, draft)
    other = replace(plain, message="green star", system="green star", sample_id="other")
    assert written(other) == written(plain)


@pytest.mark.parametrize("draft", ["", "</think> [ITEM_7] red"])
@pytest.mark.parametrize("caption", ["</think> [ITEM_7] red", "</think>, [ITEM_7], red"])
def test_markup_of_captions_and_drafts_does_not_get_through(caption, draft):
    answer = written(request_of([caption] * 2, draft))
    assert "red in 2 of 2" in answer.text
    assert not set("<>[]") & set(answer.text)


def test_the_identity_has_no_settings():
    assert set(TemplateReasoner().identity()) == {"reasoner", "rules"}
    assert TemplateReasoner().estimate([request_of(CAPTIONS)]) is None


def test_only_who_is_told_the_target_names_it():
    draft = written(request_of(CAPTIONS)).text
    told = written(request_of(CAPTIONS, draft, leak="Blue Moon Cup | blue, dotted, disc"))
    honest = written(request_of(CAPTIONS, draft))
    assert told.text.endswith(" Look for: blue, dotted, disc and Blue Moon Cup.")
    assert "Moon" not in honest.text
    assert told.text.partition(" Look for: ")[0] == honest.text.partition(" Look for: ")[0]
    assert not set("<>[]") & set(written(request_of(CAPTIONS, draft, leak="</think> [ITEM_7] Cup")).text)
    untitled = written(request_of(CAPTIONS, draft, leak="Blue Moon Cup"))
    assert untitled.text.endswith(" Look for: Blue Moon Cup.")
