from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from mllmrec.errors import UserError
from mllmrec.evaluation.protocols import Place, Protocols, main_protocol
from mllmrec.jobs.finished_run import FinishedRun, open_run
from mllmrec.jobs.recommendation import history_of, rank_items, rank_together, score_name, wanted
from mllmrec.phases.run import train_phase
from mllmrec.reporting.rows import group_runs
from mllmrec.reporting.runs import find_jobs
from mllmrec.run.folder import RunFolder
from mllmrec.run.job_folder import alone_in


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("finished") / "run"


@pytest.fixture
def finished(job, run_folder):
    if not run_folder.exists():
        job(run_folder)
    return run_folder


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_a_reopened_policy_ranks_as_it_did(finished, tmp_path, stage):
    run = open_run(str(finished), stage)
    again = RunFolder(tmp_path / "again")
    protocol = main_protocol(run.cfg.eval, "uniform", run.cfg.protocol_seed, run.prepared)
    again.record_protocol(protocol.describe(), protocol.chance())
    Place(protocol, again.path).record(stage, lambda: run.ranker(protocol))
    before = {
        r["user_id"]: r["ranking"]
        for r in pq.read_table(finished / "per_user.parquet").to_pylist()
        if r["stage"] == stage
    }
    after = {r["user_id"]: r["ranking"] for r in pq.read_table(again.per_user_path).to_pylist()}
    assert before == after


@pytest.mark.parametrize("asks", [True, False])
def test_a_policy_that_learnt_to_reason_is_asked_to_by_recommendations_too(finished, monkeypatch, asks):
    run = open_run(str(finished), None)
    run = replace(run, prepared=replace(run.prepared, asks=asks))
    prompts = []
    monkeypatch.setattr(
        "mllmrec.jobs.finished_run.candidate_scores",
        lambda policy, answers, examples, **how: prompts.append(examples[0].prompt) or np.zeros((1, 2)),
    )
    run.scores([0, 1, 2], [3, 4], listed=True)
    assert (run.prepared.builder.template.think in prompts[0]) == asks


def test_a_policy_that_learnt_lists_is_asked_which_item_it_names_first(finished, monkeypatch):
    run = open_run(str(finished), None)
    scored = []
    monkeypatch.setattr(
        "mllmrec.jobs.finished_run.candidate_scores",
        lambda policy, answers, examples, **how: scored.append(answers.of(3)) or np.zeros((1, 2)),
    )
    run.scores([0, 1, 2], [3, 4], listed=True)
    assert scored[-1] == run.answers.of(3)
    monkeypatch.setattr(run.prepared.builder, "places", 5)
    run = replace(run)
    run.scores([0, 1, 2], [3, 4], listed=True)
    assert [scored[-1]] == run.policy.encode_answers([f"1. {run.prepared.builder.answer(3)}\n2."])


@pytest.mark.parametrize("asked", [{"calibrate": "history"}, {"calibrate": "permute", "orders": 2}])
def test_recommendations_are_corrected_as_evaluations_are(finished, asked):
    run = open_run(str(finished), None)
    corrected = replace(run, cfg=OmegaConf.merge(run.cfg, {"eval": asked}))
    assert (score_name(run), score_name(corrected)) == ("log-probability", "score")
    plain = run.scores([0, 1, 2], [3, 4], listed=True)
    found = corrected.scores([0, 1, 2], [3, 4], listed=True)
    if asked["calibrate"] == "history":
        np.testing.assert_allclose(found, plain - run.scores([], [3, 4], listed=True), atol=1e-4)
    else:
        turned = run.scores([0, 1, 2], [4, 3], listed=True)[::-1]
        np.testing.assert_allclose(found, (plain + turned) / 2, atol=1e-4)


def test_orders_of_a_list_that_is_not_shown_are_not_scored(finished):
    run = open_run(str(finished), None)
    corrected = replace(run, cfg=OmegaConf.merge(run.cfg, {"eval": {"calibrate": "permute"}}))
    found = corrected.scores([0, 1, 2], [3, 4], listed=False)
    assert found.tolist() == run.scores([0, 1, 2], [3, 4], listed=False).tolist()


def test_another_number_of_candidates_is_another_protocol(finished):
    run = open_run(str(finished), None)
    settings = OmegaConf.merge(run.cfg.eval, {"num_negatives": 20, "split": "validation"})
    protocol = main_protocol(settings, "uniform", run.cfg.protocol_seed, run.prepared)
    assert protocol.describe()["num_candidates"] == 21
    assert protocol.describe()["split"] == "validation"
    assert protocol.describe()["listed"] == "10 at a time"
    measured = protocol.measure(run.ranker(protocol))
    assert 0 <= measured["HR@1"] <= measured["HR@10"] <= 1


