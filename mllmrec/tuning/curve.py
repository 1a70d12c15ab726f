"""How a trial ranks held-out users while it trains, from its log."""

from __future__ import annotations

from pathlib import Path

from mllmrec.run.log_rows import read_log

PHASE = 1_000_000  # steps of a phase, so that the steps of all phases are numbered in one row


def curve(log: Path, metric: str) -> dict[int, float]:
    """Step → the metric of held-out users; the second phase's steps count from 1,000,000, and so on.

    Args:
        log: a run's `log.csv`; it need not be there yet.
        metric: such as ``NDCG@3``.
    """
    if not log.exists():
        return {}
    phases: dict[str, int] = {}
    found = {}
    for row in read_log(log):
        phase = phases.setdefault(row["stage"], len(phases))
        # Classical recommenders log the objective under that name.
        value = row.get(f"val/{metric}") or row.get("val/objective")
        if value is not None:
            found[phase * PHASE + int(row["step"])] = float(value)
    return found
