from __future__ import annotations

import pytest

from mllmrec.cot import CotKey, Views
from mllmrec.errors import UserError

CAPTIONS = {"1": "red, star", "2": "red, circle", "3": "blue, star", "4": "red, star", "5": "green, square"}
TITLES = {
    "1": "Norvik lamp",
    "2": "Norvik mug",
    "3": "Okami lamp",
    "4": "Halden rug",
    "5": "Norvik lamp Alba",
}
KEY = CotKey("u", ("1", "2", "3"), "4", "u:4")


def views(pictures: float, closest: int = 3, captions: dict[str, str] = CAPTIONS) -> Views:
    return Views(captions, TITLES, seed=0, pictures=pictures, closest=closest)


@pytest.mark.parametrize(
    ("pictures", "text", "columns"),
    [
        # Red and star occur twice each in the history, star later. Of the candidates 5, 4, 3, item 4 is red and a star: 2 + 2.
        (1.0, "Pictures: star, red.", [1, 2, 0]),
        # Lamp and Norvik occur twice each, lamp later. Item 5 has both, item 3 lamp and Okami: 2 + 1, item 4 nothing.
        (0.0, "Titles: lamp, norvik.", [0, 2, 1]),
    ],
)
def test_a_view_names_its_words_and_the_candidates_that_share_them(
    pictures: float, text: str, columns: list[int]
) -> None:
    policy = views(pictures)
    assert policy.reasoning(KEY) == text
    assert policy.closest(KEY, ["5", "4", "3"]) == columns


def test_as_many_candidates_are_named_as_asked_for_and_the_first_of_equals_comes_first() -> None:
    assert views(1.0, closest=1).closest(KEY, ["5", "1", "4"]) == [1]
    assert views(1.0, closest=0).closest(KEY, ["5", "4"]) == []
    assert views(1.0, closest=9).closest(KEY, ["5", "4"]) == [1, 0]


def test_the_view_is_drawn_per_sample_and_stays_its_own() -> None:
    policy = views(0.4)
    keys = [CotKey(str(user), ("1", "2", "3"), "4", f"{user}:4") for user in range(1000)]
    texts = [policy.reasoning(key) for key in keys]
    share = sum(text.startswith("Pictures") for text in texts) / len(keys)
    assert 0.35 < share < 0.45  # three standard errors of 0.0155
    assert texts == [views(0.4).reasoning(key) for key in keys]


def test_a_text_names_as_many_words_as_it_may() -> None:
    assert Views(CAPTIONS, TITLES, 0, pictures=1.0, words=1).reasoning(KEY) == "Pictures: star."
    assert Views(CAPTIONS, TITLES, 0, pictures=1.0, words=9).reasoning(KEY) == "Pictures: star, red."


def test_texts_end_early_by_chance() -> None:
    policy = Views(CAPTIONS, TITLES, 0, pictures=1.0, brevity=0.6)
    keys = [CotKey(str(user), ("1", "2", "3"), "4", f"{user}:4") for user in range(1000)]
    short = sum(policy.reasoning(key) == "Pictures: star." for key in keys) / len(keys)
    assert 0.55 < short < 0.65  # three standard errors of 0.0155


def test_a_view_without_words_gives_no_reasoning() -> None:
    assert views(1.0, captions={"9": "red"}).reasoning(KEY) is None
    assert views(0.0, captions={}).reasoning(KEY) == "Titles: lamp, norvik."


def test_without_a_share_half_look_at_captions_or_none_where_there_are_none() -> None:
    assert Views(CAPTIONS, TITLES, 0).pictures == 0.5
    blind = Views(dict.fromkeys(CAPTIONS, ""), TITLES, 0)
    assert blind.reasoning(KEY) == "Titles: lamp, norvik."


def test_pictures_without_any_caption_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"cot_policy.pictures=0.4, and no item has a caption.*cot_policy.pictures=0$"
    ):
        views(0.4, captions={"1": ""})


@pytest.mark.parametrize("wrong", [{"pictures": 1.5}, {"closest": -1}, {"words": 0}, {"brevity": 2}])
def test_senseless_values_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"cot_policy.{next(iter(wrong))}="):
        Views(CAPTIONS, TITLES, 0, **wrong)
