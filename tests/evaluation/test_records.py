from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from mllmrec.errors import UserError
from mllmrec.evaluation.metrics import mean_metrics, per_user_metrics
from mllmrec.evaluation.records import (
    StageRecords,
    clean_ranking,
    joined_ranks,
    read_stage,
    stages_in,
    validity_rates,
    write_stage,
)


def records(users=("u1", "u2"), ranks=(2, np.nan), texts=None):
    return StageRecords(
        user_ids=list(users),
        target_ids=[f"target of {user}" for user in users],
        ranks=np.array(ranks, dtype=float),
        rankings=[["a", "b", "c"]] * len(users),
        num_candidates=np.full(len(users), 10),
        texts=texts,
    )


def test_columns_are_the_contracts_and_an_unranked_target_is_null(tmp_path):
    path = tmp_path / "per_user.parquet"
    with write_stage(path, "zero_shot", keep_top=2) as writer:
        writer.append(records())
    with write_stage(path, "sft") as writer:
        writer.append(records(("u3",), (1,), ["[ITEM_1] Red Lamp"]))
        writer.append(records(("u4",), (3,), ["no idea"]))
    rows = pq.read_table(path).to_pylist()
    assert rows[:2] == [
        {
            "stage": "zero_shot",
            "user_id": user,
            "target_id": f"target of {user}",
            "rank": rank,
            "ranking": ["a", "b"],
            "num_candidates": 10,
            "text": None,
            "slices": None,
            "scores": None,
        }
        for user, rank in (("u1", 2), ("u2", None))
    ]
    assert [(row["stage"], row["user_id"], row["text"]) for row in rows[2:]] == [
        ("sft", "u3", "[ITEM_1] Red Lamp"),
        ("sft", "u4", "no idea"),
    ]
    assert stages_in(path) == ["zero_shot", "sft"]


def test_a_stage_reads_back_as_it_was_written(tmp_path):
    path = tmp_path / "per_user.parquet"
    with write_stage(path, "grpo") as writer:
        writer.append(records())
    back = read_stage(path, "grpo")
    assert back.user_ids.tolist() == ["u1", "u2"]
    np.testing.assert_array_equal(back.ranks, [2, np.nan])
    assert back.rankings == [["a", "b", "c"], ["a", "b", "c"]]
    assert back.texts is None


def test_users_carry_the_names_of_their_slices(tmp_path):
    path = tmp_path / "per_user.parquet"
    with write_stage(path, "sft") as writer:
        writer.append(replace(records(), slices=[["cold", "short"], []]))
    assert pq.read_table(path)["slices"].to_pylist() == [["cold", "short"], []]
    assert read_stage(path, "sft").slices == [["cold", "short"], []]


def test_scores_are_cut_as_the_rankings_are(tmp_path):
    path = tmp_path / "per_user.parquet"
    with write_stage(path, "sft", keep_top=2) as writer:
        writer.append(replace(records(), scores=[np.array([-0.5, -1.0, -2.0]), [3.0, 2.0, 1.0]]))
    assert read_stage(path, "sft").scores == [[-0.5, -1.0], [3.0, 2.0]]


def test_files_of_earlier_versions_have_neither_slices_nor_scores_and_take_another_stage(tmp_path):
    path = tmp_path / "per_user.parquet"
    with write_stage(path, "sft") as writer:
        writer.append(records())
    pq.write_table(pq.read_table(path).drop_columns(["slices", "scores"]), path)
    back = read_stage(path, "sft")
    assert back.slices is None
    assert back.scores is None
    assert back.user_ids.tolist() == ["u1", "u2"]
    with write_stage(path, "grpo") as writer:
        writer.append(replace(records(), scores=[[2.0, 1.0, 0.0]] * 2))
    assert read_stage(path, "sft").scores is None
    assert read_stage(path, "grpo").scores == [[2.0, 1.0, 0.0]] * 2


def test_a_failed_stage_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "per_user.parquet"
    with write_stage(path, "sft") as writer:
        writer.append(records())
    before = path.read_bytes()

    def stop_halfway():
        with write_stage(path, "grpo") as writer:
            writer.append(records())
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        stop_halfway()
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["per_user.parquet"]


def test_writing_a_stage_again_replaces_it(tmp_path):
    path = tmp_path / "per_user.parquet"
    for stage, users in (("sft", ("u1", "u2")), ("grpo", ("u1", "u2")), ("sft", ("u5", "u6"))):
        with write_stage(path, stage) as writer:
            writer.append(records(users))
    assert read_stage(path, "sft").user_ids.tolist() == ["u5", "u6"]
    assert read_stage(path, "grpo").user_ids.tolist() == ["u1", "u2"]


