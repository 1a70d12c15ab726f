from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mllmrec.cache import fingerprint
from mllmrec.data.base import TEST, TRAIN, Interactions, Items, RawData, RawInteractions
from mllmrec.data.candidate_sets import CandidateSet, UnusableSetError
from mllmrec.data.candidates import CandidateSampler, CandidateSource, Catalogue
from mllmrec.data.filters import Filters, build_interactions
from mllmrec.data.splits import ByTime, Given, LeaveOneOut, Samples
from mllmrec.errors import UserError


def catalogue(num_items: int) -> Items:
    ids = np.array([f"i{n}" for n in range(num_items)])
    return Items(ids, np.char.add("title ", ids), np.full(num_items, ""))


def interactions_of(sequences: dict[str, list[int]], given_split=None) -> Interactions:
    return Interactions(
        np.array(list(sequences)),
        np.cumsum([0, *(len(items) for items in sequences.values())]).astype(np.int64),
        np.array([item for items in sequences.values() for item in items], dtype=np.int32),
        given_split=given_split,
    )


def random_sequences(num_users: int, num_items: int, length: int, seed: int = 0) -> dict[str, list[int]]:
    generator = np.random.default_rng(seed)
    return {f"u{n}": generator.choice(num_items, length, replace=False).tolist() for n in range(num_users)}


def freeze(sequences, items, num_negatives, weighting="uniform", seed=0, split="test"):
    interactions = interactions_of(sequences)
    splits = LeaveOneOut()(interactions)
    known = splits["train"] if split == "train" else None
    source = CandidateSampler(num_negatives, weighting, seed).bind(
        Catalogue(interactions, items, known), splits["train"]
    )
    return source, splits[split], source.freeze(splits[split], split)


def ids_per_user(candidates: CandidateSet, items: Items) -> dict[str, list[str]]:
    return {
        user: items.ids[row].tolist()
        for user, row in zip(candidates.user_ids.tolist(), candidates.items, strict=True)
    }


def training_negatives(splits, items, num_negatives, weighting="uniform") -> list[list[str]]:
    """The sorted ids of each training sample's negatives."""
    train = splits["train"]
    known = Catalogue(train.interactions, items, known=train)
    frozen_set = CandidateSampler(num_negatives, weighting).bind(known, train).freeze(train, "train")
    rows = zip(frozen_set.items, frozen_set.target_column, strict=True)
    return [sorted(items.ids[np.delete(row, column)].tolist()) for row, column in rows]


@pytest.mark.parametrize("weighting", ["uniform", "popularity"])
def test_negatives_are_distinct_and_never_watched(weighting):
    # Fault 12 of the release: only the visible history was avoided. 60 items, 12-item users, 30 negatives. In training
    # the last two of the twelve items lie in the future.
    sequences, items = random_sequences(200, 60, 12), catalogue(60)
    for split, avoided in (("train", 10), ("validation", 12), ("test", 12)):
        _, samples, candidates = freeze(sequences, items, 30, weighting, split=split)
        for index, row in enumerate(candidates.items):
            target = samples.target(index)
            assert row[candidates.target_column[index]] == target
            negatives = set(row.tolist()) - {target}
            assert len(negatives) == 30
            assert negatives.isdisjoint(sequences[samples.user_id(index)][:avoided])


def test_a_history_that_is_nearly_the_catalogue_leaves_only_the_rest():
    # u has watched 0..46 of 50 items; 0..44 are for training. In test only 47, 48 and 49 can be negatives, in training
    # 45 and 46 as well.
    sequences, items = {"u": list(range(47)), "v": [3, 4, 5, 49]}, catalogue(50)
    for split, left in (("train", {45, 46, 47, 48, 49}), ("test", {47, 48, 49})):
        _, samples, candidates = freeze(sequences, items, len(left), split=split)
        assert set(candidates.items[0].tolist()) == left | {samples.target(0)}


