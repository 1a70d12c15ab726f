"""Numbers about an update that have the same name and meaning whatever the loss, so that methods can be compared.

``clip_ratio/region_mean`` is the share of tokens that a clip held, as in TRL; a loss without a clip has 0. ``entropy`` and
``kl`` are in nats per token that was learnt; ``kl`` is to the reference, always as k3, and is there if the step has a
reference.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mllmrec.rl.batch import RolloutBatch
from mllmrec.rl.kl import kl_estimate
from mllmrec.rl.losses import FARTHEST, LossInputs
from mllmrec.step.speaker import Speaker

_CLIPS = "clip_ratio/"


def token_diagnostics(inputs: LossInputs, of_loss: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """(r, T) numbers whose mean over tokens is logged.

    Args:
        inputs: what the loss saw.
        of_loss: the loss's own numbers; those under ``clip_ratio/`` say which tokens a clip held.
    """
    held = torch.zeros_like(inputs.mask)
    for name, values in of_loss.items():
        if name.startswith(_CLIPS):
            held = held | values.bool()
    found = {"entropy": inputs.entropy, f"{_CLIPS}region_mean": held}
    if inputs.reference is not None:
        found["kl"] = kl_estimate(inputs.logprobs.detach(), inputs.reference, "k3")
    return found


def effective_share(batch: RolloutBatch, now: Tensor, rows: Tensor) -> dict[str, float]:
    """The effective sample size of the completions that are learnt, as a share of their number.

    With the ratio w of each completion, the product over its tokens, it is ``(sum w)² / (n sum w²)``: 1 if the policy is
    still the one that drew them, 1 / n if a single completion carries all weight.

    Args:
        batch: ``old`` has the log-probabilities of whoever drew the completions.
        now: (R, T) log-probabilities of the policy.
        rows: (n,) the completions that are learnt.
    """
    if batch.old is None or not len(rows):
        return {}
    distance = torch.where(batch.learnt[rows], now[rows] - batch.old[rows], 0.0).double().sum(1)
    ratio = distance.clamp(-FARTHEST, FARTHEST).exp()
    counts = torch.ones_like(ratio) if batch.weights is None else batch.weights[rows].to(ratio)
    share = (counts * ratio).sum().square() / (counts.sum() * (counts * ratio.square()).sum())
    return {"effective_sample_size": float(share)}


class LearntTokens:
    """Counts the tokens that are learnt, each once for every time it was drawn, and what it took to draw them."""

    def __init__(self, speaker: Speaker) -> None:
        self.speaker, self.count = speaker, 0

    def add(self, count: int) -> None:
        """Count the tokens of a step."""
        self.count += count

    def metrics(self) -> dict[str, float]:
        """Tokens learnt so far, and tokens generated so far for each of them, if there are any."""
        found = {"num_tokens_learnt": float(self.count)}
        if self.count:
            found["tokens_per_learnt"] = self.speaker.generated_tokens / self.count
        return found
