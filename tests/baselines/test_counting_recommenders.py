from __future__ import annotations

import numpy as np
import pytest

from mllmrec.baselines.item_knn import ItemKnn
from mllmrec.baselines.popularity import Popularity
from mllmrec.baselines.random_order import RandomOrder
from mllmrec.baselines.recent import Recent
from mllmrec.errors import UserError

SEQUENCES = [[0, 1, 2], [0, 1, 3], [2, 1, 3]]  # item 4 occurs in none


def fitted(recommender, make_inputs, sequences=SEQUENCES, **settings):
    recommender.fit(make_inputs(sequences, 5, **settings))
    return recommender


def test_popularity_counts_occurrences(make_inputs, items):
    popularity = fitted(Popularity(), make_inputs)
    # 0 occurs twice, 1 three times, 2 twice, 3 twice, 4 never. Candidates keep their order.
    scores = popularity.scores(items([0], [3, 2]), items([1, 0], [4, 2, 1]))
    assert [row.tolist() for row in scores] == [[3, 2], [0, 2, 3]]
    assert scores[0].dtype == np.float64


def test_recent_counts_what_followed_the_latest_item(make_inputs, items):
    recent = fitted(Recent(), make_inputs)
    (scores,) = recent.scores(items([0, 2, 1]), items([0, 1, 2, 3, 4]))
    # After 1 came 2 once and 3 twice. Popularity adds count / (2 * 9); the counts are 2, 3, 2, 2 and 0 of nine.
    assert scores == pytest.approx([2 / 18, 3 / 18, 1 + 2 / 18, 2 + 2 / 18, 0])


def test_recent_falls_back_to_popularity(make_inputs, items):
    recent = fitted(Recent(), make_inputs)
    # Nothing ever followed 3 or 4, and an empty history has no latest item.
    for scores in recent.scores(items([0, 3], [4], []), items([4, 1, 0], [4, 1, 0], [4, 1, 0])):
        assert scores == pytest.approx([0, 3 / 18, 2 / 18])


def test_recent_puts_one_transition_before_any_popularity(make_inputs, items):
    recent = fitted(Recent(), make_inputs, [[0, 1], *[[2]] * 50])
    (scores,) = recent.scores(items([0]), items([1, 2]))
    assert scores[0] > scores[1]


def test_item_knn_is_the_cosine_of_the_items_users(make_inputs, items):
    knn = fitted(ItemKnn(), make_inputs)
    (scores,) = knn.scores(items([0]), items([0, 1, 2, 3, 4]))
    # User 0: a b; 1: a b c; 2: a c; 3: b c. In common with 0: 2, 1, 1. An item is not its own neighbour.
    assert scores == pytest.approx([0, 2 / 6**0.5, 1 / 2, 1 / 2, 0])
    (scores,) = knn.scores(items([0, 2]), items([1, 3]))
    assert scores == pytest.approx([2 * 2 / 6**0.5, 1 / 2 + 1 / 2])


def test_item_knn_counts_a_user_once_however_often_an_item_repeats(make_inputs, items):
    (scores,) = fitted(ItemKnn(), make_inputs, [[0, 0, 1]]).scores(items([0]), items([1]))
    assert scores == pytest.approx([1])


def test_item_knn_keeps_the_nearest_only(make_inputs, items):
    knn = fitted(ItemKnn(neighbours=2), make_inputs)
    (scores,) = knn.scores(items([0]), items([1, 2, 3]))
    # 1 is nearest. 2 and 3 are equally near, so the lower code is kept.
    assert scores == pytest.approx([2 / 6**0.5, 1 / 2, 0])


def test_item_knn_blocks_change_nothing(make_inputs, items, monkeypatch):
    whole = fitted(ItemKnn(neighbours=2), make_inputs)
    monkeypatch.setattr("mllmrec.baselines.item_knn._BLOCK_ITEMS", 2)
    blocked = fitted(ItemKnn(neighbours=2), make_inputs)
    for item in range(5):
        (a,), (b,) = (knn.scores(items([item]), items(range(5))) for knn in (whole, blocked))
        assert a.tolist() == b.tolist()


