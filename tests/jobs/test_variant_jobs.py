from __future__ import annotations

import csv
from collections import Counter

import pytest

from mllmrec.run.rollouts import read_rollouts
from mllmrec.variants.gain_rl import GainAngle
from mllmrec.variants.lifecycle import Lifecycle

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


def test_copies_of_the_chosen_prompt_fill_the_later_steps(job, tmp_path):
    folder = job(tmp_path / "run", "variant=one_shot", "grpo.prompts_per_step=4", "grpo.group_size=4")
    shown = Counter(
        (rollout.step, rollout.prompt_id) for rollout in read_rollouts(folder / "rollouts.parquet")
    )
    # Two prompts of each of the two steps that choose, then two copies of one, four answers each.
    assert [count for (step, _), count in shown.items() if step < 2] == [4] * 4
    assert [count for (step, _), count in shown.items() if step == 2] == [8]


@pytest.mark.parametrize("chosen", [("variant=gain_rl",), ("variant=lifecycle", "sampler.logprobs=true")])
def test_samplers_get_what_they_ask_the_policy_for(job, tmp_path, monkeypatch, chosen):
    seen = []
    for part, method in ((GainAngle, "observe"), (Lifecycle, "observe")):
        own = getattr(part, method)
        monkeypatch.setattr(
            part, method, lambda self, *given, own=own: (own(self, *given), seen.append((self, given[1])))
        )
    job(tmp_path / "run", *chosen)
    assert len(seen) == 3
    part, batch = seen[-1]
    known = part.state_dict()
    if isinstance(part, GainAngle):
        # A cosine for each prompt, and they are not all alike.
        assert known["angles"].std() > 0
        assert abs(known["angles"]).max() <= 1
    else:
        assert batch.old[batch.learnt.cpu()].max() < 0
        assert (known["utility"] != 0.5).sum() == 12
