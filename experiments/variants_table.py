"""The table and the picture of ``./sweep.sh variants``: every system beside plain GRPO and beside the SFT that it began with.

    python experiments/variants_table.py sweep=sweeps/variants-small picture=experiments/variants.png

Differences are paired by user, and each user's NDCG@3 is first averaged over the seeds that both sides have finished. With
``weights=last`` the weights after the last step are ranked, and not those that held-out users chose, which may be SFT's.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from command_line import WrongUse, read_settings

from mllmrec.evaluation.intervals import paired_differences
from mllmrec.evaluation.metrics import per_user_metrics
from mllmrec.evaluation.records import read_stage, stages_in

METRIC, PLAIN = "NDCG@3", "grpo"
BEFORE = ("warmup", "sft")  # phases whose cost is not a system's own


@dataclass(frozen=True)
class Settings:
    """The command line."""

    sweep: str = "sweeps/variants-small"
    picture: str = ""  # a PNG file; empty for none
    weights: str = "kept"  # kept: those that held-out users chose; last: those after the last step
    seeds: str = ""  # such as 0,1; empty for all


@dataclass(frozen=True)
class Run:
    """One finished job."""

    users: Mapping[str, Mapping[str, float]]  # phase → user → NDCG@3
    last: str  # phase
    asks: tuple[str, ...]  # what the ranking is: how it is done, and of how many phases
    tokens: int  # generated after SFT
    seconds: float  # of the phases after SFT


def read(folder: Path, weights: str) -> Run | None:
    """A job's run; None if it has not finished. ``weights``: see `Settings`."""
    if not (folder / "finished.json").exists():
        return None
    metrics = json.loads((folder / "metrics.json").read_text())
    last = list(metrics["stages"])[-1]
    users, stages = {}, stages_in(folder / "per_user.parquet")
    for phase in {last, *(("sft",) if "sft" in metrics["stages"] else ())}:
        # Where the last weights were kept, there is no second ranking.
        other = phase == last and weights == "last" and f"{phase}_last" in stages
        records = read_stage(folder / "per_user.parquet", f"{phase}_last" if other else phase)
        values = per_user_metrics(np.asarray(records.ranks, dtype=np.float64), [3])[METRIC]
        users[phase] = dict(zip(records.user_ids, values.tolist(), strict=True))
    own = {name: cost for name, cost in metrics["cost"].items() if name not in BEFORE}
    asks = (str(metrics["protocol"]["ranking"]), "SFT" if "sft" in users else "no SFT first")
    return Run(
        users,
        last,
        asks,
        sum(int(cost.get("generated_tokens", 0)) for cost in own.values()),
        sum(float(cost["seconds"]) for cost in own.values()),
    )


def difference(a: list[Mapping[str, float]], b: list[Mapping[str, float]]) -> dict[str, Any]:
    """The paired difference of two lists of seeds, user by user."""
    users = sorted(a[0])
    sides = [{METRIC: np.mean([[one[user] for user in users] for one in side], axis=0)} for side in (a, b)]
    return paired_differences(sides[0], sides[1], seed=0)[METRIC]


def shown(found: dict[str, Any]) -> str:
    """A difference with its interval."""
    low, high = found["interval"]
    text = f"{found['mean']:+.3f} [{low:+.3f}, {high:+.3f}]".replace("-", "−")
    return f"**{text}**" if low > 0 or high < 0 else text


def main() -> int:
    """Print the table."""
    try:
        given = read_settings(Settings, sys.argv[1:], {"weights": ("kept", "last")})
    except WrongUse as error:
        print(error, file=sys.stderr)
        return 2
    runs: dict[str, dict[str, Run]] = {}
    unfinished: list[str] = []
    for folder in sorted(Path(given.sweep).glob("seed-*+variant-*")):
        seed, name = folder.name.removeprefix("seed-").split("+variant-")
        if given.seeds and seed not in given.seeds.split(","):
            continue
        run = read(folder, given.weights)
        if run is None:
            unfinished.append(f"{name} (seed {seed})")
        else:
            runs.setdefault(name, {})[seed] = run
    plain = runs[PLAIN]
    rows = []
    for name, seeds in runs.items():
        common = [seed for seed in seeds if seed in plain]
        own = [seeds[seed].users[seeds[seed].last] for seed in common]
        versus = difference(own, [plain[seed].users[plain[seed].last] for seed in common])
        first = next(iter(seeds.values()))
        began = None
        if "sft" in first.users and first.last != "sft":
            began = difference(own, [seeds[seed].users["sft"] for seed in common])
        mean = float(np.mean([list(one.values()) for one in own]))
        tokens, seconds = (
            np.mean([getattr(seeds[seed], what) for seed in common]) for what in ("tokens", "seconds")
        )
        pace = seconds / np.mean([plain[seed].seconds for seed in common])
        rows.append((first.asks, -mean, name, len(common), mean, versus, began, tokens, pace))
    rows.sort()
    for asks in dict.fromkeys(row[0] for row in rows):
        print(f"\nRanked by {asks[0]}, {asks[1]}:\n")
        print("| system | seeds | NDCG@3 | − plain GRPO | − its own SFT | tokens | seconds, of plain GRPO |")
        print("|---|---|---|---|---|---|---|")
        for _, _, name, count, mean, versus, began, tokens, pace in (row for row in rows if row[0] == asks):
            gain = "" if began is None else shown(began)
            print(
                f"| {name} | {count} | {mean:.3f} | {shown(versus)} | {gain} | {tokens:,.0f} | {pace:.1f} |"
            )
    print(f"\nNot finished: {', '.join(unfinished) or 'none'}")
    if given.picture:
        draw(
            [(row[2], row[5]) for row in rows if row[0] == plain[next(iter(plain))].asks], Path(given.picture)
        )
    return 0


def draw(rows: list[tuple[str, dict[str, Any]]], path: Path) -> None:
    """A point and an interval for each system that answers plain GRPO's question."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = sorted(rows, key=lambda row: row[1]["mean"])
    figure, axes = pyplot.subplots(figsize=(7, 0.17 * len(rows) + 1), layout="constrained")
    means = np.array([found["mean"] for _, found in rows])
    bounds = np.array([found["interval"] for _, found in rows])
    axes.errorbar(
        means, range(len(rows)), xerr=[means - bounds[:, 0], bounds[:, 1] - means], fmt="o", ms=3, lw=1
    )
    axes.axvline(0, color="grey", lw=0.8)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=7)
    axes.set_xlabel("NDCG@3 minus plain GRPO's, 95 % interval over users")
    figure.savefig(path, dpi=140)


if __name__ == "__main__":
    sys.exit(main())