def test_no_prompt_of_another_protocol_lists_more_than_those_of_the_training(finished, monkeypatch):
    run = open_run(str(finished), None)
    lists = []
    read = run.policy.prompt_batch

    def prompt_batch(prompts):
        lists.extend(prompt.partition("Candidates")[2].count("[ITEM_") for prompt in prompts)
        return read(prompts)

    monkeypatch.setattr(run.policy, "prompt_batch", prompt_batch)
    for negatives, expected in ((9, {10}), (20, {7}), ("full", {0})):
        settings = OmegaConf.merge(run.cfg.eval, {"num_negatives": negatives, "max_users": 10})
        protocol = main_protocol(settings, "uniform", run.cfg.protocol_seed, run.prepared)
        protocol.measure(run.ranker(protocol))
        assert set(lists) == expected
        lists.clear()


def test_lists_longer_than_those_of_the_training_are_warned_of(finished, tmp_path, caplog):
    run = open_run(str(finished), None)
    for negatives, warned in ((9, 0), (20, 1)):
        caplog.clear()
        settings = OmegaConf.merge(run.cfg.eval, {"num_negatives": negatives, "listing": "all"})
        protocol = main_protocol(settings, "uniform", run.cfg.protocol_seed, run.prepared)
        score, likelihood = (Protocols(protocol, None, RunFolder(tmp_path / f"{n}{negatives}")) for n in "ab")
        score.describe("score")  # for a recommender that reads no prompt
        assert not caplog.messages
        assert "listed" not in score.places[0].folder.metrics()["protocol"]
        likelihood.describe()
        assert len(caplog.messages) == warned
        listed = likelihood.places[0].folder.metrics()["protocol"]["listed"]
        assert (listed == "all, though training prompts list 10") == bool(warned)


def test_rankings_under_another_protocol_are_reported_together(finished, command, tmp_path):
    for stage in ("sft", "grpo"):
        again = ["eval.num_negatives=20", "eval.max_users=15", f"hydra.run.dir=again/{stage}"]
        done = command("evaluate", f"run={finished}", f"stage={stage}", *again, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    jobs = find_jobs(tmp_path / "again")
    assert (len(jobs.runs), jobs.unfinished) == (2, [])
    assert {run.protocol["num_candidates"] for run in jobs.runs} == {21}
    assert {row.label for row in group_runs(jobs.runs).rows} == {"sft", "grpo"}
    # The time of a ranking is not part of the policy's cost.
    assert [run.seconds() for run in jobs.runs] == [None, None]


def test_an_evaluation_never_takes_the_place_of_its_run_or_of_another_one(finished, command, tmp_path):
    files = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}

    def evaluate(folder, *overrides):
        settings = [f"run={finished}", "eval.max_users=15", f"hydra.run.dir={folder}"]
        return command("evaluate", *settings, *overrides, cwd=tmp_path)

    own = evaluate(finished, "overwrite=true")
    assert (own.returncode, own.stderr.count("\n")) == (2, 1)
    assert "is the run itself" in own.stderr
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert evaluate("evaluation", "overwrite=true").returncode == 0
    kept = (tmp_path / "evaluation" / "metrics.json").read_bytes()
    again = evaluate("evaluation", "overwrite=false", "eval.num_negatives=20")
    assert again.returncode == 2
    assert "holds a finished run" in again.stderr
    assert (tmp_path / "evaluation" / "metrics.json").read_bytes() == kept


def test_recommendations_exclude_what_the_user_has_and_are_ordered(finished):
    run = open_run(str(finished), None)
    user = str(run.prepared.interactions.user_ids[3])
    history, excluded, _ = history_of(run.prepared, user, None)
    first = [item for item, _ in rank_items(run, history, excluded)]
    for shortlist in (0, 8):
        ranked = rank_items(run, history, excluded, shortlist=shortlist)
        items = [item for item, _ in ranked]
        assert sorted(items) == sorted(set(range(40)) - excluded)
        assert set(items[:shortlist]) == set(first[:shortlist])
        assert items[shortlist:] == first[shortlist:]
        for scores in ([score for _, score in part] for part in (ranked[:shortlist], ranked[shortlist:])):
            assert scores == sorted(scores, reverse=True)


def test_more_candidates_than_training_prompts_list_are_recommended_in_two_rounds(finished, monkeypatch):
    run = open_run(str(finished), None)
    asked = []
    scored = FinishedRun.scored
    monkeypatch.setattr(
        FinishedRun,
        "scored",
        lambda run, queries: (
            asked.extend((len(one.items), one.listed) for one in queries) or scored(run, queries)
        ),
    )
    for count in (10, 11):  # training prompts list ten
        rank_items(run, [0, 1], set(), candidates=run.prepared.builder.ids[:count], shortlist=10)
    assert asked == [(10, True), (11, False), (10, True)]


