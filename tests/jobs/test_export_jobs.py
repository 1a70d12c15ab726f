from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from huggingface_hub import ModelCard
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM, AutoTokenizer

from mllmrec.errors import UserError
from mllmrec.exporting.folder import Form, export_run, refuse_foreign
from mllmrec.exporting.rank import answers_of, described, log_probabilities, prompt_of
from mllmrec.jobs.finished_run import open_run
from mllmrec.jobs.recommendation import rank_items


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def scratch(job, folders):
    """A run of a model from scratch."""
    return folders / "scratch" if (folders / "scratch").exists() else job(folders / "scratch")


@pytest.fixture
def stacked(job, folders, adapters):
    """A run with GRPO's adapter on SFT's. Large steps, so that both matter."""
    if (folders / "stacked").exists():
        return folders / "stacked"
    large = ("sft.learning_rate=0.02", "grpo.learning_rate=0.02", "grpo.beta=0", "heldout.users=0")
    return job(folders / "stacked", *adapters, *large, small=False)


def ranked(run, history, candidates):
    """The run's own scores of candidates, by item id."""
    opened = open_run(str(run), None)
    codes = [opened.prepared.builder.ids.index(item) for item in history]
    found = rank_items(opened, codes, set(), candidates=candidates)
    return {opened.prepared.builder.ids[item]: score for item, score in found}


