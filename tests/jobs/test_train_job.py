from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from lightning.pytorch.utilities import rank_zero_only
from peft import PeftConfig
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from mllmrec.errors import UserError
from mllmrec.jobs.finished_run import open_run
from mllmrec.run.log_rows import read_log
from mllmrec.run.rollouts import read_rollouts


def metrics_of(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def test_the_run_folder_holds_what_the_contract_says(job, tmp_path):
    folder = job(tmp_path / "run")
    metrics = metrics_of(folder)
    assert list(metrics["stages"]) == ["zero_shot", "warmup", "sft", "grpo"]
    for stage in metrics["stages"]:
        values = metrics["stages"][stage]
        assert values["HR@10"] == 1.0  # ten candidates: everyone hits within ten
        assert values["HR@1"] <= values["HR@3"] <= values["HR@5"]
        low, high = metrics["intervals"][stage]["NDCG@3"]
        assert low <= values["NDCG@3"] <= high
    assert metrics["protocol"]["num_candidates"] == 10
    assert metrics["protocol"]["users"] == 60
    assert set(metrics["differences"]) == {"warmup - zero_shot", "sft - warmup", "grpo - sft"}
    assert list(metrics["cost"]["warmup"]) == [
        "seconds",
        "generated_tokens",
        "peak_memory_mb",
        "seconds_per_step",
    ]
    assert {*metrics["cost"]["warmup"], "tokens_per_prompt"} == set(metrics["cost"]["grpo"])
    # 3 steps x 4 prompts x 4 rollouts, an id and the end token each
    assert metrics["cost"]["grpo"]["generated_tokens"] == 3 * 4 * 4 * 2

    rows = pq.read_table(folder / "per_user.parquet").to_pylist()
    # The baselines, the untrained policy and three phases, and the weights that a phase did not keep.
    apart = [stage for stage, compared in metrics["weights"].items() if "difference" in compared]
    assert len(rows) == (2 + 4 + len(apart)) * 60
    for row in rows:
        assert row["ranking"].index(row["target_id"]) + 1 == row["rank"]
        assert len(set(row["ranking"])) == row["num_candidates"] == 10

    slices = metrics["slices"]
    assert set(slices) == {"popularity", "item_knn", *metrics["stages"]}
    for stage, values in metrics["stages"].items():
        ranks = [(row["rank"], row["slices"]) for row in rows if row["stage"] == stage]
        for name, part in slices[stage].items():
            own = [rank for rank, names in ranks if name in names]
            assert part["users"] == len(own)
            assert part["few"] == (len(own) < 20)
            assert part["metrics"]["HR@1"] == pytest.approx(
                sum(rank == 1 for rank in own) / len(own), abs=1e-6
            )
        for division in (("cold", "tail", "middle", "head"), ("short", "long")):
            parts = [slices[stage][name] for name in division if name in slices[stage]]
            assert sum(part["users"] for part in parts) == 60
            mean = sum(part["users"] * part["metrics"]["NDCG@3"] for part in parts) / 60
            assert mean == pytest.approx(values["NDCG@3"], abs=2e-6)

    data = json.loads((folder / "data.json").read_text(encoding="utf-8"))
    assert data["whole"]["users"] == 60
    assert data["candidates"]["hash"]["test"] == metrics["protocol"]["candidates_hash"]
    # mix_ratio 0.1, and every sample has captions to reason from
    chosen = round(0.1 * data["samples"]["train"]["samples"])
    assert data["cot"]["training_samples_chosen"] == data["cot"]["coverage"]["matched"] == chosen > 0
    assert metrics["reasoning"] == {
        "mix_ratio": 0.1,
        "share": pytest.approx(chosen / data["samples"]["train"]["samples"], abs=1e-6),
    }

    with (folder / "log.csv").open(encoding="utf-8") as stream:
        logged = list(csv.DictReader(stream))
    grpo = [row for row in logged if row["stage"] == "grpo" and row["reward"]]
    assert len(grpo) == 3
    for name in ("reward_std", "frac_reward_zero_std", "kl", "entropy", "completions/mean_length", "loss"):
        assert grpo[0][name] != "", name
    assert float(grpo[0]["kl"]) == 0.0  # the reference is the policy at the start of the phase
    assert any(row["val/NDCG@3"] for row in logged if row["stage"] == "grpo")

    rollouts = read_rollouts(folder / "rollouts.parquet")
    assert rollouts
    assert all(rollout.completion.startswith("[ITEM_") for rollout in rollouts)
    # Three steps, two prompts of each, and four answers to each of these.
    groups = Counter((rollout.step, rollout.prompt_id) for rollout in rollouts)
    assert {step for step, _ in groups} == {0, 1, 2}
    assert list(groups.values()) == [4] * 6
    prompts = (folder / "prompts.md").read_text(encoding="utf-8")
    titles = [line for line in prompts.splitlines() if line.startswith("## ")]
    assert titles == [
        "## SFT",
        "## GRPO",
        "## Evaluation (test, uniform negatives)",
    ]
    for name in ("curves.png", "run.log", ".hydra/resolved.yaml"):
        assert (folder / name).stat().st_size > 0, name
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    assert model.config.vocab_size == len(tokenizer)


def test_the_same_seed_gives_the_same_numbers(job, tmp_path):
    first, second = metrics_of(job(tmp_path / "a")), metrics_of(job(tmp_path / "b"))
    first.pop("cost")
    second.pop("cost")
    assert first == second
    other = metrics_of(job(tmp_path / "c", "seed=1"))
    assert other["stages"]["grpo"] != first["stages"]["grpo"]
    # Runs that are compared share their candidates, whatever their seeds.
    assert other["protocol"] == first["protocol"]
    third = metrics_of(job(tmp_path / "d", "protocol_seed=1", "method=zero_shot"))
    assert third["protocol"]["candidates_hash"] != first["protocol"]["candidates_hash"]


def test_the_global_generators_are_neither_read_nor_changed(job, tmp_path):
    torch.manual_seed(1)
    first = metrics_of(job(tmp_path / "a", "method=sft"))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = metrics_of(job(tmp_path / "b", "method=sft"))
    assert first["stages"] == second["stages"]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("overrides", "stages"),
    [
        (["method=zero_shot"], ["zero_shot"]),
        (["method=grpo_only"], ["zero_shot", "warmup", "grpo"]),
        (["method=sft_more"], ["zero_shot", "warmup", "sft", "sft_more"]),
        (["method=sft", "cot_policy=none", "caption=none"], ["zero_shot", "warmup", "sft"]),
        (
            ["rollout=free", "rollout.max_new_tokens=3", "grpo.iterations=2"],
            ["zero_shot", "warmup", "sft", "grpo"],
        ),
        (["reward=release", "prompt.answer=id_title", "loss=gspo"], ["zero_shot", "warmup", "sft", "grpo"]),
        (
            ["eval.ranking=constrained", "advantage=rloo", "grpo.beta=0"],
            ["zero_shot", "warmup", "sft", "grpo"],
        ),
        (["method=sft", "eval.ranking=generate", "eval.max_new_tokens=4"], ["zero_shot", "warmup", "sft"]),
        (["method=sft", "eval.num_negatives=full", "eval.ks=[1,5]"], ["zero_shot", "warmup", "sft"]),
        (
            ["method=sft", "split.windows=sliding", "sft.loss_on=all", "mix_ratio=1"],
            ["zero_shot", "warmup", "sft"],
        ),
        (["method=sft", "sft.loss_on=candidates"], ["zero_shot", "warmup", "sft"]),
    ],
)
def test_every_choice_runs_to_the_end(job, tmp_path, overrides, stages):
    metrics = metrics_of(job(tmp_path / "run", *overrides))
    assert list(metrics["stages"]) == stages
    assert metrics["protocol"]["users"] == 60


