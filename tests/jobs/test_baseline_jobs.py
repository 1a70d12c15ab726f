from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mllmrec.errors import UserError
from mllmrec.evaluation.protocols import Place, main_protocol
from mllmrec.jobs.finished_run import open_policy, open_run
from mllmrec.run.folder import RunFolder
from mllmrec.samples.item_texts import item_texts


def metrics_of(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def test_a_classical_method_ranks_the_candidates_of_the_language_models(job, tmp_path):
    policy = metrics_of(job(tmp_path / "policy", "method=zero_shot"))
    folder = job(tmp_path / "classical", "method=popularity")
    classical = metrics_of(folder)
    assert list(classical["stages"]) == ["popularity"]
    # What a prompt lists is of no concern to a method without prompts.
    of_prompts = ("listed", "num_listed")
    expected = {name: value for name, value in policy["protocol"].items() if name not in of_prompts}
    assert classical["protocol"] == {**expected, "ranking": "score"}
    rows = [
        {
            row["user_id"]: sorted(row["ranking"])
            for row in pq.read_table(tmp_path / name / "per_user.parquet").to_pylist()
        }
        for name in ("policy", "classical")
    ]
    assert rows[0] == rows[1]
    assert (folder / "finished.json").exists()


def test_a_finished_baseline_ranks_again_as_it_did(job, tmp_path):
    folder = job(tmp_path / "run", "method=recent", "eval.num_negatives=full")
    run = open_run(str(folder), None)
    protocol = main_protocol(run.cfg.eval, "uniform", run.cfg.protocol_seed, run.prepared)
    again = RunFolder(tmp_path / "again")
    again.record_protocol(protocol.describe(run.ranking), protocol.chance())
    Place(protocol, again.path).record("recent", lambda: run.ranker(protocol))
    assert again.metrics()["stages"] == metrics_of(folder)["stages"]
    scores = run.scores(run.prepared.samples["test"].history(0).tolist(), list(range(10)), listed=False)
    assert scores.shape == (10,)
    with pytest.raises(UserError, match="method=recent: name one that trained a language model"):
        open_policy(str(folder), None)


def test_what_recommenders_learn_from_ends_before_the_held_out_items(job, tmp_path):
    prepared = open_run(str(job(tmp_path / "run", "method=popularity")), None).prepared
    interactions = prepared.interactions
    parts = prepared.samples["train"].parts()
    assert len(parts) == interactions.num_users
    for user, part in enumerate(parts):
        # Leave-one-out: the last item is tested, the one before it validated.
        assert part.tolist() == interactions.of_user(user).tolist()[:-2]
    texts = item_texts(prepared)
    assert len(texts) == len(prepared.items)
    assert prepared.items.titles[0] in texts[0]
    assert prepared.captions[prepared.items.ids[0]] in texts[0]
