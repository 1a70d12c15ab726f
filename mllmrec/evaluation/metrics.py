"""HR@K, NDCG@K and MRR from the rank of each user's one relevant item; U users, C candidates, K cut-off.

All cut-offs use the same ranking, so HR@K never falls as K grows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from mllmrec.errors import UserError
from mllmrec.randomness import numpy_generator


def metric_names(ks: Sequence[int]) -> list[str]:
    """The metrics reported for these cut-offs, in order, without NDCG@1, which equals HR@1.

    Raises:
        UserError: no cut-off, or one below 1.
    """
    cutoffs = sorted(set(ks))
    if not cutoffs or cutoffs[0] < 1:
        raise UserError(
            f"eval.ks={list(ks)} must hold at least one cut-off, all 1 or more; for example [1,3,5,10]"
        )
    return [f"HR@{k}" for k in cutoffs] + [f"NDCG@{k}" for k in cutoffs if k > 1] + ["MRR"]


def objective_name(ks: Iterable[int]) -> str:
    """The metric that runs are chosen by: NDCG at the second cut-off, or at the only one (NDCG@1 is HR@1).

    Args:
        ks: the cut-offs K, in any order.
    """
    cutoffs = sorted(set(ks))
    k = cutoffs[min(1, len(cutoffs) - 1)]
    return f"NDCG@{k}" if k > 1 else f"HR@{k}"


def cutoffs_of(names: Iterable[str]) -> list[int]:
    """The cut-offs K in the names of metrics, ascending."""
    return sorted({int(cutoff) for _, at, cutoff in (name.partition("@") for name in names) if at})


def _per_rank(ranks: np.ndarray, ks: Sequence[int]) -> dict[str, np.ndarray]:
    values: dict[str, np.ndarray] = {}
    for name in metric_names(ks):
        kind, _, cutoff = name.partition("@")
        if kind == "HR":
            values[name] = (ranks <= int(cutoff)).astype(np.float64)
        elif kind == "NDCG":
            values[name] = np.where(ranks <= int(cutoff), 1 / np.log2(ranks + 1), 0.0)
        else:
            values[name] = 1 / ranks
    return values


def per_user_metrics(ranks: np.ndarray, ks: Sequence[int]) -> dict[str, np.ndarray]:
    """Every metric of every user.

    HR@K = [rank ≤ K]. NDCG@K = [rank ≤ K] / log2(rank + 1), since the ideal DCG of a single relevant item is 1.
    MRR = 1 / rank. A target that was not ranked scores 0 in all of them.

    Args:
        ranks: (U,) 1-based rank of the target; nan where it was not ranked.
        ks: the cut-offs K.

    Returns:
        Metric name -> (U,) float64, in the order of `metric_names`.

    Raises:
        ValueError: a rank below 1.
    """
    ranks = np.asarray(ranks, dtype=np.float64)
    if (ranks < 1).any():
        raise ValueError(f"ranks start at 1, found {np.nanmin(ranks)}")
    return _per_rank(np.where(np.isnan(ranks), np.inf, ranks), ks)


def mean_metrics(per_user: dict[str, np.ndarray]) -> dict[str, float]:
    """The mean over users of every metric.

    Raises:
        UserError: there is no user to average over.
    """
    if any(len(values) == 0 for values in per_user.values()):
        raise UserError(
            "no user to evaluate: the split is empty; loosen the dataset's filters or choose another split"
        )
    return {name: float(values.mean()) for name, values in per_user.items()}


def expected_at_random(num_candidates: int, ks: Sequence[int]) -> dict[str, float]:
    """The expected metrics of a uniformly random order of C candidates: the mean over ranks 1 to C."""
    ranks = np.arange(1, num_candidates + 1, dtype=np.float64)
    return {name: float(values.mean()) for name, values in _per_rank(ranks, ks).items()}


def order_by_score(scores: np.ndarray, user_ids: Sequence[str] | np.ndarray, seed: int) -> np.ndarray:
    """The candidates of each user, best first.

    Each user has a random permutation that orders equal scores. A model that cannot tell candidates apart therefore
    scores at chance, wherever the target stands and however users are batched.

    Args:
        scores: (U, C); -inf puts a candidate last.
        user_ids: (U,), each user's permutation is drawn from the id.
        seed: the run's seed.

    Returns:
        (U, C) int64, indices into the columns of ``scores``.

    Raises:
        ValueError: a score is NaN (naming the user).
    """
    scores = np.asarray(scores)
    faulty = np.isnan(scores).any(axis=1)
    if faulty.any():
        user = user_ids[int(faulty.argmax())]
        raise ValueError(
            f"{int(faulty.sum())} of {len(scores)} users have a NaN score, first user {user}: the model diverged"
        )
    order = np.empty(scores.shape, dtype=np.int64)
    for row, user in enumerate(user_ids):
        shuffled = numpy_generator(seed, "ties", str(user)).permutation(scores.shape[1])
        order[row] = shuffled[np.argsort(-scores[row, shuffled], kind="stable")]
    return order
