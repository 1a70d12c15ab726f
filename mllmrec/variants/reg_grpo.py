"""Reg-GRPO (DeepVideo-R1, Park et al. 2025, arXiv 2506.07464): log-ratios are regressed on advantages, without a clip."""

from __future__ import annotations

from typing import Literal

from mllmrec.rl.groups import Groups
from mllmrec.rl.losses import LossInputs, LossOutputs, PolicyLoss, log_ratio, mean_of_tokens


class RegGrpo(PolicyLoss):
    """``(A - g')²`` for each completion, where ``g' = (g - mean g) / sqrt(var g + epsilon)`` within its group.

    g is the completion's log-ratio: the mean over its tokens, or their sum. The paper's text leaves open which; the mean
    suits answers of different lengths. The variance has the divisor G - 1, like that of GRPO's advantages, A. Every token
    carries its completion's term, so that ``aggregation=sequence_mean`` gives the paper's loss.

    In the first update of a rollout all g are 0. epsilon keeps the gradient finite there: it is REINFORCE's, times
    2 / sqrt(epsilon) and without its mean over the group. The regression itself begins with the second update.
    """

    accepts = frozenset({"sequence"})
    whole_groups = True

    def __init__(self, epsilon: float = 1e-4, ratio: Literal["mean", "sum"] = "mean") -> None:
        if epsilon <= 0:
            raise ValueError(
                f"epsilon={epsilon}: must be positive, because all log-ratios are equal at first"
            )
        if ratio not in ("mean", "sum"):
            raise ValueError(f"ratio={ratio}: is none of mean, sum")
        self.epsilon, self.ratio = epsilon, ratio

    def __call__(self, inputs: LossInputs) -> LossOutputs:
        """The terms."""
        assert inputs.group_of is not None
        tokens, mask = log_ratio(inputs), inputs.mask
        distance = mean_of_tokens(tokens, mask)[:, 0] if self.ratio == "mean" else tokens.sum(1)
        groups = Groups(inputs.group_of.unique(return_inverse=True)[1], inputs.weights)
        centred = distance - groups.rows(groups.mean(distance))
        variance = groups.mean(centred.square())
        if inputs.weights is None:
            variance = variance * (groups.sizes / (groups.sizes - 1).clamp_min(1))
        found = centred / groups.rows(variance + self.epsilon).sqrt()
        return LossOutputs((inputs.advantages - found[:, None]).square().expand(mask.shape))
