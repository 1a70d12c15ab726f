"""Traits that right answers have and wrong ones lack, counted by hand."""

from __future__ import annotations

import pytest

from mllmrec.experience.base import Answer, Contrast
from mllmrec.experience.counted import CountedExperience, differences, traits, worded
from mllmrec.experience.library import Library
from mllmrec.reasoners.base import HistoryItem


def item(title: str, caption: str = "") -> HistoryItem:
    return HistoryItem(title, title, caption, None)


def contrast(winners: list[str], losers: list[str], history: tuple[str, ...] = ("Old Clock", "Red Chair")):
    return Contrast(
        "s",
        "u",
        tuple(map(item, history)),
        tuple(Answer(title, item(title)) for title in winners),
        tuple(Answer(title, item(title)) for title in losers),
    )


def test_an_answer_s_traits_are_words_and_relations_to_the_history():
    history = [item("Old Clock", "round, brass"), item("Red Chair")]
    assert traits(Answer("", item("Red Lamp")), history) == [
        "latest",
        "word:red",
        "word:lamp",
        "after:red:lamp",
        "after:chair:red",
        "after:chair:lamp",
    ]
    assert traits(Answer("", item("Red Chair")), history)[:2] == ["repeat", "latest"]
    assert "word:brass" in traits(Answer("", item("Bell", "brass, small")), history)
    # Red stands in two of three items, so it is the most frequent.
    assert "frequent" in traits(Answer("", item("Red Lamp")), [*history, item("Red Rug")])
    assert traits(Answer("nonsense", None), history) == []


def test_a_gain_is_the_difference_between_shares_of_winners_and_losers():
    found = differences(
        contrast(["Red Lamp", "Red Rug"], ["Blue Lamp", "Blue Chair", "Red Lamp", "Tall Shelf"])
    )
    assert found["word:red"] == pytest.approx(1 - 1 / 4)
    assert found["word:lamp"] == pytest.approx(1 / 2 - 2 / 4)
    assert found["word:blue"] == pytest.approx(-2 / 4)


def test_experience_is_added_reworded_and_deleted_as_counts_change():
    writer, library = CountedExperience(least_groups=2, least_gain=0.5, most_new=1), Library()
    red = contrast(["Red Lamp"], ["Blue Lamp"], history=("Old Clock",))
    library.apply(writer.operations([red], library, "item"))
    assert library.texts == ()  # seen once
    # Four traits have gain 1 or -1 in two groups: red, blue, and each after old and after clock. One is added at a time.
    library.apply(writer.operations([red], library, "item"))
    (one,) = library
    assert one.support == pytest.approx(2**0.5)
    gains = {"word:red": 1.0, "word:blue": -1.0}
    assert {trait: writer.gain(trait) for trait in gains} == gains
    for _ in range(5):
        library.apply(writer.operations([red], library, "item"))
    assert set(library.texts) >= {
        "The next item usually has red.",
        "The next item hardly ever has blue.",
        "After clock the next item usually has red.",
    }
    assert "word:lamp" not in [one.key for one in library]  # on both sides
    # Seven groups for red and three against it: (7 - 3) / 10.
    blue = contrast(["Blue Lamp"], ["Red Lamp"], history=("Old Clock",))
    assert library.apply(writer.operations([blue] * 3, library, "item"))["modify"] == 6
    assert library.get("word:red").text == "The next item often has red."
    # (7 - 6) / 13 is below half of 0.5.
    assert library.apply(writer.operations([blue] * 3, library, "item"))["delete"] == 6
    assert len(library) == 0


def test_equally_supported_traits_are_added_in_a_seeded_order():
    groups = [contrast(["Red Lamp Tall"], ["Blue Rug Low"])] * 3

    def first(seed: int) -> list[str]:
        writer = CountedExperience(least_groups=1, most_new=3, seed=seed)
        return [one.key for one in writer.operations(groups, Library(), "item")]

    assert first(0) == first(0)
    assert len({tuple(first(seed)) for seed in range(5)}) > 1


def test_a_gain_is_said_as_strongly_as_it_is():
    assert worded("latest", 0.3, "movie") == "The next movie often shares a trait with the latest one."
    assert worded("after:dark blue:red", -0.2, "movie") == "After dark blue the next movie rarely has red."


@pytest.mark.parametrize("wrong", [{"least_groups": 0}, {"most_new": 0}, {"least_gain": 0.0}])
def test_settings_without_meaning_are_refused(wrong):
    with pytest.raises(ValueError, match="must be at least 1"):
        CountedExperience(**wrong)
