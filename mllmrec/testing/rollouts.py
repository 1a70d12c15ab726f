"""Checks of rollouts, with a random policy of 16 tokens."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from mllmrec.engine.base import Engine
from mllmrec.prompts.examples import Example
from mllmrec.rewards.base import with_rewards
from mllmrec.rewards.hit_format import HitFormat
from mllmrec.rl.batch import RolloutBatch
from mllmrec.rollout.base import Completions, PlainRollout, Rollout, Turn
from mllmrec.testing.expect import expect, expect_state, expect_tensor, shown
from mllmrec.testing.toys import VOCABULARY, toy_examples, toy_speaker

ROLLOUT = (
    "a rollout takes examples, a speaker, a judge and a Turn, and returns a RolloutBatch; one that draws once is a "
    "PlainRollout whose draw returns Completions of B * G rows, prompt by prompt (see mllmrec.rollout.base)"
)
_GROUP = 4


def check_rollout(rollout: Any, engine: Engine | None = None) -> None:
    """Check shapes, masks, groups, the same draw twice, examples in another order, and saved state.

    Args:
        rollout: the part.
        engine: runs the toy policy; None: the shared-prefix engine.

    Raises:
        AssertionError: it does something wrong.
    """
    expect(isinstance(rollout, Rollout), f"it is {shown(rollout)}, not a Rollout")
    for name in ("constrained", "temperature", "max_new_tokens"):
        expect(hasattr(rollout.plain, name), f"it has no attribute {name}")
    before = copy.deepcopy(rollout)
    with torch.random.fork_rng(devices=[]):
        if isinstance(rollout, PlainRollout):
            _check_draw(rollout, engine)
        examples = toy_examples(2, rollout.plain.describes)
        first = _called(rollout, examples, engine)
        _check_batch(first, rollout)
        again = _called(copy.deepcopy(before), examples, engine)
        expect(
            _said(again, examples) == _said(first, examples),
            "the same seed, step and examples give other rows",
        )
        turned = examples[::-1]
        moved = _called(copy.deepcopy(before), turned, engine)
        expect(
            _said(moved, examples) == _said(first, examples),
            "the rows of an example depend on the order of the examples",
        )
    expect_state(rollout)


def _called(rollout: Rollout, examples: Sequence[Example], engine: Engine | None) -> RolloutBatch:
    reward = HitFormat()

    def judge(batch: RolloutBatch) -> RolloutBatch:
        return with_rewards(batch, reward(batch))

    given = rollout(examples, toy_speaker(rollout, engine), judge, Turn(step=60, group_size=_GROUP))
    expect(isinstance(given, RolloutBatch), f"it returns {shown(given)}")
    return given


def _said(batch: RolloutBatch, examples: Sequence[Example]) -> dict[str, list[str]]:
    """What was said about each example, in alphabetical order."""
    found: dict[str, list[str]] = {example.sample_id: [] for example in examples}
    for row, text in enumerate(batch.texts):
        found[batch.examples[int(batch.example_of[row])].sample_id].append(text)
    return {name: sorted(texts) for name, texts in found.items()}


def _check_batch(batch: RolloutBatch, rollout: Rollout) -> None:
    ids, mask = batch.completions
    rows, width = ids.shape
    for name, tensor, shape in (
        ("mask is", mask, (rows, width)),
        ("prompt_of is", batch.prompt_of, (rows,)),
        ("example_of is", batch.example_of, (rows,)),
        ("group_of is", batch.group_of, (rows,)),
        ("learnt is", batch.learnt, (rows, width)),
        ("finished is", batch.finished, (rows,)),
    ):
        expect_tensor(f"its {name}", tensor, shape)
    _check_tokens(ids, mask, batch.learnt, "learnt tokens")
    expect(len(batch.texts) == rows, f"it has {len(batch.texts)} texts of {rows} rows")
    groups = sorted(set(batch.group_of.tolist()))
    expect(groups == list(range(len(groups))), f"its groups are {groups}, and groups count from 0 on")
    for name, places, count in (
        ("prompt_of", batch.prompt_of, len(batch.prompts.ids)),
        ("example_of", batch.example_of, len(batch.examples)),
    ):
        inside = bool(((places >= 0) & (places < count)).all())
        expect(inside, f"its {name} is {places.tolist()}, and there are {count}")
    expect(not rollout.off_policy or batch.old is not None, "it is off_policy and leaves old empty")
    # Rewards, advantages and the loss see the rows with each group's together.
    expect(len(replace(batch.by_group())) == rows, "its rows cannot be sorted by group")


def _check_draw(rollout: PlainRollout, engine: Engine | None) -> None:
    examples = toy_examples(2)
    speaker = toy_speaker(rollout, engine)
    prompts = speaker.policy.prompt_batch([example.prompt for example in examples])
    generators = [torch.Generator().manual_seed(row) for row in range(len(examples))]
    with torch.no_grad():
        encoded = speaker.engine.encode(speaker.policy.model, prompts)
        given = rollout.draw(
            speaker.engine,
            speaker.policy.model,
            encoded,
            _GROUP,
            generators,
            speaker.spelling(examples),
        )
    expect(isinstance(given, Completions), f"it returns {shown(given)}")
    group = rollout.rows(_GROUP, len(examples[0].candidates))
    rows, (ids, mask) = len(examples) * group, given.tokens
    width = ids.shape[-1]
    expect_tensor("its completions are", ids, (rows, width))
    for name, tensor, shape in (
        ("mask is", mask, (rows, width)),
        ("prompt_of is", given.prompt_of, (rows,)),
        ("decisions are", given.decisions, (rows, width)),
        ("finished is", given.finished, (rows,)),
    ):
        expect_tensor(f"its {name}", tensor, shape)
    expect(given.finished.dtype == torch.bool, f"its finished is of type {given.finished.dtype} and not bool")
    _check_tokens(ids, mask, given.decisions, "decisions")
    wanted = [row // group for row in range(rows)]
    expect(
        given.prompt_of.tolist() == wanted,
        f"its prompt_of is {given.prompt_of.tolist()}, but row r of {rows} must answer prompt r // {group}",
    )
    if given.weights is not None:
        weights = expect_tensor("its weights are", given.weights, (rows,))
        expect(bool((weights.isfinite() & (weights >= 0)).all()), f"its weights are {weights.tolist()}")


def _check_tokens(ids: torch.Tensor, mask: torch.Tensor, learnt: torch.Tensor, what: str) -> None:
    expect(mask.dtype == learnt.dtype == torch.bool, f"its mask and {what} are not both of type bool")
    padded = bool(mask[:, 0].all()) and not bool((mask[:, 1:] & ~mask[:, :-1]).any())
    expect(padded, f"its mask {mask.tolist()} is not padded on the right")
    expect(not bool((learnt & ~mask).any()), f"its {what} go beyond its completions")
    inside = bool(((ids >= 0) & (ids < VOCABULARY)).all())
    expect(inside, f"its completions {ids.tolist()} have ids outside the vocabulary of {VOCABULARY}")
