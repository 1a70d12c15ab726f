"""Ranks a whole split and writes the results, user by user."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from mllmrec.evaluation.metrics import mean_metrics, per_user_metrics
from mllmrec.evaluation.ranking import RankedExample, Ranker
from mllmrec.evaluation.records import StageRecords, StageWriter, validity_rates
from mllmrec.prompts.examples import Example, Examples
from mllmrec.ranks import apart, the_ranks


@dataclass(frozen=True)
class Evaluation:
    """One ranker on one split; U users."""

    ranks: np.ndarray  # (U,) 1-based; nan when the target was not ranked
    validity: dict[str, float]
    generated_tokens: int

    def per_user(self, ks: Sequence[int]) -> dict[str, np.ndarray]:
        """Every metric of every user."""
        return per_user_metrics(self.ranks, ks)

    def means(self, ks: Sequence[int]) -> dict[str, float]:
        """Every metric's mean over users."""
        return mean_metrics(self.per_user(ks))


def evaluate(
    examples: Examples,
    ranker: Ranker,
    batches: Iterable[Sequence[int] | np.ndarray],
    writer: StageWriter | None = None,
    slices: Sequence[Sequence[str]] | None = None,
) -> Evaluation:
    """Rank the examples of ``batches`` (lists of positions) and collect the rank of each target.

    Of several processes each ranks its own batches, and all of them get all results.

    Args:
        examples: the examples.
        ranker: ranks their candidates.
        batches: lists of positions; the results are in this order.
        writer: also takes each user's ranking; None: nothing is written.
        slices: for the writer, the names of each user's slices, in the order of the batches.
    """
    columns = _Columns(["ranks", "listed", "wanted", "duplicates", "off_candidate", "top"])
    tokens = -ranker.generated_tokens
    done = 0
    with ranker.ready():
        tokens += ranker.generated_tokens  # what it wrote to get ready
        for batch, ranked, written in _ranked(examples, ranker, batches):
            tokens += written + sum(result.generated_tokens for result in ranked)
            chosen = [examples.without_prompt(int(index)) for index in batch]
            ranks = [
                result.rank_of(example.target_column) for example, result in zip(chosen, ranked, strict=True)
            ]
            columns.add(
                ranks=ranks,
                listed=[len(result.order) for result in ranked],
                wanted=[len(example.candidates) for example in chosen],
                duplicates=[result.duplicates for result in ranked],
                off_candidate=[result.off_candidate for result in ranked],
                top=[result.place_of_first for result in ranked],
            )
            if writer is not None:
                names = None if slices is None else slices[done : done + len(chosen)]
                writer.append(_records(examples, chosen, ranked, np.array(ranks), writer.keep_top, names))
            done += len(chosen)
    found = columns.whole()
    ranks_of_all = found.pop("ranks")
    validity = validity_rates(
        *(found[name] for name in ("listed", "wanted", "duplicates", "off_candidate", "top"))
    )
    return Evaluation(ranks_of_all, validity, tokens)


class _Columns:
    """One number of each user under several names, without an object for each, while users are ranked batch by batch."""

    def __init__(self, names: Sequence[str]) -> None:
        self._columns = {name: array("d") for name in names}

    def add(self, **values: Sequence[float]) -> None:
        """The numbers of a batch."""
        for name, numbers in values.items():
            self._columns[name].extend(numbers)

    def whole(self) -> dict[str, np.ndarray]:
        """(U,) float64 each."""
        return {name: np.array(column, dtype=np.float64) for name, column in self._columns.items()}


def _ranked(
    examples: Examples, ranker: Ranker, batches: Iterable[Sequence[int] | np.ndarray]
) -> Iterator[tuple[Sequence[int] | np.ndarray, list[RankedExample], int]]:
    """Every batch in order, its results, and the tokens that the ranker wrote and the results do not count.

    Processes rank whole batches, so that each result is that of one process to the last bit.
    """
    ranks, batches = the_ranks(), iter(batches)
    example_of = examples.__getitem__ if ranker.reads_prompts else examples.without_prompt

    def rank(batch: Sequence[int] | np.ndarray) -> tuple[list[RankedExample], int]:
        before = ranker.generated_tokens
        with apart():
            return ranker.rank([example_of(int(index)) for index in batch]), ranker.generated_tokens - before

    if not ranks.several or ranker.in_order:
        for batch in batches:
            yield batch, *rank(batch)
        return
    while together := list(islice(batches, ranks.size)):
        own = together[ranks.rank : ranks.rank + 1]
        found = ranks.each(lambda own=own: [rank(batch) for batch in own])  # type: ignore[misc]
        for batch, [result] in zip(together, found[: len(together)], strict=True):
            yield batch, *result


def _records(
    examples: Examples,
    chosen: Sequence[Example],
    ranked: Sequence[RankedExample],
    ranks: np.ndarray,
    keep_top: int,
    slices: Sequence[Sequence[str]] | None,
) -> StageRecords:
    ids = examples.builder.ids
    return StageRecords(
        user_ids=[example.user_id for example in chosen],
        target_ids=[ids[example.target] for example in chosen],
        ranks=ranks,
        rankings=[
            [ids[item] for item in example.candidates[result.order[:keep_top]].tolist()]
            for example, result in zip(chosen, ranked, strict=True)
        ],
        num_candidates=np.array([len(example.candidates) for example in chosen]),
        texts=[result.text for result in ranked]
        if any(result.text is not None for result in ranked)
        else None,
        slices=slices,
        scores=None
        if any(result.scores is None for result in ranked)
        else [result.scores[result.order[:keep_top]] for result in ranked if result.scores is not None],
    )
