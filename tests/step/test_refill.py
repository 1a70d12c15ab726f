from __future__ import annotations

import numpy as np
import pytest
import torch

from mllmrec.cot.mixing import Mixing, Mixture
from mllmrec.phases.inputs import Plan
from mllmrec.rewards.base import Reward, Rewards
from mllmrec.rollout.base import Turn
from mllmrec.step.refill import Dynamic, Refill, of_examples
from mllmrec.step.sampler import Pool, Shuffled
from mllmrec.testing import check_sampler, toy_batch


def pool(size, batch_size, steps=4):
    return Pool(size, batch_size, steps, seed=0, purpose="grpo")


def judged(*groups):
    flat = [reward for group in groups for reward in group]
    return toy_batch(
        ["[ITEM_1]"] * len(flat),
        rewards=flat,
        group_of=[place for place, group in enumerate(groups) for _ in group],
    )


def binary(right, size=8):
    return [1.0] * right + [0.0] * (size - right)


def test_prompts_of_middling_difficulty_are_kept():
    batch = judged(*(binary(right) for right in range(9)))
    spread = batch.groups.mean(batch.groups.centred(batch.rewards).square())
    assert spread.tolist() == pytest.approx(
        [0, 0.1094, 0.1875, 0.2344, 0.25, 0.2344, 0.1875, 0.1094, 0], abs=1e-4
    )
    assert Dynamic().keeps(batch).tolist() == [False, *[True] * 7, False]
    # From 2 of 8 to 6 of 8.
    balanced = Dynamic(least_std=0, share=[0.25, 0.75])
    assert balanced.keeps(batch).tolist() == [False, False, *[True] * 5, False, False]


def test_rewards_that_hardly_vary_are_not_kept():
    batch = judged([1, 1, 1, 1], [1, 0, 0, 0], [0.5, 0.52, 0.5, 0.5])
    spread = batch.groups.mean(batch.groups.centred(batch.rewards).square()).sqrt()
    assert spread.tolist() == pytest.approx([0, 0.4330, 0.0087], abs=1e-4)
    assert Dynamic(least_std=0.05).keeps(batch).tolist() == [False, True, False]
    assert Dynamic().keeps(batch).tolist() == [False, True, True]


def refilled(rounds, supply, first):
    """The step of a first draw and of those that replace it; ``supply`` has the groups that others would get."""
    asked = []

    def more(count):
        asked.append(count)
        return supply.pop(0) if supply else []

    refill = Refill(Dynamic(rounds=rounds), more)
    return refill, refill(judged(*first), lambda groups: judged(*groups)), asked


def test_a_step_goes_on_until_it_is_full():
    equal, varied = [1.0, 1.0], [1.0, 0.0]
    supply = [[equal, [0.0, 1.0, 0.5]], [[0.25, 0.5], varied]]
    refill, batch, asked = refilled(10, supply, [equal, varied, equal])
    # One of three is kept, then one of two, then the first that varies.
    assert asked == [2, 1]
    assert batch.rewards.tolist() == [1, 0, 0, 1, 0.5, 0.25, 0.5]
    assert batch.group_of.tolist() == batch.example_of.tolist() == [0, 0, 1, 1, 1, 2, 2]
    # Of places 0 to 2, 3 and 4, 5 and 6.
    assert refill.kept == [1, 4, 5]
    assert len(batch.examples) == len(batch.questions) == 3
    assert refill.metrics() == pytest.approx(
        {
            "refill/rounds": 3,
            "refill/asked": 7,
            "refill/kept": 3 / 7,
            # Means of groups: 1, 1/2, 1; 1, 1/2; 3/8, 1/2.
            "refill/reward": (2.5 + 1.5 + 0.875) / 7,
        }
    )


def test_rounds_and_prompts_run_out():
    equal, varied = [1.0, 1.0], [1.0, 0.0]
    refill, batch, asked = refilled(2, [[equal], [varied]], [equal, varied])
    assert asked == [1]
    assert batch.rewards.tolist() == varied
    assert refill.kept == [1]
    refill, batch, asked = refilled(9, [], [equal, varied])
    assert asked == [1]
    assert batch.rewards.tolist() == varied
    # A step in which nothing is kept comes back whole.
    refill, batch, asked = refilled(1, [], [equal, equal])
    assert batch.rewards.tolist() == [1.0] * 4
    assert refill.kept == [0, 1]


def test_a_step_that_is_kept_whole_is_the_very_batch():
    refill = Refill(Dynamic(), lambda count: pytest.fail("nothing is missing"))
    batch = judged([1.0, 0.0], [0.0, 1.0])
    assert refill(batch, lambda groups: pytest.fail("nothing is missing")) is batch