def test_items_that_no_training_shows_are_ranked_among_each_other(job, tmp_path):
    cold = ["split=cold_items", "split.share=0.5", "candidates.num_negatives=4", "eval.ks=[1,3]"]
    folder = job(tmp_path / "run", "method=sft", "eval.weighting=both", *cold)
    for place, negatives in ((folder, "uniform cold"), (folder / "other_negatives", "popularity cold")):
        metrics = metrics_of(place)
        assert metrics["protocol"]["negatives"] == negatives
        assert list(metrics["stages"]) == ["zero_shot", "warmup", "sft"]
        for parts in metrics["slices"].values():
            assert parts["cold"]["users"] == metrics["protocol"]["users"]
            assert {"tail", "middle", "head"}.isdisjoint(parts)
    assert "sft" in metrics_of(folder)["weights"]  # validation users chose its weights


@pytest.mark.parametrize(("method", "warned"), [("sft", True), ("pointwise", False)])
def test_answers_by_ids_that_no_training_shows_are_warned_of(job, tmp_path, method, warned):
    cold = ["split=cold_items", "split.share=0.5", "candidates.num_negatives=4", "eval.ks=[1,3]"]
    folder = job(tmp_path / "run", f"method={method}", *cold)
    log = (folder / "run.log").read_text(encoding="utf-8")
    assert ("expect rankings at chance. method=pointwise" in log) == warned


def test_generated_rankings_leave_the_held_out_choice_of_weights_on(job, tmp_path):
    folder = job(
        tmp_path / "run", "method=sft", "eval.ranking=generate", "eval.max_new_tokens=4", "heldout.every=1"
    )
    with (folder / "log.csv").open(encoding="utf-8") as stream:
        ranked = [row for row in csv.DictReader(stream) if row["stage"] == "sft" and row["val/NDCG@3"]]
    # At the beginning and after each of four steps; free text of four tokens could not name any target.
    assert [int(row["step"]) for row in ranked] == [0, 1, 2, 3, 4]
    assert all(float(row["val/HR@10"]) == 1.0 for row in ranked)
    metrics = metrics_of(folder)
    assert metrics["protocol"]["ranking"] == "generate"
    best = max(ranked, key=lambda row: float(row["val/NDCG@3"]))
    assert metrics["weights"]["sft"]["kept"] == "best"
    assert metrics["weights"]["sft"]["best"]["step"] == int(best["step"])


