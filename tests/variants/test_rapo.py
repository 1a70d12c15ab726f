from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.compose import compose_checked
from mllmrec.errors import ConfigError
from mllmrec.rewards.hit_format import HitFormat
from mllmrec.rollout.base import Turn
from mllmrec.rollout.constrained import Constrained
from mllmrec.rollout.enumerated import Enumerated
from mllmrec.rollout.free import Free
from mllmrec.rollout.reasoned import Reasoned
from mllmrec.testing import check_advantage, check_rollout, toy_batch, toy_speaker
from mllmrec.testing.toys import toy_examples
from mllmrec.testing.trials import trial_faults
from mllmrec.variants.rapo import RapoScale, ReplayedAnswers

EXAMPLES = toy_examples(2)


def test_five_of_eight_groups_teach_for_all():
    rewards = [1.0, 0, 0, 0, 0] * 5 + [0.0] * 10 + [1.0] * 5
    groups = [place // 5 for place in range(40)]
    part = RapoScale(epsilon=1e-6)
    given = part(toy_batch(["a"] * 40, rewards=rewards, group_of=groups))
    assert part.metrics() == {"rapo/factor": 1.6}
    assert_close(given[:5], torch.tensor([2.8622, *[-0.7155] * 4]), atol=1e-4, rtol=0)
    assert given[25:].tolist() == [0.0] * 15


@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_an_advantage(weighted):
    check_advantage(RapoScale(), weighted=weighted)


class Rewarded:
    """Answers are right in some steps only, and the policy's weights change after each of them."""

    def __init__(self, rollout, right):
        self.rollout, self.right = rollout, right
        self.speaker = toy_speaker(rollout)
        self.model = self.speaker.policy.model

    def judge(self, batch):
        """The first example's rows earn 1 if the step is right and they are the policy's; what is replayed was right."""
        earns = (batch.example_of == 0) & (batch.by("buffer") | torch.tensor(batch.step in self.right))
        return replace(batch, rewards=earns.float())

    def step(self, number, group_size=4):
        return self.rollout(EXAMPLES, self.speaker, self.judge, Turn(number, group_size)).by_group()


@pytest.mark.parametrize(
    "inner",
    [Constrained(), Free(max_new_tokens=4), Reasoned(answer="sampled", max_reasoning_tokens=4)],
    ids=["constrained", "free", "reasoned"],
)
def test_an_earlier_right_answer_comes_back_where_all_fail(inner):
    run = Rewarded(ReplayedAnswers(inner), right=[0])
    first = run.step(0)
    assert not first.by("buffer").any()
    assert run.rollout.metrics() == {"rapo/failed": 0.5, "rapo/replayed": 0.0}
    weights = [weight.clone() for weight in run.model.parameters()]
    try:
        with torch.no_grad():
            run.model.lm_head.weight.mul_(1.5)
        second = run.step(1)
        now = run.speaker.score(second)
    finally:
        with torch.no_grad():
            for weight, before in zip(run.model.parameters(), weights, strict=True):
                weight.copy_(before)
    # The second example never had a right answer; one of the first one's four rows is that of step 0.
    assert run.rollout.metrics() == {"rapo/failed": 1.0, "rapo/replayed": 0.5}
    assert second.group_of.tolist() == [0] * 4 + [1] * 4
    (row,) = second.by("buffer").nonzero()[:, 0].tolist()
    assert row < 4
    assert second.judged().tolist() == [float(place == row) for place in range(8)]
    assert second.texts[row] == first.texts[0]
    assert len(second.prompts.ids) == 2
    assert second.prompt_of.tolist() == first.prompt_of.tolist()
    # It keeps the log-probabilities under the policy that drew it; all other rows have those of the policy as it is.
    width = int(first.completions.mask[0].sum())
    assert_close(second.old[row, :width], first.old[0, :width])
    assert_close(second.learnt[row, :width], first.learnt[0, :width])
    assert not torch.allclose(second.old[row], now[row], atol=1e-3)
    others = [place for place in range(8) if place != row]
    assert_close(second.old[others], now[others])


def test_the_latest_right_answer_is_the_one_that_comes_back():
    run = Rewarded(ReplayedAnswers(Free(max_new_tokens=4)), right=[0, 1])
    texts = [run.step(number).texts[0] for number in range(2)]
    assert texts[0] != texts[1]
    third = run.step(2)
    assert [text for text, back in zip(third.texts, third.by("buffer"), strict=True) if back] == texts[1:]


def test_what_was_right_is_saved():
    run = Rewarded(ReplayedAnswers(Constrained()), right=[0])
    run.step(0)
    again = Rewarded(ReplayedAnswers(Constrained()), right=[])
    again.rollout.load_state_dict(run.rollout.state_dict())
    assert int(again.step(1).by("buffer").sum()) == 1


def test_a_group_of_one_can_be_replaced():
    run = Rewarded(ReplayedAnswers(Constrained()), right=[0])
    run.step(0, group_size=1)
    assert run.step(1, group_size=1).by("buffer").tolist() == [True, False]


@pytest.mark.parametrize("inner", [Constrained(), Free(max_new_tokens=4)])
def test_it_is_a_rollout(inner):
    check_rollout(ReplayedAnswers(inner))


def test_a_rollout_of_all_answers_is_refused():
    with pytest.raises(ValueError, match="each group has the right one"):
        ReplayedAnswers(Enumerated())


def test_a_step_learns_from_what_was_replayed(make_step, batch):
    class Once(HitFormat):
        """Pays the policy in the first step alone."""

        def __call__(self, batch):
            given = super().__call__(batch)
            paid = torch.ones(len(batch)) if batch.step == 0 else batch.by("buffer").float()
            return replace(given, total=given.total.clamp_min(0) * paid)

    step = make_step(rollout=ReplayedAnswers(Constrained(), right=0.5), reward=Once(), advantage=RapoScale())
    first = step.collect(batch, 0)
    solved = set(first.example_of[first.judged() > 0.5].tolist())
    assert solved
    second = step.collect(batch, 1)
    assert set(second.example_of[second.by("buffer")].tolist()) == solved
    for share in step.loss_shares(second, {}):
        share.backward()
    gradients = [weight.grad for weight in step.speaker.policy.model.parameters() if weight.grad is not None]
    assert sum(float(gradient.norm()) for gradient in gradients) > 0


def checked(*overrides):
    composed = compose_checked("train", ["variant=rapo", *overrides], CONFIG_DIR)
    assert composed.faults == []
    check_config(composed.config, trial_faults)
    return composed.config


def test_the_variant_is_a_valid_job():
    cfg = checked("seed=3")
    assert (cfg.rollout.seed, cfg.grpo.prompts_per_step, cfg.grpo.group_size) == (3, 32, 5)
    assert cfg.sampler._target_.endswith("Pruned")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("loss=reinforce", "draws from another policy"),
        ("grpo.skip_zero_variance=drop", "set grpo.skip_zero_variance=auto, or choose advantage=grpo"),
    ],
)
def test_what_cannot_work_is_refused(override, said):
    with pytest.raises(ConfigError, match=said):
        checked(override)
    checked(override, "rollout=constrained", "advantage=grpo")