def without_us(folder, *arguments):
    """What the exported script prints in a process that cannot import mllmrec: item id → score, best first."""
    code = (
        "import runpy, sys; sys.modules['mllmrec'] = None; sys.argv = sys.argv[1:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder / "rank.py"), *arguments],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    return {item: float(score) for _, item, score, _ in rows}


@pytest.mark.parametrize(("run", "merge"), [("scratch", True), ("stacked", True), ("stacked", False)])
def test_an_export_ranks_as_the_run_does_without_this_package(run, merge, request, tmp_path):
    run, out = request.getfixturevalue(run), tmp_path / "model"
    done = export_run(str(run), out, form=Form(merge=merge))
    assert done.stage == "grpo"
    assert done.difference < 1e-5
    some = described(out)["example"]
    # In another order and with another history than the enclosed example.
    history, candidates = some["candidates"][:1] + some["history"][:1], some["candidates"][:0:-1]
    count = len(candidates)
    known = ranked(run, history, candidates)
    found = without_us(out, "--history", *history, "--candidates", *candidates)
    assert list(found) == list(known)
    assert len(found) == count > 1
    assert found == pytest.approx(known, abs=1e-5)


def test_an_export_shows_the_details_that_prompts_show(job, tmp_path):
    ratings, items = tmp_path / "ratings.csv", tmp_path / "items.csv"
    lines = [f"u{user},{(user + step) % 30},{step}" for user in range(40) for step in range(8)]
    ratings.write_text("user_id,item_id,timestamp\n" + "\n".join(lines) + "\n")
    lines = [f"{item},Title {item},{'Drama' if item % 2 else ''}" for item in range(30)]
    items.write_text("item_id,title,genre\n" + "\n".join(lines) + "\n")
    data = ["dataset=tabular", f"dataset.interactions={ratings}", f"dataset.items={items}"]
    shown = ["dataset.details_columns=[genre]", "prompt.max_detail_words=0", "caption=none"]
    plain = ["cot_policy=none", "mix_ratio=0", "method=sft", "warmup.max_steps=3"]
    size = ["backbone.hidden_size=32", "backbone.num_layers=2", "backbone.vocabulary=400"]
    run = job(tmp_path / "run", *data, *shown, *plain, *size, small=False)
    done = export_run(str(run), tmp_path / "model")
    assert done.difference < 1e-5
    about = described(done.path)
    assert {item["id"]: item["details"] for item in about["items"]}["7"] == "Drama"
    prompt = prompt_of(about, ["7", "8"], about["example"]["candidates"])
    assert "[ITEM_7] Title 7 Drama [ITEM_8] Title 8 Candidates" in prompt


def test_the_last_adapter_alone_would_have_been_found_out(stacked, tmp_path, monkeypatch):
    def alone(policy, dtype):
        return policy.model, policy.phases[-1]

    monkeypatch.setattr("mllmrec.exporting.folder.one_adapter", alone)
    with pytest.raises(RuntimeError, match="not the run's policy"):
        export_run(str(stacked), tmp_path / "adapter", form=Form(merge=False))
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_phase_and_another_dtype(stacked, tmp_path):
    done = export_run(str(stacked), tmp_path / "sft", "sft", Form(dtype="bfloat16"))
    model = AutoModelForCausalLM.from_pretrained(done.path, dtype="auto")
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    about = described(done.path)
    assert about["weights"] == {"merged": True, "dtype": "bfloat16", "phases": ["sft"], "stage": "sft"}
    assert 1e-5 < done.difference < 0.5
    tokenizer = AutoTokenizer.from_pretrained(done.path)
    assert tokenizer.chat_template
    assert (model.generation_config.do_sample, model.generation_config.eos_token_id) == (
        False,
        tokenizer.eos_token_id,
    )
    told = tokenizer.apply_chat_template(
        [{"role": "user", "content": about["example"]["prompt"]}],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=False,
    )
    assert told == about["example"]["text"]
    assert told == about["chat"]["before"] + about["example"]["prompt"] + about["chat"]["after"]


@pytest.mark.parametrize(
    ("label", "answer"), [("letter", "id"), ("number", "id_title"), ("none", "id_title")]
)
def test_prompts_and_answers_of_every_label_form_are_described(job, tmp_path, adapters, label, answer):
    form = [
        f"prompt.label={label}",
        f"prompt.answer={answer}",
        "prompt.template=instruct",
        "prompt.system=Be brief.",
    ]
    # The small model holds 512 tokens, which are little more than letters.
    short = ["caption=none", "cot_policy=none", "mix_ratio=0", "prompt.max_title_words=2"]
    quick = ["method=sft", "sft.max_steps=1", "heldout.users=0"]
    run = job(tmp_path / "run", *adapters, *form, *short, *quick, small=False)
    done = export_run(str(run), tmp_path / "model")
    about, opened = described(done.path), open_run(str(run), None)
    builder, some = opened.prepared.builder, about["example"]
    history, candidates = (
        [builder.ids.index(item) for item in some[key]] for key in ("history", "candidates")
    )
    history, candidates = candidates[::-1] + history, candidates[1:] + history[:1]
    ids = [[builder.ids[item] for item in items] for items in (history, candidates)]
    shown = history[-opened.prepared.history_length :]
    assert len(candidates) <= opened.prepared.trained_list < len(history)
    assert prompt_of(about, *ids) == builder.prompt(shown, candidates)
    assert answers_of(about, ids[1]) == [builder.answer(item, place) for place, item in enumerate(candidates)]
    model = AutoModelForCausalLM.from_pretrained(done.path)
    tokenizer = AutoTokenizer.from_pretrained(done.path)
    text = about["chat"]["before"] + prompt_of(about, *ids) + about["chat"]["after"]
    assert text == opened.policy.render(builder.prompt(shown, candidates))
    found = log_probabilities(model, tokenizer, about, text, answers_of(about, ids[1]))
    assert found == pytest.approx(opened.scores(history, candidates, listed=True).tolist(), abs=1e-5)


def test_the_card_tells_what_the_run_measured_and_no_path(stacked, tmp_path):
    export_run(str(stacked), tmp_path / "model", form=Form(check=False))
    card = ModelCard.load(tmp_path / "model" / "README.md")
    metrics = json.loads((stacked / "metrics.json").read_text())
    (result,) = [one for one in card.data.eval_results if one.metric_type == "NDCG@3"]
    assert result.metric_value == metrics["stages"]["grpo"]["NDCG@3"]
    low, high = metrics["intervals"]["grpo"]["NDCG@3"]
    (line,) = [line for line in card.text.splitlines() if line.startswith("| NDCG@3 |")]
    assert line.endswith(f" {result.metric_value:.3f} [{low:.3f}, {high:.3f}] |")
    for part in (
        "n = 10 users",
        "60 users",
        "python -m mllmrec.train",
        "arXiv",
        "## Limits",
        "seed 0",
        "peft ",
    ):
        assert part in card.text, part
    assert "learning_rate: 0.02" in card.text
    for place in (tmp_path.anchor + "tmp", str(stacked.parent), str(tmp_path.parent)):
        assert place not in (tmp_path / "model" / "README.md").read_text()
    assert card.data.base_model is None  # a folder of this machine


def test_the_command_and_what_it_refuses(stacked, command, tmp_path):
    def export(*arguments):
        return command("export", f"run={stacked}", *arguments, cwd=tmp_path)

    done = export("out=model")
    assert done.returncode == 0, done.stderr
    assert "the policy after grpo: model" in done.stdout.splitlines()
    assert "differ from the run's by at most" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    kept = (tmp_path / "model" / "mllmrec.json").read_bytes()
    (tmp_path / "mine").mkdir()
    for arguments, message in (
        (["out=model"], "holds an export: choose another folder, or replace it with overwrite=true"),
        (["out=mine", "overwrite=true"], "exists and is no earlier export"),
        (["out=new", "dtype=int8"], "dtype=int8"),
        (["out=new", "stage=warmup"], "no phase warmup"),
        (["out=new", "push=a/b/c"], "push=a/b/c is no name of a repository"),
        (["out=new", "merge=false", "push=me/model"], "a folder of this machine"),
    ):
        refused = export(*arguments)
        assert refused.returncode == 2, arguments
        assert message in refused.stderr
        assert "Traceback" not in refused.stderr
        assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "model"]
    assert (tmp_path / "model" / "mllmrec.json").read_bytes() == kept
    assert export("out=model", "overwrite=true", "stage=sft", "check=false").returncode == 0
    assert described(tmp_path / "model")["weights"]["stage"] == "sft"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "model"]