def test_rollouts_that_teach_nothing_are_warned_of_in_the_log(job, tmp_path):
    folder = job(tmp_path / "run", "method=grpo_only", "rollout=free", "rollout.max_new_tokens=3")
    logged = (folder / "run.log").read_text(encoding="utf-8")
    assert (
        logged.count("grpo: for 3 steps in a row no prompt has had two answers with different rewards") == 1
    )
    assert logged.count("grpo: for 3 steps in a row hardly any answer has been valid") == 1


def test_a_pretrained_model_trains_through_stacked_adapters(job, tmp_path, adapters):
    folder = job(
        tmp_path / "run",
        *adapters,
        small=False,
    )
    metrics = metrics_of(folder)
    assert list(metrics["stages"]) == ["zero_shot", "sft", "grpo"]
    for stage, alpha in (("sft", 16), ("grpo", 32)):
        adapter = PeftConfig.from_pretrained(folder / "adapters" / stage)
        assert (adapter.r, adapter.lora_alpha) == (4, alpha)
    with (folder / "log.csv").open(encoding="utf-8") as stream:
        first = next(row for row in csv.DictReader(stream) if row["stage"] == "grpo" and row["kl"])
    assert float(first["kl"]) == 0.0


@pytest.mark.parametrize(
    "cluster",
    [
        {"SLURM_NTASKS": "2"},  # sbatch --ntasks=2, and the command started once
        {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS_PER_NODE": "2"},  # started by srun
        {"TORCHELASTIC_RUN_ID": "0", "WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"},  # by torchrun
    ],
    ids=["sbatch", "srun", "torchrun"],
)
def test_a_run_on_a_cluster_is_one_process_and_says_where_there_are_copies(
    job, tmp_path, cluster, monkeypatch
):
    for name, value in {
        "SLURM_JOB_NAME": "night",
        "SLURM_NNODES": "1",
        "SLURM_PROCID": "1",
        **cluster,
    }.items():
        monkeypatch.setenv(name, value)
    # Lightning reads these variables when it is imported: then only the first process logs.
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    folder = job(tmp_path / "run", "method=gru4rec", "method.recommender.max_epochs=2")
    assert {row["stage"] for row in read_log(folder / "log.csv")} == {"gru4rec"}
    told = "started this command 2 times" in (folder / "run.log").read_text(encoding="utf-8")
    assert told == (len(cluster) > 1)


def test_a_reward_compares_texts_of_whole_items(job, tmp_path, sentence_folder):
    encoder = ("reward=semantic", "text_encoder=sentence", f"text_encoder.path={sentence_folder}")
    cache = tmp_path / "cache"
    folder = job(tmp_path / "run", *encoder, f"cache_dir={cache}")
    assert len(list((cache / "text_vectors").iterdir())) == 1
    rows = [row for row in read_log(folder / "log.csv") if row["stage"] == "grpo"]
    column = "rewards/similarity/mean"
    means = [float(row[column]) for row in rows if row.get(column)]
    assert means
    assert all(-1 <= mean <= 1 for mean in means)


def test_a_reward_that_cannot_encode_is_refused_before_training(job, tmp_path):
    nowhere = f"text_encoder.path={tmp_path / 'nowhere'}"
    with pytest.raises(UserError, match=r"nowhere cannot be loaded: .*text_encoder=tfidf for word counts"):
        job(tmp_path / "run", "reward=semantic", "text_encoder=sentence", nowhere)
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_prompts_that_are_too_long_are_counted_before_training(job, tmp_path):
    with pytest.raises(UserError, match=r"(\d+) of \1 training prompts are longer.*history_length"):
        job(tmp_path / "run", "backbone.max_length=20")
    assert not (tmp_path / "run" / "metrics.json").exists()
    assert not (tmp_path / "run" / "other_negatives").exists()


def test_the_fast_engine_stays_inside_a_sliding_window(job, tmp_path, adapters, checkpoints):
    model = shutil.copytree(checkpoints("qwen2"), tmp_path / "model")
    settings = json.loads((model / "config.json").read_text()) | {"use_sliding_window": True}
    few = ("caption=none", "method=sft", "sft.max_steps=1", "heldout.users=0")

    def run(window):
        slides = {"sliding_window": window, "layer_types": ["sliding_attention", "full_attention"]}
        (model / "config.json").write_text(json.dumps(settings | slides))
        return job(tmp_path / f"run{window}", *adapters, f"backbone.path={model}", *few, small=False)

    with pytest.raises(
        UserError, match=r"training prompts are longer .* of 60 tokens\).* or set engine=plain"
    ):
        run(60)
    assert open_run(str(run(500)), None).policy.max_length == 500


def test_a_whole_job_trains_in_bfloat16(job, tmp_path) -> None:
    run = job(tmp_path / "run", "trainer.precision=bf16-true")
    stages = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["stages"]
    assert list(stages) == ["zero_shot", "warmup", "sft", "grpo"]
    (weights,) = (run / "model").glob("*.safetensors")
    with safe_open(weights, "pt") as saved:
        assert {saved.get_tensor(name).dtype for name in saved.keys()} == {torch.bfloat16}  # noqa: SIM118
