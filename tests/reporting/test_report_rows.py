from __future__ import annotations

import os

from mllmrec.reporting.rows import group_runs, numeric_key
from mllmrec.reporting.runs import find_jobs


def grouped(folder):
    return group_runs(find_jobs(folder).runs)


def labels(folder):
    return [(row.label, row.seeds) for row in grouped(folder).rows]


def test_runs_that_differ_in_their_seed_share_a_row_named_by_what_was_typed(tmp_path, write_run):
    for number, (method, seed) in enumerate([("sft", 1), ("sft", 0), ("grpo_only", 0), ("grpo_only", 1)]):
        # The phases follow from the method, and the run's name has no effect.
        write_run(tmp_path / str(number), [1, 2], method=method, seed=seed, typed=[f"method={method}"])
    assert labels(tmp_path) == [("sft", [0, 1]), ("grpo_only", [0, 1])]


def test_a_part_that_takes_the_runs_seed_parts_no_seeds(tmp_path, write_run):
    for number, (seed, other) in enumerate([(0, 0), (1, 1)]):
        settings = {"experience.seed": seed, "rollout.seed": other}
        write_run(tmp_path / "same" / str(number), [1, 2], seed=seed, settings=settings)
        settings = {"experience.seed": seed, "rollout.seed": 1 - other}
        write_run(tmp_path / "own" / str(number), [1, 2], seed=seed, settings=settings)
    assert labels(tmp_path / "same") == [("method=sft", [0, 1])]
    assert labels(tmp_path / "own") == [("rollout.seed=0", [1]), ("rollout.seed=1", [0])]


def test_everything_typed_that_differs_is_named_though_one_key_would_do(tmp_path, write_run):
    for number, (method, ratio) in enumerate([("sft", 0.1), ("mllmrec_r1", 0.3)]):
        typed = [f"method={method}", f"mix_ratio={ratio}"]
        write_run(tmp_path / str(number), [1, 2], method=method, settings={"mix_ratio": ratio}, typed=typed)
    assert [label for label, _ in labels(tmp_path)] == [
        "method=sft mix_ratio=0.1",
        "method=mllmrec_r1 mix_ratio=0.3",
    ]


def test_what_was_typed_alike_everywhere_is_not_named(tmp_path, write_run):
    for number, ratio in enumerate([0.1, 0.3]):
        typed = ["method=sft", f"mix_ratio={ratio}"] if ratio != 0.1 else ["method=sft"]
        write_run(tmp_path / str(number), [1, 2], settings={"mix_ratio": ratio}, typed=typed)
    assert [label for label, _ in labels(tmp_path)] == ["mix_ratio=0.1", "mix_ratio=0.3"]


def test_a_difference_that_the_typed_keys_do_not_explain_is_added(tmp_path, write_run):
    # Same command line, other defaults: the report must not average over the rate as if it were a seed.
    for number, (method, rate) in enumerate([("sft", 0.1), ("sft", 0.2), ("grpo_only", 0.1)]):
        write_run(
            tmp_path / str(number),
            [1, 2],
            method=method,
            settings={"sft.learning_rate": rate},
            typed=[f"method={method}"],
        )
    assert [label for label, _ in labels(tmp_path)] == [
        "method=sft sft.learning_rate=0.1",
        "method=sft sft.learning_rate=0.2",
        "method=grpo_only sft.learning_rate=0.1",
    ]


def test_values_of_one_number_stand_in_its_order_whenever_they_were_run(tmp_path, write_run):
    for number, beta in enumerate([0.1, 1.0, 0.05]):
        write_run(
            tmp_path / str(number), [1, 2], settings={"grpo": {"beta": beta}}, typed=[f"grpo.beta={beta}"]
        )
    result = grouped(tmp_path)
    assert [row.label for row in result.rows] == ["grpo.beta=0.05", "grpo.beta=0.1", "grpo.beta=1"]
    assert result.differing == {"grpo.beta": ["0.05", "0.1", "1"]}


def test_a_group_stands_for_its_section(tmp_path, write_run):
    for number, (name, low) in enumerate([("grpo", 0.2), ("dapo", 0.3)]):
        settings = {"loss": {"_target_": name, "epsilon_low": low, "level": name}}
        write_run(tmp_path / str(number), [1, 2], settings=settings, chosen={"loss": name})
    result = grouped(tmp_path)
    assert [row.label for row in result.rows] == ["grpo", "dapo"]
    assert [row.typed for row in result.rows] == ["loss=grpo", "loss=dapo"]
    # The report hides no difference from the reader.
    assert result.differing == {
        "loss": ["grpo", "dapo"],
        "loss._target_": ["grpo", "dapo"],
        "loss.epsilon_low": ["0.2", "0.3"],
        "loss.level": ["grpo", "dapo"],
    }


def test_a_typed_section_stands_for_its_keys(tmp_path, write_run):
    for number, rank in enumerate([8, 16]):
        settings = {"sft": {"lora": {"rank": rank, "alpha": 16}}}
        write_run(tmp_path / str(number), [1, 2], settings=settings, typed=[f"sft.lora={{rank:{rank}}}"])
    assert [label for label, _ in labels(tmp_path)] == ["sft.lora.rank=8", "sft.lora.rank=16"]


def test_settings_that_change_no_result_make_no_row(tmp_path, write_run):
    for seed, (cache, shown) in enumerate([("a", 100), ("b", 10)]):
        settings = {"cache_dir": cache, "eval.keep_top": shown, "logger": {"project": cache}}
        write_run(tmp_path / str(seed), [1, 2], seed=seed, settings=settings, typed=[f"cache_dir={cache}"])
    assert labels(tmp_path) == [("method=sft", [0, 1])]


def test_of_two_runs_of_the_same_job_the_later_counts_and_the_other_is_named(tmp_path, write_run):
    for name, age in (("new", 0), ("old", 1000)):
        path = write_run(tmp_path / name, [1, 2]) / "metrics.json"
        os.utime(path, (path.stat().st_mtime - age,) * 2)
    result = grouped(tmp_path)
    assert [run.path.name for run in result.rows[0].runs] == ["new"]
    assert [run.path.name for run in result.repeated] == ["old"]


def test_1_and_1_0_are_one_setting(tmp_path, write_run):
    for seed, ratio in enumerate([1, 1.0]):
        write_run(
            tmp_path / str(seed), [1, 2], seed=seed, settings={"mix_ratio": ratio}, typed=["mix_ratio=1"]
        )
    assert labels(tmp_path) == [("method=sft", [0, 1])]


def test_the_numeric_key_is_the_only_one_that_is_a_number_everywhere(tmp_path, write_run):
    for number, (policy, ratio) in enumerate([("a", 0.1), ("a", 0.3), ("b", 0.1)]):
        typed = [f"cot_policy={policy}", f"mix_ratio={ratio}"]
        write_run(
            tmp_path / "one" / str(number),
            [1, 2],
            settings={"mix_ratio": ratio},
            chosen={"cot_policy": policy},
            typed=typed,
        )
    assert numeric_key(grouped(tmp_path / "one").rows) == "mix_ratio"
    for number, size in enumerate([4, 8]):
        settings = {"mix_ratio": size / 10, "grpo.group_size": size}
        typed = ["mix_ratio=0", "grpo.group_size=0"]
        write_run(tmp_path / "two" / str(number), [1, 2], settings=settings, typed=typed)
    assert numeric_key(grouped(tmp_path / "two").rows) is None
    write_run(tmp_path / "none" / "0", [1, 2])
    assert numeric_key(grouped(tmp_path / "none").rows) is None
