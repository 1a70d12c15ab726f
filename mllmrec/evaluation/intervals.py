"""Confidence intervals of means over users, and tests of two models on the same users; U users, K metrics."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from mllmrec.errors import UserError
from mllmrec.randomness import numpy_generator

MANY = 200_000  # users
_BLOCK_ELEMENTS = 1 << 22  # values drawn at once: bounds memory, not the result's quality


def bootstrap_intervals(
    per_user: dict[str, np.ndarray], seed: int, resamples: int = 1000, confidence: float = 0.95
) -> dict[str, list[float]]:
    """Percentile bootstrap interval of each metric's mean, resampling users.

    All metrics use the same resamples, so the intervals of one phase are consistent: the interval of HR@3 never
    lies above the interval of HR@5. Two phases evaluated on the same users use the same resamples too.

    Of more than `MANY` users, a resample is drawn as how often it has each combination of values, not user by user. Its
    distribution is the same, and a thousand resamples of a million users take no minutes.

    Args:
        per_user: metric name -> (U,).
        seed: the run's seed.
        resamples: how many bootstrap samples.
        confidence: coverage.

    Returns:
        Metric name -> [low, high].

    Raises:
        UserError: fewer than two users.
    """
    values = np.stack(list(per_user.values()))
    num_users = values.shape[1]
    if num_users < 2:
        raise UserError(
            f"an interval needs at least 2 users, but there are {num_users}: loosen the dataset's filters"
        )
    if num_users > MANY:
        means = _resampled_means(values, numpy_generator(seed, "bootstrap"), resamples)
        edges = (0.5 - confidence / 2, 0.5 + confidence / 2)
        low, high = np.quantile(means, edges, axis=0)
        return {name: [float(low[row]), float(high[row])] for row, name in enumerate(per_user)}
    interval = stats.bootstrap(
        (values,),
        np.mean,
        axis=-1,
        n_resamples=resamples,
        confidence_level=confidence,
        method="percentile",
        batch=max(1, _BLOCK_ELEMENTS // values.size),
        rng=numpy_generator(seed, "bootstrap"),
    ).confidence_interval
    return {name: [float(interval.low[row]), float(interval.high[row])] for row, name in enumerate(per_user)}


def _resampled_means(values: np.ndarray, generator: np.random.Generator, resamples: int) -> np.ndarray:
    """(R, K) means of R resamples of the users in (K, U)."""
    codes = np.zeros(values.shape[1], dtype=np.int64)
    for row in values:
        levels, code = np.unique(row, return_inverse=True)
        codes = np.unique(codes * len(levels) + code, return_inverse=True)[1]
    _, first, counts = np.unique(codes, return_index=True, return_counts=True)
    drawn = generator.multinomial(len(codes), counts / len(codes), size=resamples)
    return drawn @ values[:, first].T / len(codes)


def crossed_interval(
    values: np.ndarray, seed: int, resamples: int = 4000, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the mean of S seeds by U users, resampling seeds and users, each on its own.

    The bootstrap of crossed factors (Owen, "The pigeonhole bootstrap", 2007). It errs on the wide side in users, but with
    few seeds it is too narrow in seeds: of three seeds, resampling sees two thirds of their variance. So the seeds' part of
    each resample is stretched by sqrt(S / (S - 1)).

    Args:
        values: (S, U), such as differences of two models, seed by seed on the same users.
        seed: the run's seed.
        resamples: how many bootstrap samples.
        confidence: coverage.

    Returns:
        (low, high). With one seed only users are resampled.

    Raises:
        ValueError: no seed, or fewer than two users.
    """
    num_seeds, num_users = values.shape
    if num_seeds < 1 or num_users < 2:
        raise ValueError(
            f"an interval over seeds and users needs a seed and two users, and got {values.shape}"
        )
    generator = numpy_generator(seed, "crossed bootstrap")
    users = generator.multinomial(num_users, np.full(num_users, 1 / num_users), size=resamples) / num_users
    by_seed = users @ values.T  # (R, S)
    drawn = generator.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=resamples) / num_seeds
    stretch = np.sqrt(num_seeds / (num_seeds - 1)) if num_seeds > 1 else 0.0
    middle = by_seed.mean(axis=1)
    means = middle + stretch * ((drawn * by_seed).sum(axis=1) - middle)
    low, high = np.quantile(means, (0.5 - confidence / 2, 0.5 + confidence / 2))
    return float(low), float(high)


def sign_flip_p_values(differences: np.ndarray, seed: int, flips: int = 4999) -> np.ndarray:
    """Two-sided p of the paired randomisation test that each row's mean is 0.

    If the two models were exchangeable, each user's difference could just as well have the other sign. All rows
    share F random sign patterns: p = (1 + number of patterns at least as extreme) / (F + 1). So p is at least
    1 / (F + 1) and never 0.

    Args:
        differences: (K, U), the per-user differences of one metric in each row.
        seed: the run's seed.
        flips: F.

    Returns:
        (K,) float64.
    """
    generator = numpy_generator(seed, "sign flips")
    changed = differences[:, (differences != 0).any(axis=0)]
    num_changed = changed.shape[1]
    if num_changed == 0:
        return np.ones(len(differences))
    observed = np.abs(changed.sum(axis=1))
    # Rounding separates sums that are equal in exact arithmetic; a tie must count as extreme.
    threshold = observed - 1e-9 * np.abs(changed).sum(axis=1)
    extreme = np.zeros(len(differences), dtype=np.int64)
    block = max(1, _BLOCK_ELEMENTS // num_changed)
    for start in range(0, flips, block):
        kept = generator.integers(0, 2, size=(min(block, flips - start), num_changed), dtype=np.int8)
        flipped_sums = 2 * (kept.astype(np.float64) @ changed.T) - changed.sum(axis=1)
        extreme += (np.abs(flipped_sums) >= threshold).sum(axis=0)
    return (extreme + 1) / (flips + 1)


def paired_differences(
    a: dict[str, np.ndarray], b: dict[str, np.ndarray], seed: int, resamples: int = 1000
) -> dict[str, dict[str, Any]]:
    """Mean over users of ``a - b`` for each metric, with its interval and two-sided p.

    Args:
        a: metric name -> (U,), users in the same order as in ``b`` (join by id first: `records.joined_ranks`).
        b: the same metrics of the other model.
        seed: the run's seed.
        resamples: how many bootstrap samples.

    Returns:
        Metric name -> {"mean", "interval": [low, high], "p", "users": U}.

    Raises:
        ValueError: ``a`` and ``b`` differ in their metrics or in their number of users.
    """
    if list(a) != list(b) or any(a[name].shape != b[name].shape for name in a):
        raise ValueError("a paired comparison needs the same metrics on the same users on both sides")
    differences = {name: a[name] - b[name] for name in a}
    intervals = bootstrap_intervals(differences, seed, resamples)
    p_values = sign_flip_p_values(np.stack(list(differences.values())), seed)
    return {
        name: {"mean": float(values.mean()), "interval": intervals[name], "p": float(p), "users": len(values)}
        for (name, values), p in zip(differences.items(), p_values, strict=True)
    }
