"""Checks that a run leaves room for reasoning that a policy learns to give before its answer (``cot.placement=completion``)."""

from __future__ import annotations

import logging
from collections.abc import Sequence

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
    lengths = completion_lengths(policy, prepared.train, lists)
    if len(lengths) == 0:
        return
    rollouts = [innermost(phase.config(cfg).rollout) for phase in phases if phase.kind.rolls_out]
    given = [rollout["max_new_tokens"] for rollout in rollouts if "max_new_tokens" in rollout]
    limits = {"rollout": min(given)} if given else {}
    if cfg.eval.ranking == "generate":
        limits["eval"] = cfg.eval.max_new_tokens
    refused = []
    for section, limit in limits.items():
        cut_off = int((lengths > limit).sum())
        if cut_off == 0:
            continue
        found = (
            f"{section}.max_new_tokens={limit} cuts off {cut_off:,} of {len(lengths):,} training completions with "
            f"{'ranked lists' if lists else 'reasoning'}: the longest has {lengths.max()} tokens, and {limit} lies at percentile "
            f"{100 * (len(lengths) - cut_off) // len(lengths)} of their lengths; set "
            f"{section}.max_new_tokens={lengths.max()}"
        )
        if cut_off > MOST_CUT_OFF * len(lengths):
            refused.append(found)
        else:
            log.warning("%s", found)
    if refused:
        raise UserError("; ".join(refused) + ", or use shorter reasoning")
    if prepared.asks:
        _warn(cfg, prepared, len(lengths))


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
    blocks = [chosen[start : start + _ENCODED_AT_ONCE] for start in range(0, len(chosen), _ENCODED_AT_ONCE)]
    lengths: list[int] = []
    for block in track(blocks, "check completions", len(chosen), "completions", weigh=len):
        texts = [text for index in block if (text := examples[index].reasoned_answer)]
        lengths += [len(row) + 1 for row in policy.encode_answers(texts)] if texts else []
    return np.array(lengths, dtype=np.int64)


def _warn(cfg: DictConfig, prepared: Prepared, asking: int) -> None:
    if not prepared.asks_under(cfg.eval):
        return
    if asking < FEW * len(prepared.train):
        log.warning(
            "cot.placement=completion: only %s of %s training prompts ask for reasoning, but all evaluation prompts do, so "
            "training seldom covers what is measured; raise mix_ratio",
            f"{asking:,}",
            f"{len(prepared.train):,}",
        )