@pytest.mark.parametrize("windows", ["last", "sliding"])
@pytest.mark.parametrize("weighting", ["uniform", "popularity"])
def test_training_negatives_include_held_out_items_and_no_other_training_target(windows, weighting):
    # u watched 0..6 of nine items and trains on 0..4, so 5, 6 (held out), 7 and 8 can be negatives in every window.
    # Others train on all of these, so that they have a popularity.
    sequences = {"u": [0, 1, 2, 3, 4, 5, 6], "v": [0, 5, 6, 7, 8, 1, 2]}
    splits = LeaveOneOut(windows=windows)(interactions_of(sequences))
    negatives = training_negatives(splits, catalogue(9), 4, weighting)
    assert negatives[: len(negatives) // 2] == [["i5", "i6", "i7", "i8"]] * (4 if windows == "sliding" else 1)


def test_training_negatives_of_a_time_split_include_what_lies_behind_the_first_cut():
    # For u, items 0, 1, 2 lie before the first cut (10), 3 is for validation, 4 comes between, 5 is for test.
    interactions = interactions_of({"u": [0, 1, 2, 3, 4, 5], "v": [0, 1, 6, 7]})
    interactions = dataclasses.replace(interactions, timestamps=np.array([1, 2, 9, 10, 12, 20, 1, 2, 11, 21]))
    splits = ByTime(windows="sliding", validation_from=10, test_from=20)(interactions)
    assert training_negatives(splits, catalogue(8), 5)[:2] == [["i3", "i4", "i5", "i6", "i7"]] * 2


@pytest.mark.parametrize("weighting", ["uniform", "popularity"])
def test_a_pool_smaller_than_the_negatives_is_an_error_not_a_loop(weighting):
    # Fault 13. w watched all but item 9. v trains on items 8 and 9, so popularity leaves w the same single item.
    sequences = {"v": [8, 9, 0, 1], "w": [0, 1, 2, 3, 4, 5, 6, 7, 8]}
    items = catalogue(10)
    with pytest.raises(
        UserError, match=r"user w has only 1 of \d+ items.*num_negatives=3 \(1 of 2 samples.*lower num_neg"
    ):
        freeze(sequences, items, 3, weighting)
    interactions = interactions_of(sequences)
    splits = LeaveOneOut()(interactions)
    source = CandidateSampler(3, weighting).bind(Catalogue(interactions, items), splits["train"])
    with pytest.raises(UserError, match="user w"):
        source.candidates_of(splits["test"], 1, "test")
    with pytest.raises(UserError, match=r"user w has only 1 of .*num_negatives=2 "):
        freeze(sequences, items, 2, weighting)
    freeze(sequences, items, 1, weighting)


def test_the_user_with_the_smallest_pool_is_named():
    sequences = {"v": list(range(7)), "w": list(range(9)), "x": list(range(8))}
    with pytest.raises(UserError, match=r"user w has only 1 of 10 items .*\(3 of 3 samples"):
        freeze(sequences, catalogue(10), 5)


def test_only_titled_items_are_negatives():
    items = catalogue(20)
    titles = items.titles.copy()
    titles[10:] = ""
    _, samples, candidates = freeze({"u": [0, 1, 2, 15]}, Items(items.ids, titles, items.details), 7)
    assert sorted(candidates.items[0].tolist()) == [3, 4, 5, 6, 7, 8, 9, 15]
    assert samples.target(0) == 15
    # By popularity as well: v trains on 10 and 11, which have no title, and nobody trains on 12 to 19.
    sequences = {"u": [0, 1, 2, 15], "v": [10, 11, 3, 4], "w": [5, 6, 7, 8]}
    _, samples, candidates = freeze(sequences, Items(items.ids, titles, items.details), 2, "popularity")
    assert sorted(candidates.items[0].tolist()) == [5, 6, 15]


def test_the_other_file_of_a_given_split_is_avoided_too():
    # p watched 0, 1, 2 in the train file and 3, 4 in the test file, so 5, 6, 7 of the 8 items are left.
    split = np.array([TRAIN, TEST, TRAIN], dtype=np.int8)
    interactions = Interactions(
        np.array(["p", "p", "q"]),
        np.array([0, 3, 5, 7]),
        np.array([0, 1, 2, 3, 4, 6, 7], np.int32),
        given_split=split,
    )
    splits = Given(validation_share=0)(interactions)
    source = CandidateSampler(3).bind(Catalogue(interactions, catalogue(8)), splits["train"])
    assert sorted(source.freeze(splits["test"], "test").items[0].tolist()) == [4, 5, 6, 7]
    assert training_negatives(splits, catalogue(8), 5)[0] == ["i3", "i4", "i5", "i6", "i7"]  # 3, 4 are future
    assert source.catalogue.full_candidates(splits["test"], 0).tolist() == [4, 5, 6, 7]


def test_what_filters_took_out_of_a_sequence_is_avoided_too():
    # u watched 0..7 of 12 items. 0 is rated low, and only the latest four of 1..7 stay. Only 8..11 may be negatives.
    items = catalogue(12)
    users, codes = (
        np.array([1] + [0] * 8 + [1] * 4, np.int32),
        np.array([0, *range(8), 8, 9, 10, 11], np.int32),
    )
    ratings = np.array([1, 1] + [5] * 11, np.float32)
    raw = RawData("toy", items, RawInteractions(np.array(["u", "v"]), users, codes, ratings=ratings))
    items, interactions, _ = build_interactions(raw, Filters(min_rating=3, max_length=4), seed=0)
    assert interactions.of_user(0).tolist() == [4, 5, 6, 7]
    splits = LeaveOneOut()(interactions)
    source = CandidateSampler(4).bind(Catalogue(interactions, items), splits["train"])
    assert sorted(source.freeze(splits["test"], "test").items[0].tolist()) == [7, 8, 9, 10, 11]
    assert source.catalogue.full_candidates(splits["test"], 0).tolist() == [7, 8, 9, 10, 11]
    assert source.catalogue.full_candidates(splits["test"], 1).tolist() == [1, 2, 3, 4, 5, 6, 7, 11]
    # In training 0..3 are known, 4 and 5 are the history and the target, 6 and 7 lie in the future.
    assert training_negatives(splits, items, 6)[0] == ["i10", "i11", "i6", "i7", "i8", "i9"]


def test_what_was_rated_low_after_the_last_training_target_is_unknown_in_training():
    # u rates 1 and 3 low; u's sequence is 0 2 | 4 5. So 1 is known at the target 2, and 3 is not.
    items = catalogue(7)
    ratings = np.array([5, 1, 5, 1, 5, 5] + [5] * 4, np.float32)
    users, codes = np.array([0] * 6 + [1] * 4, np.int32), np.array([0, 1, 2, 3, 4, 5, 0, 1, 2, 6], np.int32)
    raw = RawData("toy", items, RawInteractions(np.array(["u", "v"]), users, codes, ratings=ratings))
    items, interactions, _ = build_interactions(raw, Filters(min_rating=3), seed=0)
    splits = LeaveOneOut()(interactions)
    assert training_negatives(splits, items, 4)[0] == ["i3", "i4", "i5", "i6"]
    test = CandidateSampler(1).bind(Catalogue(interactions, items), splits["train"])
    assert sorted(test.freeze(splits["test"], "test").items[0].tolist()) == [5, 6]


FROZEN = {  # what validation and test drew for sixty random users when evaluation's candidates were first fixed
    "leave_one_out": {
        "uniform": ("78cf3fe95e0b594f20b84a7c08c7e07a", "0623ad9f281a482029f4a6c59d6949e6"),
        "popularity": ("5519bdf88168c30f086e31b3ab6751ca", "e21561d73cf7c8316a75afc207453b97"),
        "full": ("2e84cdc9a060b929ca9a021c09b42943", "9e7b969dda12c14958725b610f37cdee"),
    },
    "time": {
        "uniform": ("b816027fc05ccab9cf6fb6949b67aeec", "462ed2a77f0557a9627f7d83c31b8014"),
        "popularity": ("9adba3afcc575f0e1ef2266d542a52c8", "f6b975e3e4dbfd5bd23df2d8c90509c5"),
        "full": ("352b0f61b26a2c383d2cce4108b37afc", "2e84cdc9a060b929ca9a021c09b42943"),
    },
    "given": {
        "uniform": ("75319dd536997206a019db6862aed2fd", "0c8c18e6ee967db343195d8a12a8436d"),
        "popularity": ("b17170acb50d252582556d20c276dffb", "da7875638c791356e257327b5ee6f109"),
        "full": ("cbb27b3558ae4c75b55ed7fcc8fa14b8", "685ea0c7eef059fce650c3a410770aa4"),
    },
}


@pytest.mark.parametrize("split", list(FROZEN))
def test_the_candidates_of_evaluation_are_what_they_always_were(split):
    # Figures of earlier and later runs are compared: these hashes may change only for a reason given in words.
    sequences, items = random_sequences(60, 50, 12), catalogue(50)
    interactions = interactions_of(sequences)
    if split == "time":
        interactions = dataclasses.replace(interactions, timestamps=np.tile(np.arange(12), 60))
    if split == "given":  # thirty people with one sequence in each file
        names, files = np.repeat(interactions.user_ids[::2], 2), np.array([TRAIN, TEST] * 30, dtype=np.int8)
        interactions = dataclasses.replace(interactions, user_ids=names, given_split=files)
    splits = {"leave_one_out": LeaveOneOut, "time": ByTime, "given": Given}[split]()(interactions)
    everything = Catalogue(interactions, items)
    found = {"full": tuple(everything.full_hash(splits[part]) for part in ("validation", "test"))}
    for weighting in ("uniform", "popularity"):
        source = CandidateSampler(9, weighting).bind(everything, splits["train"])
        found[weighting] = tuple(source.freeze(splits[part], part).hash for part in ("validation", "test"))
    assert found == FROZEN[split]


def test_global_generators_change_nothing():
    # Fault 9 of the release: it used a global generator that was never seeded.
    sequences, items = random_sequences(50, 100, 8), catalogue(100)
    hashes = set()
    for reseeding in (1, 2):
        random.seed(reseeding)
        np.random.seed(reseeding)  # noqa: NPY002
        hashes.add(freeze(sequences, items, 9)[2].hash)
        hashes.add(freeze(sequences, items, 9, "popularity")[2].hash)
    assert len(hashes) == 2  # one for uniform, one for popularity
    assert freeze(sequences, items, 9, seed=1)[2].hash not in hashes


@pytest.mark.parametrize("weighting", ["uniform", "popularity"])
def test_the_order_of_users_and_items_in_the_files_changes_nothing(weighting):
    sequences, items = random_sequences(80, 100, 8), catalogue(100)
    _, _, before = freeze(sequences, items, 9, weighting)
    generator = np.random.default_rng(5)
    names = generator.permutation(list(sequences)).tolist()
    place = generator.permutation(100)  # the new code of every item
    moved = Items(*(np.empty_like(column) for column in (items.ids, items.titles, items.details)))
    for old, new in ((items.ids, moved.ids), (items.titles, moved.titles), (items.details, moved.details)):
        new[place] = old
    shuffled = {name: place[sequences[name]].tolist() for name in names}
    _, _, after = freeze(shuffled, moved, 9, weighting)
    assert ids_per_user(after, moved) == ids_per_user(before, items)
    assert after.hash == before.hash


def test_other_users_change_nothing_for_a_user():
    sequences, items = random_sequences(80, 100, 8), catalogue(100)
    everybody = ids_per_user(freeze(sequences, items, 9)[2], items)
    half = dict(list(sequences.items())[::2])
    few = ids_per_user(freeze(half, items, 9)[2], items)
    assert few == {name: everybody[name] for name in half}


def test_one_sample_lazily_is_the_frozen_one():
    sequences, items = random_sequences(40, 60, 12), catalogue(60)
    source, samples, candidates = freeze(
        sequences, items, 45
    )  # 48 are left, so the exact completion is used too
    for index in range(len(samples)):
        row, column = source.candidates_of(samples, index, "test")
        assert row.tolist() == candidates.items[index].tolist()
        assert column == candidates.target_column[index]


def test_samples_and_splits_of_one_user_draw_apart():
    interactions = interactions_of({"u": list(range(8))})
    train = LeaveOneOut(windows="sliding")(interactions)["train"]
    source = CandidateSampler(9).bind(Catalogue(interactions, catalogue(200)), train)
    rows = [
        set(source.candidates_of(train, i, "train")[0].tolist()) - set(range(8)) for i in range(len(train))
    ]
    rows.append(set(source.candidates_of(train, 0, "test")[0].tolist()) - set(range(8)))
    assert len({frozenset(row) for row in rows}) == 6  # 5 windows, and one of them again for another split


def test_the_target_stands_anywhere_with_equal_chance():
    # 2,000 users and 10 columns: 200 expected in each. Chi-square with 9 degrees of freedom is below 27.9 in 99.9 %.
    _, _, candidates = freeze(random_sequences(2000, 60, 6), catalogue(60), 9)
    counts = np.bincount(candidates.target_column, minlength=10)
    assert ((counts - 200) ** 2 / 200).sum() < 27.9


def popular_source(weighting):
    # 3,000 test users u watched items 0, 1, 2, 3 and train on items 0, 1. 40 others train on (4, 5) 10 times and on
    # (4, 6) 30 times. So for the users u the weights of 4, 5, 6 are 40, 10, 30; 0 and 1 are watched, 7 never trains.
    sequences = {f"u{n}": [0, 1, 2, 3] for n in range(3000)}
    sequences |= {f"o{n}": [4, 5 if n < 10 else 6, 0, 1] for n in range(40)}
    interactions = interactions_of(sequences)
    splits = LeaveOneOut()(interactions)
    users = splits["test"]
    users = Samples(interactions, users.users[:3000], users.positions[:3000])
    return (
        CandidateSampler(1, weighting)
        .bind(Catalogue(interactions, catalogue(8)), splits["train"])
        .freeze(users, "test")
    )


def test_popularity_draws_in_proportion_to_training_counts():
    # Shares 40/80, 10/80, 30/80. The standard error of a share over 3,000 draws is below 0.0092.
    items = popular_source("popularity").items
    counts = np.bincount(items.ravel(), minlength=8)
    assert counts[3] == 3000
    assert counts[[0, 1, 2, 7]].tolist() == [0, 0, 0, 0]
    assert np.abs(counts[4:7] / 3000 - [0.5, 0.125, 0.375]).max() < 0.035
    # Uniform: a quarter each for 4, 5, 6, 7.
    counts = np.bincount(popular_source("uniform").items.ravel(), minlength=8)
    assert np.abs(counts[4:8] / 3000 - 0.25).max() < 0.035


def test_completing_a_short_draw_keeps_the_weights():
    # Two of the three items with weights 40, 10, 30: P(5 is left out) = 4/8 x 3/4 + 3/8 x 4/5 = 0.675.
    interactions = interactions_of(
        {"u": [0, 1, 2, 3]} | {f"o{n}": [4, 5 if n < 10 else 6, 0, 1] for n in range(40)}
    )
    train = LeaveOneOut()(interactions)["train"]
    source = CandidateSampler(2, "popularity").bind(Catalogue(interactions, catalogue(8)), train)
    generator = np.random.default_rng(0)
    nothing = np.empty(0, dtype=np.int64)
    without_5 = sum(5 not in source._complete(generator, 0, nothing) for _ in range(3000))
    assert abs(without_5 / 3000 - 0.675) < 0.035
    assert set(source._complete(generator, 0, np.array([5])).tolist()) - {5} <= {4, 6}


def test_full_candidates_are_all_unwatched_items_and_the_target():
    sequences, items = {"u": [0, 1, 2, 3], "v": [9, 8, 7, 6]}, catalogue(10)
    source, samples, _ = freeze(sequences, items, 2)
    assert source.catalogue.full_candidates(samples, 0).tolist() == [3, 4, 5, 6, 7, 8, 9]
    assert source.catalogue.full_candidates(samples, 1).tolist() == [0, 1, 2, 3, 4, 5, 6]
    full_hash = source.catalogue.full_hash(samples)
    assert (
        freeze(dict(reversed(sequences.items())), items, 2)[0].catalogue.full_hash(
            LeaveOneOut()(interactions_of(dict(reversed(sequences.items()))))["test"]
        )
        == full_hash
    )
    other, other_samples, _ = freeze(
        {"u": [0, 1, 4, 3], "v": [9, 8, 7, 6]}, items, 2
    )  # another excluded item
    assert other.catalogue.full_hash(other_samples) != full_hash


@pytest.mark.parametrize("together", [7, 1 << 16])  # the 30 samples in five row groups, or in one
def test_a_stored_set_comes_back_and_joins_by_sample_id(tmp_path, monkeypatch, together):
    monkeypatch.setattr("mllmrec.data.candidate_sets._TOGETHER", together)
    items = catalogue(60)
    _, samples, candidates = freeze(random_sequences(30, 60, 6), items, 9)
    path = tmp_path / "candidates.parquet"
    candidates.save(path, items)
    back = CandidateSet.load(path, items)
    assert back.hash == candidates.hash
    assert (back.items == candidates.items).all()
    assert (back.target_column == candidates.target_column).all()
    some = Samples(samples.interactions, samples.users[[4, 2]], samples.positions[[4, 2]])
    assert back.user_ids[back.rows_of(some)].tolist() == [samples.user_id(4), samples.user_id(2)]
    earlier = Samples(samples.interactions, samples.users[:1], samples.positions[:1] - 1)
    with pytest.raises(UnusableSetError, match="sample u0:4 is not stored"):
        back.rows_of(earlier)
    table = pq.read_table(path)
    assert table.column_names == ["sample_id", "user_id", "target_id", "candidates"]
    assert table.column("candidates").type == pa.list_(pa.string())
    assert table.schema.metadata[b"hash"].decode() == candidates.hash
    assert pq.ParquetFile(path).num_row_groups == -(-30 // together)


def test_changed_and_foreign_and_broken_files_are_refused(tmp_path):
    items = catalogue(60)
    _, _, candidates = freeze(random_sequences(30, 60, 6), items, 9)
    path = tmp_path / "candidates.parquet"
    candidates.save(path, items)
    table = pq.read_table(path)
    rows = table.column("candidates").to_pylist()
    rows[7] = rows[7][::-1]
    changed = table.set_column(3, "candidates", pa.array(rows, pa.list_(pa.string())))
    pq.write_table(changed.replace_schema_metadata(table.schema.metadata), path)
    with pytest.raises(UnusableSetError, match="do not match their hash"):
        CandidateSet.load(path, items)
    candidates.save(path, items)
    with pytest.raises(UnusableSetError, match="is not in the catalogue"):
        CandidateSet.load(path, catalogue(20))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UnusableSetError, match=r"cannot read candidates from .*candidates\.parquet"):
        CandidateSet.load(path, items)


def test_a_file_whose_hash_fits_but_whose_lists_do_not_is_refused(tmp_path):
    items, path = catalogue(60), tmp_path / "candidates.parquet"
    _, _, whole = freeze(random_sequences(30, 60, 6), items, 9)
    # The third sample has ten candidates, but its target appears twice, so nine are ranked.
    listed = whole.items.copy()
    listed[2, (whole.target_column[2] + 1) % 10] = whole.targets[2]
    CandidateSet.build(whole.sample_ids, whole.user_ids, listed, whole.target_column, items).save(path, items)
    with pytest.raises(UnusableSetError, match=r"candidates\.parquet"):
        CandidateSet.load(path, items)
    # The second list takes over the third's last candidate: 10, 9, 11, 10, …. All candidates keep their order.
    whole.save(path, items)
    assert CandidateSet.load(path, items).hash == whole.hash
    table = pq.read_table(path)
    rows = table.column("candidates").to_pylist()
    rows[2].insert(0, rows[1].pop())
    uneven = table.set_column(3, "candidates", pa.array(rows, pa.list_(pa.string())))
    pq.write_table(uneven.replace_schema_metadata(table.schema.metadata), path)
    with pytest.raises(UnusableSetError, match=r"candidates\.parquet"):
        CandidateSet.load(path, items)


def test_a_set_is_drawn_once_and_a_stored_one_that_does_not_fit_again(tmp_path, monkeypatch, caplog):
    sequences, items = random_sequences(30, 60, 6), catalogue(60)
    source, samples, fresh = freeze(sequences, items, 9)
    other_source, _, other = freeze(sequences, items, 9, seed=1)
    drawn = []
    draw = CandidateSource.freeze
    monkeypatch.setattr(
        CandidateSource, "freeze", lambda self, *given: drawn.append(self.sampler.seed) or draw(self, *given)
    )

    def stored(source):
        found = source.stored(tmp_path, samples, "test")
        return found.hash, found.items.tolist(), found.target_column.tolist()

    expected = (fresh.hash, fresh.items.tolist(), fresh.target_column.tolist())
    assert stored(source) == stored(source) == expected
    assert stored(other_source)[0] == other.hash != fresh.hash
    assert drawn == [0, 1]
    assert len(list(tmp_path.iterdir())) == 2  # no temporary file is left
    path, foreign = (
        tmp_path / f"candidates-{fingerprint(one.key(samples, 'test'))}.parquet"
        for one in (source, other_source)
    )
    path.write_bytes(foreign.read_bytes())
    assert stored(source) == expected
    assert f"{path} was made from other settings" in caplog.text
    path.write_bytes(foreign.read_bytes()[:-100])
    assert stored(source) == expected
    assert f"cannot read candidates from {path}" in caplog.text
    # The right key and a hash that fits, but every user's target is the second last item.
    freeze(sequences, items, 9, split="validation")[2].save(path, items, source.key(samples, "test"))
    assert stored(source) == expected
    assert "sample u0:5 is not stored, or is stored with another user or target" in caplog.text
    caplog.clear()
    assert stored(source) == expected
    assert not caplog.text


def test_users_and_targets_of_stored_samples_are_compared():
    # The sample ids are the same, but the target differs, or the user id, which the sample id does not show.
    items = catalogue(60)
    _, samples, candidates = freeze({"u": [0, 1, 2, 3], "v": [4, 5, 6, 7]}, items, 9)
    candidates.rows_of(samples)
    other = LeaveOneOut()(interactions_of({"u": [0, 1, 2, 8], "v": [4, 5, 6, 7]}))["test"]
    with pytest.raises(UnusableSetError, match="sample u:3"):
        candidates.rows_of(other)
    renamed = dataclasses.replace(candidates, user_ids=np.array(["u", "w"]))
    with pytest.raises(UnusableSetError, match="sample v:3"):
        renamed.rows_of(samples)


def drawn_from(sequences, ranked, *, ids=None, untitled=(), number=9, seed=0, split="test"):
    """What `freeze` needs for the test targets of these users, with uniform negatives from twenty items."""
    items = catalogue(20)
    titles = items.titles.copy()
    titles[list(untitled)] = ""
    interactions = interactions_of(sequences)
    splits = LeaveOneOut()(interactions)
    places = [list(sequences).index(name) for name in ranked]
    samples = Samples(interactions, splits["test"].users[places], splits["test"].positions[places])
    known = Catalogue(interactions, Items(items.ids if ids is None else ids, titles, items.details))
    return CandidateSampler(number, seed=seed).bind(known, splits["train"]), samples, split


TWO = {"u": [0, 1, 2, 3], "v": [4, 5, 6, 7]}
RENAMED = (
    [f"i{n}" for n in range(9)] + ["z9"] + [f"i{n}" for n in range(10, 20)]
)  # i9 is the last by id, as z9 is
DIFFERING = {  # part of the key -> two draws that differ in this part only
    "items": (drawn_from(TWO, "uv"), drawn_from(TWO, "uv", ids=np.array(RENAMED))),
    "seen": (drawn_from(TWO, "uv"), drawn_from({**TWO, "u": [0, 1, 13, 3]}, "uv")),
    "weights": (drawn_from(TWO, "uv"), drawn_from(TWO, "uv", untitled=[8, 9])),
    "samples": (drawn_from(TWO, "uv"), drawn_from({"t": TWO["u"], "v": TWO["v"]}, "tv")),
    # The same two sequences; the ranked user is the first, or the second.
    "people": (
        drawn_from({"u": [0, 1, 2, 7], "v": [4, 5, 6, 7]}, "u"),
        drawn_from({"v": [0, 1, 2, 7], "u": [4, 5, 6, 7]}, "u"),
    ),
    "targets": (drawn_from(TWO, "uv"), drawn_from({**TWO, "u": [0, 1, 3, 2]}, "uv")),
    "num_negatives": (drawn_from(TWO, "uv"), drawn_from(TWO, "uv", number=8)),
    "seed": (drawn_from(TWO, "uv"), drawn_from(TWO, "uv", seed=1)),
    "split": (drawn_from(TWO, "uv"), drawn_from(TWO, "uv", split="validation")),
}


@pytest.mark.parametrize("part", list(DIFFERING))
def test_without_any_one_part_of_its_key_a_stored_set_would_serve_for_another(part):
    (one, *of_one), (other, *of_other) = DIFFERING[part]
    assert one.freeze(*of_one).hash != other.freeze(*of_other).hash
    first, second = one.key(*of_one), other.key(*of_other)
    assert {name for name in first if first[name] != second[name]} == {part}
    assert one.key(*of_one) == first


def test_the_key_of_a_stored_set_holds_nothing_but_these_parts_and_the_code_that_draws(monkeypatch):
    source, *of_source = DIFFERING["seed"][0]
    before = source.key(*of_source)
    assert set(before) == {*DIFFERING, "code"}
    monkeypatch.setattr("mllmrec.data.candidates.source_fingerprint", lambda *given, **more: (given, more))
    (candidates, randomness), more = source.key(*of_source)["code"]
    assert (Path(candidates).name, Path(randomness).name) == ("candidates.py", "randomness.py")
    assert more == {"libraries": ("numpy",)}


def test_popularity_is_told_apart_by_its_weights():
    sequences, items = random_sequences(30, 60, 6), catalogue(60)
    keys = [
        source.key(samples, "test")
        for source, samples, _ in (freeze(sequences, items, 9, w) for w in ("uniform", "popularity"))
    ]
    assert {name for name in keys[0] if keys[0][name] != keys[1][name]} == {"weights"}


def test_settings_out_of_range_are_refused():
    with pytest.raises(UserError, match="num_negatives=0"):
        CandidateSampler(0)
    with pytest.raises(UserError, match="'zipf'"):
        CandidateSampler(9, "zipf")
