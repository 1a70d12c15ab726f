from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.sweeping.jobs import experiments, plan

# Jobs with one seed, written by hand: values of one axis times those of the next.
JOBS_A_SEED = {
    "main_table": 17,
    "ablation_components": 8,
    "reward_inflation": 3 * 3,
    "mix_ratio": 6,
    "group_size": 4,
    "kl_beta": 6,
    "history_length": 4,
    "num_candidates": 3,
    "reward_design": 2,
    "seeds": 1,
    "controls": 4,
    "cold_items": 9,
    "reasoned": 2,
    "profiled": 2,
    "variants": len(list((CONFIG_DIR / "variant").glob("*.yaml"))),
}
NO_AXIS_OF_SEEDS = {"caption_gain": 2, "free_release": 1, "efficiency": 2 * 2 * 2}

# Efficiency compares ways to show images and `reasoned` and `profiled` reason about them; Amazon Beauty has none here.
NOT_ON_AMAZON = ("efficiency", "reasoned", "profiled")
FORMS = [
    (name, scale)
    for name in JOBS_A_SEED | NO_AXIS_OF_SEEDS
    for scale in ("full", "small", "amazon_beauty")
    if not (name in NOT_ON_AMAZON and scale == "amazon_beauty")
    and name != "variants"  # every preset is composed by a test of its own, and some in a sweep below
]


def test_every_experiment_but_those_on_released_data_is_counted_here() -> None:
    released = {name for name in experiments() if name.startswith("paper_")}
    assert set(experiments()) - released == JOBS_A_SEED.keys() | NO_AXIS_OF_SEEDS.keys()


@pytest.mark.parametrize("name", experiments())
def test_every_experiment_has_a_page_with_the_command_that_runs_it(name: str) -> None:
    folder = Path(__file__).parents[2] / "experiments"
    pages = [page.read_text(encoding="utf-8") for page in folder.glob("*.md") if page.name != "sweeps.md"]
    assert any(f"sweep.sh {name} " in page or f"experiment={name}" in page for page in pages)


@pytest.mark.parametrize(("name", "scale"), FORMS)
def test_every_job_of_a_sweep_composes_and_passes_the_checks(name: str, scale: str) -> None:
    sweep = plan(name, ["seed=0"] if scale == "full" else ["seed=0", f"scale={scale}"])
    assert len(sweep.jobs) == (JOBS_A_SEED | NO_AXIS_OF_SEEDS)[name]
    for job in sweep.jobs.values():
        check_config(job.config)
        assert job.config.skip_finished
        assert job.config.share_stages
    assert str(sweep.folder) == f"sweeps/{name}" + ("" if scale == "full" else f"-{scale}")


@pytest.mark.parametrize("name", JOBS_A_SEED)
def test_seeds_are_an_axis(name: str) -> None:
    axes = OmegaConf.load(CONFIG_DIR / "experiment" / f"{name}.yaml").hydra.sweeper.params
    seeds = range({"seeds": 10, "controls": 10, "reasoned": 5, "profiled": 5}.get(name, 3))
    # Last, so that no job waits for a phase that the job before it trains. Variants train only one job at a time to begin
    # with, and a sweep of hundreds that is cut off should hold every system once.
    assert list(axes)[0 if name == "variants" else -1] == "seed"
    assert axes["seed"].split(",") == [str(seed) for seed in seeds]


def test_every_preset_stands_in_the_sweep_of_variants() -> None:
    axes = OmegaConf.load(CONFIG_DIR / "experiment" / "variants.yaml").hydra.sweeper.params
    shipped = sorted(path.stem for path in (CONFIG_DIR / "variant").glob("*.yaml"))
    assert sorted(axes.variant.split(",")) == shipped
    sweep = plan("variants", ["seed=0", "scale=small", "variant=grpo,motif,rank_grpo"])
    assert len(sweep.jobs) == 3
    for job in sweep.jobs.values():
        check_config(job.config)


def test_axes_and_values_typed_replace_those_of_the_experiment() -> None:
    sweep = plan("kl_beta", ["seed=5", "grpo.beta=0.1,0.3", "sft.max_steps=10"])
    assert list(sweep.jobs) == [f"grpo.beta-{beta}+seed-5+sft.max_steps-10" for beta in ("0.1", "0.3")]
    assert [job.config.grpo.beta for job in sweep.jobs.values()] == [0.1, 0.3]
    assert {job.config.sft.max_steps for job in sweep.jobs.values()} == {10}


def test_each_ablation_leaves_out_what_it_says() -> None:
    sweep = plan("ablation_components", ["seed=0"])
    found = {}
    for job in sweep.jobs.values():
        cfg = job.config
        policy, caption = cfg.cot_policy._target_, cfg.caption._target_
        found[next(text for text in job.overrides if text.startswith("ablation="))[9:]] = (
            None if caption is None else caption.rsplit(".", 1)[1],
            None if policy is None else (policy.rsplit(".", 1)[1], cfg.cot_policy.get("stage")),
            cfg.mix_ratio,
            list(cfg.method.phases),
            cfg.grpo.beta,
        )
    full = ("Palette", ("Confident", None), 0.1, ["warmup", "sft", "grpo"], 0.1)
    assert found == {
        "full": full,
        "no_captions": (None, *full[1:]),
        "no_cot": ("Palette", None, 0.0, *full[3:]),
        "no_refinement": ("Palette", ("Built", "draft"), *full[2:]),
        "no_assessment": ("Palette", ("Built", "refined"), *full[2:]),
        "no_mixing": (*full[:2], 1.0, *full[3:]),
        "no_sft": (*full[:3], ["warmup", "grpo"], 0.1),
        "no_kl": (*full[:4], 0.0),
    }


def test_reward_inflation_has_a_baseline_without_reasoning() -> None:
    # The second command of the file's head.
    sweep = plan("reward_inflation", ["cot_policy=none", "mix_ratio=0"])
    assert [job.config.seed for job in sweep.jobs.values()] == [0, 1, 2]
    assert {job.config.cot_policy._target_ for job in sweep.jobs.values()} == {None}
    others = plan("reward_inflation", ["cot_policy=refined", "seed=0"])
    assert not set(sweep.jobs) & set(others.jobs)
    assert sweep.folder == others.folder


@pytest.mark.parametrize("dataset", ["movielens", "microlens", "netflix"])
def test_paper_experiments_are_one_job_with_the_released_seed(dataset: str) -> None:
    sweep = plan(f"paper_{dataset}", ["dataset.root=folder"])
    (job,) = sweep.jobs.values()
    assert (job.config.seed, job.config.protocol_seed) == (42, 42)
    assert job.config.heldout.keep == "last"
    assert sorted(sweep.jobs) == ["dataset.root-folder"]
