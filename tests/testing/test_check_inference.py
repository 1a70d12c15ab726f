"""The check of inference parts passes those of mllmrec, and finds what is wrong with others."""

from __future__ import annotations

import numpy as np
import pytest

from mllmrec.evaluation.ranking import RankedExample, Ranker
from mllmrec.inference.base import Inference
from mllmrec.inference.best_of_n import BestOfN
from mllmrec.inference.majority import Majority
from mllmrec.inference.plain import PlainRanking
from mllmrec.inference.value_search import ValueSearch
from mllmrec.testing import check_inference
from mllmrec.variants.repexp_coreset import RepExpCoreset
from mllmrec.variants.select_best import SelectBest


@pytest.mark.parametrize(
    "part",
    [
        PlainRanking(),
        BestOfN(n=3),
        BestOfN(n=3, score="self_certainty", tokens="all", rest="unranked"),
        BestOfN(n=3, score="frequency"),
        Majority(n=3, ties="sum_logprob"),
        SelectBest(n=4, patience=2),
        RepExpCoreset(n=4, k=3),
        RepExpCoreset(n=3, k=2, dimensions=4, rest="unranked"),
        ValueSearch(iterations=4, samples=2, value_lists=2),
    ],
)
def test_parts_of_mllmrec_pass(part):
    check_inference(part)


class Peeks(Ranker):
    def rank(self, examples):
        return [RankedExample(np.array([one.target_column])) for one in examples]


class Twice(Ranker):
    def rank(self, examples):
        return [RankedExample(np.array([1, 1])) for _ in examples]


class OfBatch(Ranker):
    def rank(self, examples):
        return [RankedExample(np.array([len(examples)])) for _ in examples]


class Returns(Inference):
    def __init__(self, ranker):
        self.given = ranker

    def ranker(self, inputs):
        return self.given


@pytest.mark.parametrize(
    ("ranker", "message"),
    [
        (Peeks(), "other targets give other ranks"),
        (Twice(), r"it ranks the columns \[1, 1\] of 3 candidates"),
        (OfBatch(), "ranked alone"),
        ("a word", "its ranker returns a str"),
    ],
)
def test_wrong_parts_are_told_what_is_wrong(ranker, message):
    with pytest.raises(AssertionError, match=message):
        check_inference(Returns(ranker))