@pytest.mark.parametrize("rank", [0, 2.5])
def test_a_rank_that_is_no_place_is_refused(tmp_path, rank):
    with (
        pytest.raises(ValueError, match="whole numbers from 1"),
        write_stage(tmp_path / "p.parquet", "sft") as writer,
    ):
        writer.append(records(ranks=(1, rank)))


def test_missing_file_and_missing_stage_say_what_there_is(tmp_path):
    path = tmp_path / "per_user.parquet"
    with pytest.raises(UserError, match="is missing"):
        read_stage(path, "sft")
    with write_stage(path, "sft") as writer:
        writer.append(records())
    with pytest.raises(UserError, match="no phase 'grpo'; it has sft"):
        read_stage(path, "grpo")


def test_results_are_joined_by_user_and_not_by_position():
    # Fault 27 of the release: results of several processes are concatenated out of dataset order.
    first, second = joined_ranks(
        records(("u1", "u2", "u3"), (1, 2, 3)), records(("u3", "u1", "u2"), (30, 10, 20))
    )
    assert first.tolist() == [1, 2, 3]
    assert second.tolist() == [10, 20, 30]


def test_a_target_that_a_user_has_twice_is_paired_in_its_order():
    # Published test files have users who come back to an item.
    first, second = joined_ranks(
        records(("u1", "u2", "u1"), (1, 2, 3)), records(("u2", "u1", "u1"), (20, 10, 30))
    )
    assert (first.tolist(), second.tolist()) == ([1, 2, 3], [10, 20, 30])


def test_other_users_or_repeated_users_cannot_be_paired():
    with pytest.raises(UserError, match="1 of the first without a match, for example user u2"):
        joined_ranks(records(("u1", "u2"), (1, 2)), records(("u1", "u3"), (1, 2)))
    with pytest.raises(UserError, match="2 and 3 users"):
        joined_ranks(records(("u1", "u2"), (1, 2)), records(("u1", "u2", "u3"), (1, 2, 3)))
    with pytest.raises(UserError, match="twice"):
        joined_ranks(records(("u1", "u1"), (1, 2)), records(("u1", "u2"), (1, 2)))


def test_duplicates_and_strangers_take_no_rank_and_are_counted():
    # Fault 24 of the release: it gives the target t rank 4 in this answer, behind a twice and a stranger.
    cleaned = clean_ranking(["a", "a", "stranger", "t"], candidates=["t", "a", "b"])
    assert cleaned.item_ids == ["a", "t"]
    assert (cleaned.duplicates, cleaned.off_candidate) == (1, 1)


def test_a_repeated_stranger_is_off_candidate_each_time():
    cleaned = clean_ranking(["x", "x"], candidates=["a"])
    assert (cleaned.item_ids, cleaned.duplicates, cleaned.off_candidate) == ([], 0, 2)


def test_short_duplicate_and_foreign_answers_are_reported():
    # Four users, 3 candidates wanted: a full list; one short with a duplicate; one off-candidate but full; nothing.
    rates = validity_rates(
        listed=np.array([3, 2, 3, 0]),
        wanted=3,
        duplicates=np.array([0, 2, 0, 0]),
        off_candidate=np.array([0, 0, 1, 0]),
        top_position=np.array([0, 2, 0, -1]),
    )
    assert rates == {
        "invalid": 0.25,
        "duplicate": 0.25,
        "off_candidate": 0.25,
        "short": 0.5,
        "first_position": 0.5,
    }


def test_a_short_list_is_a_miss_at_every_cutoff_and_nothing_is_appended():
    # The target is not in the answer: the list is not filled up with it, and its rank is nan.
    cleaned = clean_ranking(["a"], candidates=["t", "a", "b"])
    assert "t" not in cleaned.item_ids
    assert mean_metrics(per_user_metrics(np.array([np.nan]), [1, 10])) == {
        "HR@1": 0,
        "HR@10": 0,
        "NDCG@10": 0,
        "MRR": 0,
    }


def test_users_of_many_batches_share_a_row_group(tmp_path, monkeypatch):
    monkeypatch.setattr("mllmrec.evaluation.records._TOGETHER", 5)
    path = tmp_path / "per_user.parquet"
    users = [f"u{user}" for user in range(14)]
    for stage in ("zero_shot", "sft"):
        with write_stage(path, stage) as writer:
            for user in users[::2]:
                writer.append(records((user, user + "b")))
    with pq.ParquetFile(path) as file:  # batches of 2 fill groups of 6 and leave 2
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    assert sizes == [6, 6, 2, 6, 6, 2]
    assert read_stage(path, "sft").user_ids.tolist() == [
        name for user in users[::2] for name in (user, user + "b")
    ]
