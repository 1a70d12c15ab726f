from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from mllmrec.errors import ConfigError
from mllmrec.tune import main
from mllmrec.tuning.plan import plan

pytest.importorskip("optuna", reason="pip install 'mllmrec[tune]'")
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

HERE = ["hydra.sweep.dir=here", "trainer=cpu"]


def test_axes_are_hydras_words() -> None:
    search = plan(
        [
            *HERE,
            "grpo.learning_rate=tag(log,interval(1e-5,1e-3))",
            "grpo.beta=interval(0,1)",  # whole ends, but the setting is no whole number
            "grpo.group_size=interval(4,16)",
            "prompt.history_length=range(3,10,3)",
            "advantage=grpo,rloo",
            "grpo.prompts_per_step=choice(4,8)",
            "sft.max_steps=7",
            "trials=3",
            "study.seed=5",
        ]
    )
    assert {axis.key: axis.distribution for axis in search.axes} == {
        "grpo.learning_rate": FloatDistribution(1e-5, 1e-3, log=True),
        "grpo.beta": FloatDistribution(0.0, 1.0),
        "grpo.group_size": IntDistribution(4, 16),
        "prompt.history_length": IntDistribution(3, 9, step=3),
        "advantage": CategoricalDistribution(["grpo", "rloo"]),
        "grpo.prompts_per_step": CategoricalDistribution(["4", "8"]),
    }
    assert search.fixed == [*HERE, "sft.max_steps=7"]
    assert (search.settings.trials, search.settings.study.seed, search.metric) == (3, 5, "NDCG@3")


def test_the_command_line_replaces_an_axis_of_the_file_and_names_the_folder() -> None:
    search = plan(["search=grpo", "scale=small", "grpo.beta=0.05", "grpo.group_size=2,4"])
    assert {axis.key: axis.text for axis in search.axes} == {
        "grpo.learning_rate": "tag(log,interval(1e-5,1e-3))",
        "grpo.group_size": "2,4",
    }
    assert search.fixed == ["search=grpo", "scale=small", "grpo.beta=0.05"]
    assert str(search.folder) == "searches/grpo-small"


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (["seed=0,1"], "seed=0,1: trials that differ in it are measured differently"),
        (["dataset.num_users=60,90"], "dataset.num_users=60,90: trials that differ"),
        (["eval.num_negatives=9,99"], "eval.num_negatives=9,99: trials that differ"),
        (["sft.max_steps=3"], "nothing is varied: choose a search"),
        (["sft.max_steps=3,4", "eval.split=test"], "no test user chooses anything"),
        (["sft.max_steps=3,4", "trials=0"], "trials=0: must be a whole number of at least 1"),
        (["sft.max_steps=3,4", "study.sede=1"], "study.sede=1: no such setting"),
        (["sft.max_stesp=3,4"], "did you mean sft.max_steps"),
        (["search=gpro"], "did you mean grpo"),
        (
            ["sft.max_steps=3,4", "study.pruner._target_=optuna.pruners.Nope"],
            "study.pruner._target_=optuna.pruners.Nope: ",
        ),
    ],
)
def test_what_cannot_be_searched_is_refused(given: list[str], fault: str) -> None:
    with pytest.raises(ConfigError) as raised:
        plan([*HERE, *given])
    assert fault in str(raised.value)


def test_a_search_without_a_name_asks_for_a_folder(capsys) -> None:
    assert main(["sft.max_steps=3,4", "trainer=cpu"]) == 2
    assert "add hydra.sweep.dir=FOLDER" in capsys.readouterr().err


def test_optuna_is_asked_for(monkeypatch, capsys) -> None:
    monkeypatch.setattr("mllmrec.tuning.command.find_spec", lambda name: None)
    assert main(["search=grpo"]) == 2
    assert "pip install 'mllmrec[tune]'" in capsys.readouterr().err


ROOT = Path(__file__).parents[2]
TYPED = [
    line.split(" ", 3)[3]
    for page in ("README.md", "docs/sweeps.md")
    for line in (ROOT / page).read_text(encoding="utf-8").splitlines()
    if line.startswith("python -m mllmrec.tune")
]


@pytest.mark.parametrize("typed", dict.fromkeys(TYPED))
def test_the_commands_of_the_pages_are_planned(typed: str) -> None:
    assert plan(shlex.split(typed)).axes
