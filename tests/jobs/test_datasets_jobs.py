from __future__ import annotations

import json
import shutil

import pytest
from datasets import load_dataset
from huggingface_hub import DatasetCard

from mllmrec.data.candidate_sets import combine_digests, row_digest
from mllmrec.errors import UserError
from mllmrec.exporting.data_folder import export_data


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def run(job, folders):
    """A run whose training samples carry reasoning, in part."""
    return (
        folders / "run"
        if (folders / "run").exists()
        else job(folders / "run", "mix_ratio=0.5", "eval.weighting=both")
    )


def test_the_sets_are_those_that_the_run_ranked(run, command, tmp_path):
    done = command("datasets", "export", f"run={run}", "out=shared", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shared = tmp_path / "shared"
    items = load_dataset(str(shared), "items", split="train", cache_dir=str(tmp_path / "hf"))
    known = set(items["item_id"])
    for kind, folder in (("uniform", run), ("popularity", run / "other_negatives")):
        rows = load_dataset(str(shared), f"candidates_{kind}", split="test", cache_dir=str(tmp_path / "hf"))
        metrics = json.loads((folder / "metrics.json").read_text())
        assert len(rows) == metrics["protocol"]["users"]
        for row in rows:
            assert row["candidates"].count(row["target"]) == 1
            assert len(set(row["candidates"])) == metrics["protocol"]["num_candidates"]
            assert {*row["history"], *row["candidates"]} <= known
            assert not {*row["history"]} & {*row["candidates"]}
        # Whoever has the files can compute the hash that the run recorded, if it ranked every user.
        digests = [row_digest(row["user_id"], row["target"], row["candidates"]) for row in rows]
        recorded = json.loads((shared / "protocol.json").read_text())["sets"][
            f"candidates/test-{kind}.parquet"
        ]
        assert recorded["candidates_hash"] == metrics["protocol"]["candidates_hash"]
        assert combine_digests(digests) == metrics["protocol"]["candidates_hash"]
    reasoning = load_dataset(str(shared), "reasoning", split="train", cache_dir=str(tmp_path / "hf"))
    counted = json.loads((run / "data.json").read_text())["cot"]["coverage"]
    assert 0 < len(reasoning) == counted["matched"]
    assert all(row["text"] for row in reasoning)
    card = DatasetCard.load(shared / "README.md")
    assert str(tmp_path) not in card.content
    assert str(run.parent) not in card.content
    assert recorded["candidates_hash"] in card.content


def test_a_part_of_the_users_has_a_hash_of_its_own(job, tmp_path):
    part = job(tmp_path / "part", "method=popularity", "eval.max_users=7")
    shared = export_data(str(part), tmp_path / "shared").path
    rows = load_dataset(str(shared), "candidates_uniform", split="test", cache_dir=str(tmp_path / "hf"))
    (recorded,) = json.loads((shared / "protocol.json").read_text())["sets"].values()
    digests = [row_digest(row["user_id"], row["target"], row["candidates"]) for row in rows]
    assert len(rows) == 7
    assert combine_digests(digests) == recorded["rows_hash"] != recorded["candidates_hash"]


def test_reasoning_that_is_gone_is_not_written_again_under_its_name(job, tmp_path):
    own = tmp_path / "cache"
    run = job(tmp_path / "run", "cot_policy=refined", "mix_ratio=0.5", "method=sft", f"cache_dir={own}")
    assert "reasoning.parquet" in export_data(str(run), tmp_path / "kept").rows
    shutil.rmtree(own)
    with pytest.raises(UserError, match="no longer in cache_dir"):
        export_data(str(run), tmp_path / "gone")
    shutil.rmtree(own)  # the refused command has written them
    assert "reasoning.parquet" not in export_data(str(run), tmp_path / "without", reasoning=False).rows


def test_what_is_refused(run, job, command, tmp_path):
    assert "datasets export run=DIR out=DIR" in command("datasets", cwd=tmp_path).stderr
    taken = tmp_path / "taken"
    taken.mkdir()
    with pytest.raises(UserError, match="no earlier export"):
        export_data(str(run), taken)
    full = job(tmp_path / "full", "method=popularity", "eval.num_negatives=full")
    with pytest.raises(UserError, match="no candidate sets"):
        export_data(str(full), tmp_path / "out")
    metrics = json.loads((full / "metrics.json").read_text())
    assert metrics["protocol"]["users"] > 0
    assert not (tmp_path / "out").exists()


def test_only_push_sends_it_as_a_dataset(run, command, tmp_path, hub):
    done = command("datasets", "export", f"run={run}", "out=sent", "push=me/shared", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert hub["created"]["type"] == "dataset"
    assert any("/api/datasets/" in path for path in hub["paths"])
    assert "candidates/test-uniform.parquet" in hub["files"]
