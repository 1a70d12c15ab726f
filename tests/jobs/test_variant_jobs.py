from __future__ import annotations

import csv

import pytest

pytestmark = pytest.mark.slow


def logged(folder, column, stage="grpo"):
    with (folder / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [float(row[column]) for row in rows if row["stage"] == stage and row.get(column)]


def test_a_teacher_from_the_start_of_the_phase_differs_from_the_policy_from_the_first_step_on(job, tmp_path):
    apart = logged(job(tmp_path / "run", "variant=kdrl", "logger=csv"), "teacher_kl")
    assert len(apart) == 3
    assert min(apart) > 0


def test_parts_of_two_variants_train_together_and_log_their_numbers(job, tmp_path):
    folder = job(
        tmp_path / "run",
        *(
            "variant=reinforce_ada",
            "advantage=riskpo",
            "sampler=bundles",
            "grpo.prompts_per_step=5",
            "logger=csv",
        ),
    )
    # One to four rounds of eight answers for each prompt, of which four are learnt.
    sizes = logged(folder, "adaptive/pool_size")
    assert len(sizes) == 3
    assert all(8 <= size <= 32 for size in sizes)
    assert logged(folder, "num_tokens")[0] >= 8 * 5
    low, high = logged(folder, "riskpo/q_low"), logged(folder, "riskpo/q_high")
    assert len(low) == len(high) == 3
    assert all(under <= over for under, over in zip(low, high, strict=True))


def test_a_slow_reference_judges_the_answers_of_expert_iteration(job, tmp_path):
    folder = job(
        tmp_path / "run",
        *("method=expert_iteration", "variant=grpo_care", "logger=csv"),
        *("expert_iteration.max_steps=2", "expert_iteration.prompts_per_round=4", "reference.every=1"),
    )
    likely = logged(folder, "rewards/consistency/mean", "expert_iteration")
    assert len(likely) == 2
    assert all(0 < value <= 0.95 for value in likely)


def test_steps_are_filled_up_with_other_prompts_and_all_tokens_count(job, tmp_path):
    folder = job(
        tmp_path / "run", "variant=dapo", "grpo.group_size=2", "grpo.prompts_per_step=4", "logger=csv"
    )
    asked, kept = logged(folder, "refill/asked"), logged(folder, "refill/kept")
    assert len(asked) == 3
    # Two answers to a prompt are often both right or both wrong.
    assert max(asked) > 4
    assert all(round(count * share) <= 4 for count, share in zip(asked, kept, strict=True))
    # An answer is one token and the end, of which one is drawn.
    assert logged(folder, "num_tokens")[-1] >= 2 * sum(asked)