@pytest.mark.parametrize("pairs", [1, 20, 10**6])
def test_item_knn_is_what_plain_python_counts(make_inputs, monkeypatch, pairs):
    monkeypatch.setattr("mllmrec.baselines.item_knn._BLOCK_PAIRS", pairs)
    draw = np.random.default_rng(0)
    sequences = [draw.integers(12, size=draw.integers(1, 9)).tolist() for _ in range(30)]
    knn = ItemKnn(neighbours=4, decay=0.7)
    knn.fit(make_inputs(sequences, 12))
    owners = [{user for user, own in enumerate(sequences) if item in own} for item in range(12)]
    near = []
    for item, own in enumerate(owners):
        cosines = {
            other: len(own & its) / (np.sqrt(float(len(own))) * np.sqrt(float(len(its))))
            for other, its in enumerate(owners)
            if other != item and own & its
        }
        near.append(dict(sorted(cosines.items(), key=lambda pair: (-pair[1], pair[0]))[:4]))
    histories = [np.array(own, dtype=np.int32) for own in sequences if len(own) > 1]
    several = knn.scores(histories[:2], [np.array([3, 0, 7]), np.array([11, 2, 3])])
    for (history, wanted), scores in zip(
        zip(histories[:2], ([3, 0, 7], [11, 2, 3]), strict=True), several, strict=True
    ):
        terms = [
            [near[item].get(asked, 0) * 0.7**age for age, item in enumerate(history[::-1])]
            for asked in wanted
        ]
        assert scores == pytest.approx([sum(row) for row in terms])
    assert knn.scores([], []) == []
    assert [row.tolist() for row in knn.scores(histories[:2], [np.array([], int)] * 2)] == [[], []]
    # Few candidates are summed pair by pair, many in one table; both add in the same order.
    for history in histories:
        (every,) = knn.scores([history], [np.arange(12)])
        (some,) = knn.scores([history], [np.array([3, 0, 7])])
        assert some.tolist() == every[[3, 0, 7]].tolist()


def test_item_knn_weighs_by_age_and_shrinks(make_inputs, items):
    knn = fitted(ItemKnn(decay=0.5), make_inputs)
    (scores,) = knn.scores(items([0, 1]), items([2]))
    # The older item 0 has cosine 1/2 and counts half; item 1 has cosine 2/√6 and counts in full.
    assert scores == pytest.approx([1 / 4 + 2 / 6**0.5])
    (scores,) = fitted(ItemKnn(shrinkage=2), make_inputs).scores(items([0]), items([2]))
    assert scores == pytest.approx([1 / (2 + 2)])


def test_item_knn_without_history_scores_nothing(make_inputs, items):
    (scores,) = fitted(ItemKnn(), make_inputs).scores(items([]), items([0, 4]))
    assert scores.tolist() == [0, 0]


@pytest.mark.parametrize(
    "settings", [{"neighbours": 0}, {"shrinkage": -1}, {"decay": 0}, {"decay": 1.1}], ids=str
)
def test_item_knn_refuses(settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        ItemKnn(**settings)


def test_random_scores_belong_to_a_history_and_an_item(make_inputs, items):
    chance = fitted(RandomOrder(), make_inputs)
    first, second = chance.scores(items([0, 1], [1, 0]), items([2, 3, 4], [2, 3, 4]))
    assert len({*first, *second}) == 6
    # Neither the other users nor the order of the candidates matters.
    (again,) = chance.scores(items([0, 1]), items([4, 2, 3]))
    assert again.tolist() == first[[2, 0, 1]].tolist()
    (other,) = fitted(RandomOrder(), make_inputs, seed=1).scores(items([0, 1]), items([2, 3, 4]))
    assert other.tolist() != first.tolist()


@pytest.mark.parametrize("recommender", [RandomOrder, Popularity, Recent, ItemKnn])
def test_a_saved_recommender_scores_as_before(recommender, make_inputs, items, tmp_path):
    before = fitted(recommender(), make_inputs, seed=3)
    before.save(tmp_path)
    after = recommender()
    after.load(tmp_path, 5)
    asked = items([0, 1], [3]), items([2, 3, 4], range(5))
    for a, b in zip(before.scores(*asked), after.scores(*asked), strict=True):
        assert a.tolist() == b.tolist()


def test_a_folder_of_something_else_is_refused(make_inputs, tmp_path):
    with pytest.raises(UserError, match="train with this method first"):
        Popularity().load(tmp_path, 5)
    fitted(Popularity(), make_inputs).save(tmp_path)
    with pytest.raises(UserError, match="popularity for 5 items, but popularity for 6 is needed"):
        Popularity().load(tmp_path, 6)
    with pytest.raises(UserError, match="but recent"):
        Recent().load(tmp_path, 5)
    (tmp_path / "recommender.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match="cannot be read"):
        Popularity().load(tmp_path, 5)
