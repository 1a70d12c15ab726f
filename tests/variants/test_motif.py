"""MOTIF: a first round earns the mean of what the rounds after it earn."""

from __future__ import annotations

import torch

from mllmrec.rl.groups import Groups


def test_the_pay_of_a_first_round():
    # The authors' four continuations of one first round earn 2, 0, 2, 0; as probabilities, 2 in half of the cases.
    assert Groups(torch.zeros(4, dtype=torch.long)).mean(torch.tensor([2.0, 0.0, 2.0, 0.0])).tolist() == [1.0]
    exact = Groups(torch.zeros(2, dtype=torch.long), torch.tensor([0.5, 0.5]))
    assert exact.mean(torch.tensor([2.0, 0.0])).tolist() == [1.0]
