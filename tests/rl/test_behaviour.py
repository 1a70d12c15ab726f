"""The correction for completions that another program drew, by numbers that can be checked in the head."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from mllmrec.rl.batch import join
from mllmrec.rl.behaviour import sampling_metrics, truncated_ratio

NAN = math.nan
# The policy says 1/2 to every token; the server said 1/2, 1/4 and 1/16, and the policy drew the last token itself.
OLD = torch.tensor([[0.5, 0.5, 0.5, 0.5]]).log()
BEHAVIOUR = torch.tensor([[0.5, 0.25, 0.0625, NAN]]).log()


def test_ratios_are_truncated_and_are_one_for_the_policys_own_tokens():
    assert_close(truncated_ratio(OLD, BEHAVIOUR, 4.0), torch.tensor([[1.0, 2.0, 4.0, 1.0]]))
    less_likely = torch.tensor([[0.125]]).log()
    assert_close(truncated_ratio(less_likely, torch.tensor([[0.5]]).log(), 4.0), torch.tensor([[0.25]]))


def test_metrics_have_trls_names_and_leave_out_other_tokens():
    mask = torch.tensor([[True, True, True, True]])
    found = sampling_metrics(OLD, BEHAVIOUR, mask, 4.0)
    assert found == pytest.approx(
        {
            "sampling/sampling_logp_difference/mean": math.log(2) * (0 + 1 + 3) / 3,
            "sampling/sampling_logp_difference/max": math.log(8),
            "sampling/importance_sampling_ratio/min": 1.0,
            "sampling/importance_sampling_ratio/mean": 7 / 3,
            "sampling/importance_sampling_ratio/max": 4.0,
            "sampling/truncated_ratio": 1 / 3,
        }
    )
    assert set(sampling_metrics(OLD, BEHAVIOUR, mask, None)) == {*list(found)[:2]}
    assert sampling_metrics(OLD, BEHAVIOUR, torch.tensor([[False, False, False, True]]), 4.0) == {}


def test_rows_keep_it_and_rows_of_the_policy_have_none(make_batch):
    served = make_batch(torch.zeros(1, 2), behaviour=torch.tensor([[-1.0, -2.0], [-3.0, -4.0]]))
    assert served.take(torch.tensor([1])).behaviour.tolist() == [[-3.0, -4.0]]
    both = join([served, make_batch(torch.zeros(1, 2))]).behaviour
    assert both[:2].tolist() == [[-1.0, -2.0], [-3.0, -4.0]]
    assert both[2:].isnan().all()
