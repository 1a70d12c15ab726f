"""Rows that are cut off, are told something, and go on: what `Speaker.go_on` draws from, and what it puts together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mllmrec.engine.base import ChoiceSets
from mllmrec.engine.batches import TokenBatch, pad
from mllmrec.rl.batch import RolloutBatch
from mllmrec.rollout.base import Completions, Spelling


@dataclass(frozen=True)
class Tail:
    """What becomes of one row."""

    row: int  # its place in the batch
    kept: int  # how many of its tokens stay
    told: Sequence[int]  # the tokens behind them


def prompts_with(batch: RolloutBatch, tails: Sequence[Tail]) -> TokenBatch:
    """The rows' prompts, each with the tokens that stay and those that are told."""
    rows = []
    for tail in tails:
        ids, mask = (part[batch.prompt_of[tail.row]] for part in batch.prompts)
        rows.append([*ids[mask].tolist(), *_head(batch, tail)])
    return pad(rows, 0, side="left").to(batch.prompts.ids.device)


def left_to_say(spelling: Spelling, batch: RolloutBatch, tails: Sequence[Tail]) -> Spelling:
    """The spelling of the rest of r lists, after the items that they keep.

    Args:
        spelling: of r whole lists.
        batch: the lists' batch; its segments are places.
        tails: how much of each stays.

    Raises:
        ValueError: the lists do not keep equally many items.
    """
    assert batch.segments is not None
    answers, counts = [], set()
    for tail, options in zip(tails, spelling.answers, strict=True):
        ids, places = (_first(part[tail.row], tail.kept) for part in (batch.completions.ids, batch.segments))
        count = max(places, default=-1) + 1
        said = [
            [token for token, own in zip(ids, places, strict=True) if own == place] for place in range(count)
        ]
        answers.append([answer for answer in options if list(answer) not in said])
        counts.add(count)
    if len(counts) > 1:
        raise ValueError(f"lists go on together that keep {sorted(counts)} items: let them go on one by one")
    return replace(spelling, answers=answers, leads=spelling.leads[counts.pop() :])


def grown_rows(batch: RolloutBatch, tails: Sequence[Tail], drawn: Completions) -> RolloutBatch:
    """The rows with what was told and drawn behind them, under their own prompts; still without texts.

    Args:
        batch: the rows' batch.
        tails: r of its rows.
        drawn: r completions of `prompts_with`.

    Raises:
        ValueError: the completions are all answers, and not draws.
    """
    if drawn.weights is not None:
        raise ValueError("only draws go on, and not all answers with their probabilities")
    rows = batch.take(torch.tensor([tail.row for tail in tails]))
    choices, shift = _both_choices(batch, drawn)
    ids, learnt, foreign, sets, segments = [], [], [], [], []
    for place, tail in enumerate(tails):
        length, told = int(drawn.tokens.mask[place].sum()), len(tail.told)
        ids.append([*_head(batch, tail), *_first(drawn.tokens.ids[place], length)])
        before = _first(batch.learnt[tail.row], tail.kept)
        learnt.append([*before, *[True] * told, *_first(drawn.decisions[place], length)])
        foreign.append([False] * tail.kept + [True] * told + [False] * length)
        stays = [-1] * tail.kept if batch.segments is None else _first(batch.segments[tail.row], tail.kept)
        # Places of a list count on.
        places = max(stays, default=-1) + 1
        answer = [0] * length if drawn.segments is None else _first(drawn.segments[place], length)
        segments.append([*stays, *[-1] * told, *(one + places if one >= 0 else one for one in answer)])
        if batch.choices is not None and drawn.choices is not None:
            after = [one if one < 0 else one + shift for one in _first(drawn.choices.set_of[place], length)]
            sets.append([*_first(batch.choices.set_of[tail.row], tail.kept), *[-1] * told, *after])
    device = batch.completions.ids.device
    completions = pad(ids, 0, side="right").to(device)

    def filled(values: list[Any], filling: Any) -> Tensor:
        width = completions.ids.shape[1]
        return torch.tensor([[*row, *[filling] * (width - len(row))] for row in values], device=device)

    return replace(
        rows,
        completions=completions,
        learnt=filled(learnt, False),
        foreign=filled(foreign, False),
        segments=filled(segments, -1),
        choices=None if choices is None else ChoiceSets(filled(sets, -1), choices),
        finished=drawn.finished,
        texts=[""] * len(tails),
        weights=None,
        old=None,
        behaviour=None,
        reference=None,
        teacher=None,
        rewards=None,
        place_rewards=None,
        greedy=None,
        parts={},
    )


def _first(values: Tensor, count: int) -> list[Any]:
    return values[:count].tolist()


def _head(batch: RolloutBatch, tail: Tail) -> list[int]:
    return [*_first(batch.completions.ids[tail.row], tail.kept), *tail.told]


def _both_choices(batch: RolloutBatch, drawn: Completions) -> tuple[Tensor | None, int]:
    """The sets of tokens of both, and how far those of the draws moved."""
    if batch.choices is None or drawn.choices is None:
        return None, 0
    tables = [batch.choices.tokens, drawn.choices.tokens]
    width = max(table.shape[1] for table in tables)
    wide = [
        torch.nn.functional.pad(table, (0, width - table.shape[1]), value=-1).to(tables[0].device)
        for table in tables
    ]
    return torch.cat(wide), len(tables[0])
