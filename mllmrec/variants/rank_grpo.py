"""Rank-GRPO (ConvRec-R1, Zhu et al. 2025, arXiv 2510.20150): credit, ratio and clip for each place of a ranked list.

A completion is a list of N items, one per line. With h_k = 1 if item k is the target and d_k = 1 / log2(k + 1), place k is
paid for the hits from its place on, r_k = sum of h_j d_j over j >= k: those that it can still influence.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mllmrec.prompts.examples import Example
from mllmrec.rewards.base import Reward, Rewards
from mllmrec.rl.advantages import Advantage, group_relative
from mllmrec.rl.batch import RolloutBatch
from mllmrec.rl.losses import LossInputs, LossOutputs, PolicyLoss
from mllmrec.rollout.base import Judge, Speaker, Turn, WrappedRollout


class Lined(WrappedRollout):
    """Tells the places of a list apart: the segment of a token is its line, from 0 on; newlines and the end have none.

    The place in front of an item is a part of its line.
    """

    def __call__(
        self, examples: Sequence[Example], speaker: Speaker, judge: Judge, turn: Turn
    ) -> RolloutBatch:
        """The rows of the inner rollout, with their segments."""
        batch = self.inner(examples, speaker, judge, turn)
        return batch.with_segments(lines_of(speaker.pieces(batch), batch.completions.ids.shape[1]))


def lines_of(pieces: Sequence[Sequence[str]], width: int) -> Tensor:
    """(R, T) the line of each token, -1 for newlines and what is no text.

    Args:
        pieces: the text of each token of each row, without padding; the end token has none.
        width: T.
    """
    segments = torch.full((len(pieces), width), -1)
    for row, tokens in enumerate(pieces):
        line = 0
        for place, text in enumerate(tokens):
            if text.strip():
                segments[row, place] = line + text[: len(text) - len(text.lstrip())].count("\n")
            line += text.count("\n")
    return segments


class RankList(Reward):
    """Pays each place of a list; a list that is not well formed, or names what is not listed, gets nothing.

    ``credit="log_decay"`` pays a place for the discounted hits from it on, ``"exp_inf"`` for its own hit alone, ``"so_far"``
    for the discounted hits up to it (Step-GRPO). The total is the list's NDCG.
    """

    parts = ("format", "hit")
    pays_places = True

    def __init__(self, credit: str = "log_decay") -> None:
        if credit not in ("log_decay", "exp_inf", "so_far"):
            raise ValueError(f"credit={credit!r} is none of log_decay, exp_inf, so_far")
        self.credit = credit

    @property
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest possible total."""
        return 0.0, 1.0

    def __call__(self, batch: RolloutBatch) -> Rewards:
        """See `Reward`; ``places`` is (R, N)."""
        longest = max(question.places for question in batch.questions)
        hits, formed = torch.zeros(len(batch), longest), torch.zeros(len(batch))
        for row, answer in enumerate(batch.answers):
            question = batch.question(row)
            if question.well_formed(answer) and all(item in question.titles for item, _ in answer.items):
                formed[row] = 1.0
                for place, (item, _) in enumerate(answer.items):
                    hits[row, place] = float(item == question.target_id)
        gains = hits / (torch.arange(longest) + 2.0).log2()
        places = {
            "log_decay": gains.flip(1).cumsum(1).flip(1),
            "exp_inf": hits,
            "so_far": gains.cumsum(1),
        }[self.credit]
        return Rewards(gains.sum(1), {"format": formed, "hit": hits.sum(1)}, places)


class RankRelative(Advantage):
    """``(r_k - mean) / (std + epsilon)`` of each place within the group, for all tokens of the place's line."""

    varies = "segment"
    needs_places = True

    def __init__(self, epsilon: float = 1e-4) -> None:
        self.epsilon = epsilon

    def __call__(self, batch: RolloutBatch) -> Tensor:
        """(R, T)."""
        if batch.place_rewards is None or batch.segments is None:
            raise ValueError(
                "rank_grpo goes with a reward of places and a rollout of lines: choose variant=rank_grpo"
            )
        table = group_relative(batch.place_rewards, batch.groups, epsilon=self.epsilon)
        segments = batch.segments.cpu()
        inside = (segments >= 0) & (segments < table.shape[1])
        return torch.where(inside, table.gather(1, segments.clamp(0, table.shape[1] - 1)), 0.0)


class RankRatio(PolicyLoss):
    """PPO's clip on the geometric-mean ratio of each line, ``w_k = exp(mean over its tokens of (l - l_old))``.

    In token-gradient form: every token of the line has the line's ratio and its own gradient.
    """

    accepts = frozenset({"sequence", "segment"})

    def __init__(self, epsilon_low: float = 0.06, epsilon_high: float = 0.08) -> None:
        self.low, self.high = epsilon_low, epsilon_high

    def __call__(self, inputs: LossInputs) -> LossOutputs:
        """The terms; a completion without segments is one line."""
        mask, weight = inputs.mask, inputs.advantages
        segments = torch.zeros_like(mask, dtype=torch.long) if inputs.segments is None else inputs.segments
        lines = segments.masked_fill(~mask, -1) + 1  # column 0 takes what belongs to no line
        counts = inputs.logprobs.new_zeros(len(mask), int(lines.max()) + 1)
        log_ratio = torch.where(mask, inputs.logprobs - inputs.old, 0.0).detach()
        sizes = counts.scatter_add(1, lines, mask.to(counts.dtype)).clamp_min(1)
        means = counts.scatter_add(1, lines, log_ratio) / sizes
        ratio = (means.gather(1, lines) + inputs.logprobs - inputs.logprobs.detach()).exp()
        free, held = ratio * weight, ratio.clamp(1 - self.low, 1 + self.high) * weight
        return LossOutputs(
            -torch.minimum(free, held),
            {
                "clip_ratio/low_mean": mask & (ratio < 1 - self.low) & (weight < 0),
                "clip_ratio/high_mean": mask & (ratio > 1 + self.high) & (weight > 0),
            },
        )