def test_both_groups_of_an_example_stay_together():
    batch = judged([1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [0.5, 0.5])
    batch = type(batch)(
        **{**vars(batch), "example_of": batch.group_of // 2, "pool": {"mean": torch.arange(4.0)}}
    )
    assert Dynamic().keeps(batch).tolist() == [True, False, False, False]
    taken = of_examples(batch, torch.tensor([1]))
    assert taken.rewards.tolist() == [0, 0, 0.5, 0.5]
    assert taken.group_of.tolist() == [0, 0, 1, 1]
    assert taken.example_of.tolist() == [0] * 4
    assert taken.pool["mean"].tolist() == [2, 3]


def test_passes_go_on_where_refills_ended():
    plain, part = Shuffled(), Dynamic()
    plain.begin(pool(10, 4))
    part.begin(pool(10, 4))
    # Without refills the steps of a pass are 4, 4 and 2 entries, as they are when shuffled.
    assert [part.plan(step).tolist() for step in range(4)] == [plain.plan(step).tolist() for step in range(4)]
    part.begin(pool(10, 4))
    shown = part.plan(0)
    others = part.more(3, shown)
    assert sorted([*shown, *others, *part.plan(1)]) == list(range(10))
    # The next pass may begin within a step, which shows nothing twice and ends when all were asked.
    last = part.plan(2)
    assert sorted([*last, *part.more(9, last)]) == list(range(10))
    assert part.more(1, np.arange(10)).tolist() == []


def test_state_restores_the_place_in_the_pass():
    part, again = Dynamic(), Dynamic()
    part.begin(pool(10, 3))
    part.more(2, part.plan(0))
    again.begin(pool(10, 3))
    again.load_state_dict(part.state_dict())
    assert again.plan(1).tolist() == part.plan(1).tolist()


def test_a_plan_gives_the_codes_of_other_entries():
    # Sample 3 carries reasoning: its code is 4 + 3.
    mixture = Mixture(Mixing("replace"), 4, np.array([3]))
    plan = Plan(Dynamic(), pool(4, 2, 2), mixture, np.arange(4))
    first = next(iter(plan))
    others = plan.more(2)
    assert sorted(code % 4 for code in first + others) == [0, 1, 2, 3]
    assert 7 in first + others
    assert plan.shown.tolist() == [code % 4 for code in first + others]


class OnlyOdd(Reward):
    """Answers to the first and third prompts earn the same, all others what their place says."""

    parts = ()
    bounds = (0.0, 1.0)

    def __call__(self, batch):
        places = torch.arange(len(batch)) - torch.searchsorted(batch.group_of, batch.group_of)
        same = torch.tensor([batch.examples[place].sample_id in self.same for place in batch.example_of])
        return Rewards(torch.where(same, 0.0, places / 10))


def test_other_prompts_are_drawn_judged_and_learnt(make_collector, make_step, make_examples, tiny):
    examples = make_examples(tiny.builder)
    reward = OnlyOdd()
    reward.same = {examples[0].sample_id}
    turns = iter([[examples[3]]])
    refill = Refill(Dynamic(), lambda count: next(turns)[:count])
    step = make_step(reward=reward, refill=refill, group_size=3, skip_zero_variance="drop")
    batch = step.collect([examples[0], examples[1]], 5)
    assert [one.sample_id for one in batch.examples] == [examples[1].sample_id, examples[3].sample_id]
    assert batch.groups.sizes.tolist() == [3, 3]
    assert (batch.advantages != 0).view(2, 3).any(1).all()
    # Each prompt is answered as in a step of its own.
    alone = make_collector(reward=reward).collect([examples[3]], Turn(5, 3))
    assert list(batch.texts[3:]) == list(alone.texts)
    # Nine answers were drawn, and their tokens count.
    drawn = make_collector(reward=reward)
    drawn.collect([examples[0], examples[1], examples[3]], Turn(5, 3))
    assert step.speaker.generated_tokens == drawn.speaker.generated_tokens
    assert refill in step.parts
    sizes = [float(share.detach()) for share in step.loss_shares(batch, {})]
    assert all(np.isfinite(sizes))


def test_it_is_checked_and_says_what_is_wrong():
    check_sampler(Dynamic())
    for words, wrong in (
        ("share", {"share": [0.7, 0.2]}),
        ("rounds", {"rounds": 0}),
        ("least_std", {"least_std": -1}),
    ):
        with pytest.raises(ValueError, match=words):
            Dynamic(**wrong)
