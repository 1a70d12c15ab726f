"""Checks that a run leaves room for reasoning that a policy learns to give before its answer (``cot.placement=completion``)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from omegaconf import DictConfig

from mllmrec.config.capabilities import innermost
from mllmrec.config.phases import Phase
from mllmrec.errors import UserError
from mllmrec.models.policy import Policy
from mllmrec.prompts.examples import Examples
from mllmrec.samples.prepared import Prepared
from mllmrec.screen.progress import track

log = logging.getLogger(__name__)

MOST_CUT_OFF = 0.05  # the largest share of training completions that a limit may cut off
FEW = 0.5  # if fewer training prompts than this share ask for reasoning, a policy seldom learns to give it
_ENCODED_AT_ONCE = 1024


def check_learnt_reasoning(
    cfg: DictConfig, phases: Sequence[Phase], prepared: Prepared, policy: Policy
) -> None:
    """Refuse token limits that would cut off learnt reasoning; warn of settings that only work badly.

    Args:
        cfg: the run's configuration.
        phases: the run's phases.
        prepared: the data.
        policy: the policy that supplies the tokenizer.

    Raises:
        UserError: more than `MOST_CUT_OFF` of the training completions are longer than a limit; it says what to set.
    """
    lists = cfg.prompt.get("places", 1) > 1
    if not (prepared.asks or lists) or not any(phase.kind.supervised for phase in phases):
        return
    completions = completion_lengths(policy, prepared.train, lists)
    if len(completions) == 0:
        return
    rollouts = [innermost(phase.config(cfg).rollout) for phase in phases if phase.kind.rolls_out]
    what = "ranked lists" if lists else "reasoning"
    whole = (completions, f"training completions with {what}")
    limits = [_Limit("rollout.max_new_tokens", rollout.get("max_new_tokens"), *whole) for rollout in rollouts]
    if cfg.eval.ranking == "generate":
        limits.append(_Limit("eval.max_new_tokens", cfg.eval.max_new_tokens, *whole))
    if prepared.asks:
        thoughts = (
            reasoning_lengths(policy, prepared.train),
            "pieces of reasoning in training, closing tag included",
        )
        limits += [
            _Limit("rollout.max_reasoning_tokens", rollout.get("max_reasoning_tokens"), *thoughts)
            for rollout in rollouts
        ]
        if cfg.eval.ranking == "reasoned":
            limits.append(_Limit("eval.max_reasoning_tokens", cfg.eval.max_reasoning_tokens, *thoughts))
    tightest: dict[str, _Limit] = {}
    for limit in limits:
        if limit.value is not None and limit.value <= tightest.get(limit.setting, limit).value:
            tightest[limit.setting] = limit
    refused = []
    for limit in tightest.values():
        if limit.share > MOST_CUT_OFF:
            refused.append(limit.said())
        elif limit.share:
            log.warning("%s", limit.said())
    if refused:
        raise UserError("; ".join(refused) + ", or use shorter reasoning")
    if prepared.asks:
        _warn(cfg, prepared, len(completions))


@dataclass(frozen=True)
class _Limit:
    """A limit on what is written, beside the lengths of what is learnt."""

    setting: str
    value: Any  # tokens; None: no limit
    lengths: np.ndarray  # (n,) tokens
    what: str  # what has these lengths

    @property
    def share(self) -> float:
        """The share that it cuts off."""
        return float((self.lengths > self.value).mean()) if len(self.lengths) else 0.0

    def said(self) -> str:
        """What is wrong, and what to set."""
        count, longest = int((self.lengths > self.value).sum()), self.lengths.max()
        return (
            f"{self.setting}={self.value} cuts off {count:,} of {len(self.lengths):,} {self.what}: the longest has {longest} "
            f"tokens, and {self.value} lies at percentile {100 * (len(self.lengths) - count) // len(self.lengths)} of their "
            f"lengths; set {self.setting}={longest}"
        )


def completion_lengths(policy: Policy, examples: Examples, lists: bool = False) -> np.ndarray:
    """Tokens of every learnt completion with reasoning, including answer and end token, (n,) int64.

    Args:
        policy: the policy that supplies the tokenizer.
        examples: the training prompts.
        lists: whether answers are ranked lists, so that samples without reasoning count too; the first thousand of them
            stand for all.
    """
    chosen = np.flatnonzero(examples.carriers).tolist()
    if lists:
        chosen = sorted({*chosen, *range(min(len(examples), _ENCODED_AT_ONCE))})
    return _lengths(policy, examples, chosen, "reasoned_answer") + 1


def reasoning_lengths(policy: Policy, examples: Examples) -> np.ndarray:
    """Tokens of every learnt piece of reasoning with its closing tag, (n,) int64; arguments as above."""
    chosen = np.flatnonzero(examples.carriers).tolist()
    return _lengths(policy, examples, chosen, "reasoning") + len(policy.reasoning_tokens().closing)


def _lengths(policy: Policy, examples: Examples, chosen: Sequence[int], part: str) -> np.ndarray:
    blocks = [chosen[start : start + _ENCODED_AT_ONCE] for start in range(0, len(chosen), _ENCODED_AT_ONCE)]
    lengths: list[int] = []
    for block in track(blocks, "check completions", len(chosen), "completions", weigh=len):
        texts = [text for index in block if (text := getattr(examples[index], part))]
        lengths += [len(row) for row in policy.encode_answers(texts)] if texts else []
    return np.array(lengths, dtype=np.int64)


def _warn(cfg: DictConfig, prepared: Prepared, asking: int) -> None:
    if not prepared.asks_under(cfg.eval):
        return
    if asking < FEW * len(prepared.train):
        log.warning(
            "cot.placement=%s: only %s of %s training prompts ask for reasoning, but all evaluation prompts do, so "
            "training seldom covers what is measured; raise mix_ratio",
            cfg.cot.placement,
            f"{asking:,}",
            f"{len(prepared.train):,}",
        )
