"""How the training of each row went: numbers that every phase with rollouts logs under the same names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mllmrec.reporting.comparison import Scores, stage_of
from mllmrec.reporting.series import read_log

# Column of log.csv → its heading and form.
COLUMNS = {
    "frac_reward_zero_std": ("equal groups", "{:.3f}"),
    "clip_ratio/region_mean": ("clipped tokens", "{:.3f}"),
    "entropy": ("entropy", "{:.3f}"),
    "kl": ("KL", "{:.4f}"),
    "effective_sample_size": ("effective share", "{:.3f}"),
    "tokens_per_learnt": ("drawn per learnt", "{:.2f}"),
}
_AT_END = ("tokens_per_learnt",)  # counted over the whole phase so far


def training_numbers(scores: Sequence[Scores], stage: str) -> list[dict[str, float]]:
    """The mean of each logged number over the steps of a row's phase and over its seeds; only what every seed logged.

    Args:
        scores: the rows.
        stage: a phase's name, or ``last``.
    """
    found = []
    for entry in scores:
        seeds = []
        for run in entry.row.runs:
            log = read_log(run)
            own = log[log["stage"] == stage_of(run, stage)].sort_values("step")
            logged = {name: own[name].dropna() for name in COLUMNS if name in own}
            seeds.append(
                {
                    name: float(values.iloc[-1] if name in _AT_END else values.mean())
                    for name, values in logged.items()
                    if len(values)
                }
            )
        shared = [name for name in COLUMNS if all(name in seed for seed in seeds)]
        found.append({name: float(np.mean([seed[name] for seed in seeds])) for name in shared})
    return found
