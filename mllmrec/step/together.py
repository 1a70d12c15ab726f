"""Completions and scores of which each process makes its share, and which all of them get; see `mllmrec.ranks`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from mllmrec.models.policy import Policy
from mllmrec.prompts.examples import Example
from mllmrec.ranks import the_ranks
from mllmrec.rl.batch import RolloutBatch, join

Part = TypeVar("Part")


class Writer(Protocol):
    """Who draws; `mllmrec.step.speaker.Speaker` does."""

    policy: Policy
    names: Any  # asks the questions
    generated_tokens: int


def drawn_together(
    writer: Writer,
    count: int,
    draw: Callable[[slice], RolloutBatch],
    examples: Sequence[Example],
) -> RolloutBatch:
    """The completions of ``count`` prompts in order; a prompt's completions are drawn by one process.

    Args:
        writer: counts the tokens that all processes write.
        count: number of prompts.
        draw: completes those of a slice.
        examples: of all completions.

    Raises:
        Exception: the first one that any process raised.
    """
    ranks = the_ranks()
    if not ranks.several or count == 0:
        return draw(slice(0, count))
    written, part = writer.generated_tokens, ranks.share(count)

    def own() -> tuple[RolloutBatch | None, int]:
        if part.stop == part.start:
            return None, 0
        # All processes have the examples, and a graph cannot be sent.
        batch = replace(draw(part), examples=(), questions=(), known=None)
        return batch, writer.generated_tokens - written

    with read_together(writer.policy):
        found = ranks.each(own)
    writer.generated_tokens = written + sum(tokens for _, tokens in found)
    whole = join([batch for batch, _ in found if batch is not None])
    return replace(whole, examples=examples, questions=[writer.names.question(one) for one in examples])


def scored_together(rows: Tensor, table: Tensor, score: Callable[[Tensor, Tensor], None]) -> Tensor:
    """The table with the scores of all ``rows``; those of a row are computed by one process.

    Args:
        rows: (r,) positions.
        table: (R, T) zeros.
        score: fills in the rows that it is given.
    """
    ranks = the_ranks()
    score(rows[ranks.share(len(rows))], table)
    return ranks.sum(table)


def whole_groups(rows: Tensor, group_of: Tensor) -> Tensor:
    """(r,) rows in the order of their groups → this process's share of the groups, as (s,) of these rows."""
    ranks = the_ranks()
    if not ranks.several:
        return rows
    groups, place = torch.unique(group_of[rows.cpu()], return_inverse=True)
    part = ranks.share(len(groups))
    return rows[((place >= part.start) & (place < part.stop)).to(rows.device)]


def micro_batches(rows: int, size: int) -> list[slice]:
    """The rows of each micro-batch of a step, those of all processes.

    Args:
        rows: of the step.
        size: the most rows of a micro-batch. Where that would leave a process without rows, there are fewer.
    """
    ranks = the_ranks()
    if ranks.several:
        size = max(1, min(size, -(-rows // ranks.size)))
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def dealt(parts: Sequence[Part]) -> Sequence[Part]:
    """This process's parts. Processes take turns, so that parts in the order of their lengths cost all of them alike."""
    ranks = the_ranks()
    return parts[ranks.rank :: ranks.size]


@contextmanager
def read_together(policy: Policy) -> Iterator[None]:
    """Let the policy count the prompts that any process reads in the block, which differ between processes."""
    ranks = the_ranks()
    before = policy.prompts_read, policy.prompt_tokens_read
    yield
    if ranks.several:
        own: dict[str, Any] = {
            "prompts": policy.prompts_read - before[0],
            "tokens": policy.prompt_tokens_read - before[1],
        }
        total = ranks.total(own)
        policy.prompts_read = before[0] + int(total["prompts"])
        policy.prompt_tokens_read = before[1] + int(total["tokens"])


def copies_of(examples: Sequence[Example]) -> list[tuple[str | int, ...]]:
    """What names the draws of each example beside its id: nothing, or how often the same prompt stood before it."""
    seen: Counter[tuple[str, str]] = Counter()
    names: list[tuple[str | int, ...]] = []
    for example in examples:
        before = seen[example.sample_id, example.prompt]
        names.append(("copy", before) if before else ())
        seen[example.sample_id, example.prompt] += 1
    return names
