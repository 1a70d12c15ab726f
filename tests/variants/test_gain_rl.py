from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mllmrec.step.angles import angles_of, concentration
from mllmrec.testing import check_sampler
from mllmrec.variants.gain_rl import GainAngle, shift


def test_the_window_moves_by_accuracy_and_angle():
    # The authors' accuracies are sums of two rewards, up to 2.
    assert shift(1.2 / 2, 0.6, 1000) == pytest.approx(515.515, abs=5e-3)
    # Below 0 and above the most it is held.
    assert shift(0, 0, 1000) == 0
    assert shift(9, 9, 1000) <= 1000


def test_concentration_is_the_mean_cosine_of_pairs():
    # Two alike and one at a right angle: cosines 1, 0 and 0. Opposite: -1. One token has no pair. Padding has no say.
    states = torch.tensor(
        [
            [[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]],
            [[1.0, 1.0], [-1.0, -1.0], [5.0, 5.0]],
            [[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]],
        ]
    )
    mask = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])
    assert concentration(states, mask).tolist() == pytest.approx([1 / 3, -1, 0], abs=1e-6)


def test_angles_are_of_what_enters_the_last_mlp_and_batches_do_not_matter(tiny):
    prompts = ["likes lamps", "likes red lamps and old clocks", "a"]
    together = angles_of(tiny.policy, prompts)
    assert together.tolist() == pytest.approx(angles_of(tiny.policy, prompts, 1).tolist(), abs=1e-5)
    caught = []
    mlp = [module for name, module in tiny.policy.model.named_modules() if name.endswith(".mlp")][-1]
    hook = mlp.register_forward_pre_hook(lambda module, given: caught.append(given[0][0]))
    ids, mask = tiny.policy.prompt_batch(prompts[1:2])
    with torch.no_grad():
        tiny.policy.model(input_ids=ids, attention_mask=mask.long())
    hook.remove()
    units = torch.nn.functional.normalize(caught[0], dim=-1)
    cosines = units @ units.T
    below = torch.tril(torch.ones_like(cosines), -1).bool()
    assert together[1] == pytest.approx(float(cosines[below].mean()), abs=1e-5)


@pytest.fixture
def pool(make_pool):
    # Entry 99 is the most concentrated one.
    return replace(
        make_pool([list(range(100))], batch_size=5, steps=10), angles=lambda entries: entries / 100
    )


def test_concentrated_prompts_come_first_and_right_answers_move_on(pool, observed):
    part, again = GainAngle(width=0.03), GainAngle(width=0.03)
    part.begin(pool)
    assert part.plan(0).min() > 80
    for step in range(6):
        part.observe(np.full(5, 90), observed([[1.0, 1.0]] * 5, step))
    # tanh(1) = 0.7616 and tanh(1.8) = 0.9468: half their sum of 10 ranks a step.
    centre = part.state_dict()["centre"]
    assert centre == pytest.approx(6 * 5 * (0.7616 + 0.9468), abs=1e-2)
    entries = part.plan(6)
    assert abs(99 - entries.mean() - centre) < 8
    again.begin(replace(pool, angles=lambda entries: -entries / 100))
    again.load_state_dict(part.state_dict())
    assert again.plan(6).tolist() == entries.tolist()


def test_it_is_checked_and_says_what_is_wrong(make_pool):
    check_sampler(GainAngle())
    with pytest.raises(ValueError, match="width"):
        GainAngle(width=0)
    with pytest.raises(ValueError, match="angles"):
        GainAngle().begin(make_pool([[0, 1]]))
