from __future__ import annotations

import inspect
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

import mllmrec
from mllmrec import ConfigError, Recommender, UserError, load_run, report, train

# The settings of the ``job`` fixture.
SMALL = (
    "dataset.num_users=60 dataset.num_items=40 backbone.hidden_size=32 backbone.num_layers=2 backbone.vocabulary=400 "
    "warmup.max_steps=3 sft.max_steps=4 grpo.max_steps=3 grpo.prompts_per_step=4 grpo.group_size=4 heldout.users=10 "
    "heldout.every=2 eval.resamples=50 eval.weighting=uniform logger=none"
)


@pytest.fixture(scope="module")
def run(cache, tmp_path_factory):
    return train(f"{SMALL} cache_dir={cache}", folder=tmp_path_factory.mktemp("api") / "a run, of mine")


def test_a_run_trained_here_is_that_of_the_command(run, job, tmp_path):
    of_command = load_run(job(tmp_path / "command"))
    assert run.metrics["stages"] == of_command.metrics["stages"]
    assert (run.stages, run.unfinished) == (["zero_shot", "warmup", "sft", "grpo"], None)
    assert run.settings.grpo.group_size == 4
    assert repr(run).startswith("LoadedRun('")
    assert run.record.group_choices["dataset"] == "synthetic"


def test_results_per_user_are_those_of_the_metrics(run):
    table = run.per_user()
    assert len(table) == 60
    assert np.mean(table["rank"] <= 3) == pytest.approx(run.metrics["stages"]["grpo"]["HR@3"], abs=1e-6)
    first = table.iloc[0]
    assert first["ranking"][int(first["rank"]) - 1] == first["target_id"]
    with pytest.raises(UserError, match="has no phase dpo; it has"):
        run.per_user("dpo")


def test_a_recommender_ranks_as_the_command_prints(run, command, tmp_path):
    recommender = run.recommender()
    assert isinstance(recommender, Recommender)
    ranked = recommender.rank([3, "1"], k=4)
    printed = command("recommend", f"run='{run.path}'", "history=[3,1]", "top=4", cwd=tmp_path).stdout
    rows = re.findall(r"^│ +(\d+) │ (\S+) +│ (.+?) +│ +(-?[\d.]+) │$", printed, flags=re.MULTILINE)
    assert [(item, title, f"{score:.3f}") for item, title, score in ranked] == [row[1:] for row in rows]
    assert recommender.score_name == "log-probability"
    some = recommender.rank(["3", "1"], candidates=["5", "9", "12"])
    assert {place.item for place in some} == {"5", "9", "12"}
    assert [place.score for place in some] == sorted((place.score for place in some), reverse=True)
    assert some[0].title
    user = str(run.per_user()["user_id"][0])
    items = set(recommender.run.prepared.builder.ids)
    assert {place.item for place in recommender.rank_for(user, k=None)} < items
    with pytest.raises(UserError, match="unknown item ids: x"):
        recommender.rank(["x"])


def test_threads_that_share_a_recommender_get_the_rankings_of_one(run):
    recommender, histories = run.recommender(), [[item] for item in "12345678"]
    alone = [recommender.rank(history, k=None) for history in histories]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # threads take turns in the middle of a pass
    try:
        with ThreadPoolExecutor(2) as pool:
            together = [*pool.map(lambda history: recommender.rank(history, k=None), histories)]
    finally:
        sys.setswitchinterval(interval)
    assert together == alone


def test_a_run_is_exported_and_reported_on(run, tmp_path):
    assert run.export(tmp_path / "model").difference < 1e-5
    page = report(run.path, tmp_path / "report", name="Mine", stage="sft")
    assert "Mine" in page.read_text(encoding="utf-8")
    with pytest.raises(UserError, match="colour: a report cannot be asked this"):
        report([run.path], tmp_path / "report", colour="red")


def test_wrong_settings_are_told_together_and_nothing_is_left(tmp_path):
    mine = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    with pytest.raises(ConfigError) as raised:
        train("grpo.group_size=0 datset=movielens", folder=tmp_path / "run")
    assert len(raised.value.faults) == 2
    with pytest.raises(UserError, match=r"seed=0,1: gives several values"):
        train(["seed=0,1"], folder=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
    assert (GlobalHydra.instance().hydra, HydraConfig.instance().cfg) == mine


def test_no_run_there(tmp_path):
    with pytest.raises(UserError, match="no finished run"):
        load_run(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


def test_names_are_those_promised_and_mean_one_thing_whatever_was_imported_before():
    code = (
        "import sys, mllmrec\n"
        "heavy = {'torch', 'numpy', 'hydra', 'pandas', 'transformers'} & set(sys.modules)\n"
        "from mllmrec import train, report, load_run\n"
        "import mllmrec.train as later, mllmrec.report\n"
        "assert later is train and mllmrec.report is report and callable(report), 'modules and functions differ'\n"
        "assert not heavy | ({'torch', 'hydra'} & set(sys.modules)), heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in mllmrec.__all__:
        assert getattr(mllmrec, name) is not None
        assert name in dir(mllmrec)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mllmrec.nothing
    from mllmrec import api

    for command, function in ((train, api.train), (report, api.report)):
        called = inspect.signature(type(command).__call__)
        assert [*called.parameters][1:] == [*inspect.signature(function).parameters]
