"""Training-Free GRPO through the commands: the experience is a file of the run, and every later ranking shows it."""

from __future__ import annotations

import json

import pytest

from mllmrec.experience.library import Library
from mllmrec.jobs.finished_run import open_run


def test_the_run_writes_experience_and_its_evaluation_shows_it(command, tmp_path, cache):
    run = command(
        "train",
        *("debug=fast", "variant=training_free", "method.phases=[warmup,sft,training_free]"),
        *("heldout.keep=last", "dataset.num_users=60", "dataset.num_items=40", "backbone.hidden_size=32"),
        *("backbone.num_layers=2", "eval.weighting=uniform", "experience.least_groups=1"),
        *(f"cache_dir={cache}", "hydra.run.dir=run"),
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr
    texts = Library.read(tmp_path / "run" / "experience" / "training_free.json").texts
    assert texts
    opened = open_run(str(tmp_path / "run"), None)
    assert opened.prepared.train[0].prompt.startswith(f"Experience {opened.prepared.builder.clean(texts[0])}")
    assert open_run(str(tmp_path / "run"), "sft").prepared.builder.experience == ()
    again = command("evaluate", "run=run", "hydra.run.dir=again", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    first, second = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("run", "again"))
    assert second["stages"]["training_free"] == first["stages"]["training_free"]
    assert list(first["stages"]) == ["zero_shot", "warmup", "sft", "training_free"]


@pytest.mark.parametrize("phases", ["training_free", "sft,training_free"])
def test_an_adapter_is_read_only_of_phases_that_trained_one(job, adapters, tmp_path, phases):
    folder = job(
        tmp_path / "run",
        *adapters,
        *(f"method.phases=[{phases}]", "training_free.max_steps=1", "training_free.prompts_per_step=4"),
        *(
            "training_free.most_tokens=200",
            "caption=none",
            "mix_ratio=0",
            "experience.least_groups=1",
            "heldout.users=0",
        ),
        small=False,
    )
    assert not (folder / "adapters" / "training_free").exists()
    run = open_run(str(folder), None)
    assert run.policy.phases == phases.split(",")[:-1]
    assert run.prepared.builder.experience == Library.read(folder / "experience" / "training_free.json").texts