def test_rankings_asked_for_together_are_those_asked_for_alone(finished):
    run = open_run(str(finished), None)
    asked = [
        wanted(run, [0, 1], {0, 1}, shortlist=10),
        wanted(run, [5], set(), candidates=[3, 1, 2]),
        wanted(run, [7, 8, 9, 10], set(), candidates=range(12), shortlist=0),
        wanted(run, [4, 5, 6], {4, 5, 6}, shortlist=4),
    ]
    for one, ranked in zip(asked, rank_together(run, asked), strict=True):
        (alone,) = rank_together(run, [one])
        assert ranked.items.tolist() == alone.items.tolist()
        np.testing.assert_allclose(ranked.scores, alone.scores, atol=1e-5)


def test_a_history_that_has_the_whole_catalogue_leaves_nothing_to_recommend(finished):
    run = open_run(str(finished), None)
    with pytest.raises(UserError, match="no item is left to recommend"):
        rank_items(run, range(40), {*range(40)})


def test_a_history_typed_in_and_chosen_candidates(finished):
    run = open_run(str(finished), None)
    ids = run.prepared.builder.ids
    history, excluded, _ = history_of(run.prepared, None, [ids[0], ids[5]])
    ranked = rank_items(run, history, excluded, candidates=[ids[1], ids[2], ids[3]])
    assert sorted(item for item, _ in ranked) == [1, 2, 3]
    # whole catalogue: label probabilities are those of one softmax, so they sum to at most 1
    whole = rank_items(run, history, excluded)
    assert np.exp([score for _, score in whole]).sum() <= 1 + 1e-6


@pytest.mark.parametrize(
    ("user", "history", "message"),
    [
        ("nobody", None, "user=nobody is not in the data"),
        (None, ["no-such-item"], "unknown item ids: no-such-item"),
        (None, None, "either user=ID or history"),
        ("1", ["1"], "either user=ID or history"),
    ],
)
def test_wrong_requests_say_what_to_do(finished, user, history, message):
    run = open_run(str(finished), None)
    with pytest.raises(UserError, match=message):
        history_of(run.prepared, user, history)


def test_no_such_run_or_stage(finished, tmp_path):
    with pytest.raises(UserError, match="no finished run"):
        open_run(str(tmp_path), None)
    with pytest.raises(UserError, match="no phase warmup; it has grpo or sft"):
        open_run(str(finished), "warmup")


def test_a_run_that_did_not_come_to_its_end_says_so_and_which_weights_are_used(
    job, tmp_path, caplog, monkeypatch
):
    def train_all_but_grpo(inputs, *given):
        if inputs.phase.name == "grpo":
            raise MemoryError("no memory for rollouts")
        return train_phase(inputs, *given)

    monkeypatch.setattr("mllmrec.jobs.language_model.train_phase", train_all_but_grpo)
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(MemoryError):
        job(folder.path, "heldout.users=0")
    used = "it has weights of sft; the weights after sft are used"

    def told() -> str:
        caplog.clear()
        assert open_run(str(folder.path), None).stage == "sft"
        (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        return line

    assert told().startswith(f"{folder.path} did not finish (it ended early: MemoryError: no memory")
    with alone_in(folder):
        assert told() == f"{folder.path} did not finish (it is still running): {used}"
    folder.failed_path.unlink()
    assert told() == f"{folder.path} did not finish (it was killed): {used}"
    with pytest.raises(UserError, match=r"has no phase grpo; it has sft \(it was killed\)"):
        open_run(str(folder.path), "grpo")
    folder.metrics_path.write_text('{"stages": {"zero_shot": {}}}', encoding="utf-8")
    with pytest.raises(UserError, match=r"holds no trained phase \(it was killed\)"):
        open_run(str(folder.path), None)


def test_a_finished_run_is_opened_without_a_warning(finished, caplog):
    open_run(str(finished), None)
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []


def test_a_run_of_a_version_that_kept_its_classes_elsewhere_is_opened(finished, tmp_path):
    old = shutil.copytree(finished, tmp_path / "old")
    settings = old / ".hydra" / "resolved.yaml"
    text = settings.read_text()
    assert "_target_: mllmrec.run.loggers.RunLoggers" in text
    settings.write_text(text.replace("mllmrec.run.loggers.RunLoggers", "mllmrec.loggers.RunLoggers"))
    assert open_run(str(old), None).cfg == open_run(str(finished), None).cfg