def test_runs_without_a_plain_language_model_are_refused_with_a_sentence(job, scratch, tmp_path):
    popularity = job(tmp_path / "popularity", "method=popularity")
    with pytest.raises(UserError, match="method=popularity, which has no language model to export"):
        export_run(str(popularity), tmp_path / "model")
    with pytest.raises(UserError, match="trained all weights and has no adapters: set merge=true"):
        export_run(str(scratch), tmp_path / "model", form=Form(merge=False))
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("settings", "merge", "why"),
    [
        ({"prompt": {"item_tokens": "vector"}}, True, "prompt.item_tokens=vector.* cannot be exported"),
        ({"prompt": {"item_tokens": "image"}}, False, "prompt.item_tokens=image.* cannot be exported"),
        (
            {"backbone": {"quantization": "4bit", "lora": {"rank": 8}}},
            True,
            "quantization=4bit.*set merge=false",
        ),
    ],
)
def test_what_plain_libraries_could_not_load_is_refused(settings, merge, why):
    cfg = OmegaConf.create({"method": {"recommender": None}, "prompt": {}, "backbone": {}, **settings})
    with pytest.raises(UserError, match=why):
        refuse_foreign("DIR", cfg, Form(merge=merge))


def test_only_push_sends_the_folder(scratch, command, tmp_path, hub):
    arguments = (f"run={scratch}", "check=false")
    assert command("export", *arguments, "out=kept", cwd=tmp_path).returncode == 0
    assert hub["paths"] == []
    done = command("export", *arguments, "out=sent", "push=me/model", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("sent: http://127.0.0.1")
    assert hub["created"]["name"] == "model"
    assert hub["created"].get("visibility", hub["created"].get("private")) in ("private", True)
    assert set(hub["files"]) == {path.name for path in (tmp_path / "sent").iterdir()}
    hub["status"] = 403
    failed = command("export", *arguments, "out=again", "push=me/model", cwd=tmp_path)
    assert failed.returncode == 2
    assert "push=me/model failed" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert described(tmp_path / "again")["weights"]["merged"]
