"""A large synthetic table, and what each step of its preparation costs in a process of its own."""

from __future__ import annotations

import gc
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

STEPS = ("load", "filter", "prepare", "candidates", "popularity", "item_knn", "rank")
SKEW = 0.8  # the chance of the item of rank r is proportional to r ** -SKEW
SHORTEST = 6  # items of a user; the default filter keeps users with at least five
WORDS = ("warm", "light", "small", "steel", "cotton", "garden", "travel", "kitchen", "classic", "smart")


def make_tables(folder: Path, interactions: int, seed: int) -> tuple[Any, Any]:
    """The tables of N interactions, of N / 10 users with N / 20 items; no user has an item twice.

    Args:
        folder: written to, if the tables are not there yet.
        interactions: N.
        seed: draws them.

    Returns:
        The interactions, in random order, and the items.
    """
    generator = np.random.default_rng(seed)
    users, items = interactions // 10, interactions // 20
    chances = np.cumsum(np.arange(1, items + 1) ** -SKEW)
    by_rank = generator.permutation(items)
    pairs = np.empty(0, np.int64)
    missing = interactions
    while missing:
        owners = generator.integers(users, size=missing)
        if not len(pairs):
            owners[: SHORTEST * users] = np.repeat(np.arange(users), SHORTEST)
        drawn = by_rank[np.searchsorted(chances, generator.random(missing) * chances[-1])]
        pairs = np.unique(np.concatenate([pairs, owners * items + drawn]))
        missing = interactions - len(pairs)
    pairs = generator.permutation(pairs)
    owners, taken = np.divmod(pairs, items)
    table = pa.table(
        {
            "user_id": _ids("u", owners, users),
            "item_id": _ids("i", taken, items),
            "timestamp": generator.integers(1_500_000_000, 1_700_000_000, interactions),
        }
    )
    words = generator.integers(len(WORDS), size=(items, 3))
    titles = [
        f"{' '.join(WORDS[word] for word in row)} thing {item}" for item, row in enumerate(words.tolist())
    ]
    return table, pa.table({"item_id": _ids("i", np.arange(items), items), "title": titles})


def _ids(letter: str, codes: np.ndarray, count: int) -> pa.Array:
    names = pa.array([f"{letter}{code:08d}" for code in range(count)])
    return names.take(pa.array(codes))


def write_tables(folder: Path, interactions: int, kind: str, seed: int) -> dict[str, str]:
    """The settings of `dataset=tabular` for such tables, which are written if they are not there yet."""
    files = {"interactions": folder / f"ratings.{kind}", "items": folder / f"items.{kind}"}
    if not all(path.exists() for path in files.values()):
        folder.mkdir(parents=True, exist_ok=True)
        for path, table in zip(files.values(), make_tables(folder, interactions, seed), strict=True):
            if kind == "csv":
                pyarrow.csv.write_csv(table, path, pyarrow.csv.WriteOptions(quoting_style="none"))
            else:
                pyarrow.parquet.write_table(table, path)
    return {name: str(path) for name, path in files.items()}


class Meter:
    """Seconds, processor seconds and the peak of resident memory of each step of this process."""

    def __init__(self) -> None:
        self.steps: dict[str, dict[str, float]] = {}
        self._inner: list[float] = []  # peaks of steps inside the present one

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure a block."""
        gc.collect()
        before = _status("VmHWM")
        _forget_peak()
        outer, self._inner = self._inner, []
        wall, busy = time.perf_counter(), time.process_time()
        yield
        peak = max([_status("VmHWM"), *self._inner])
        self._inner = [*outer, before, peak]
        self.steps[name] = {
            "seconds": round(time.perf_counter() - wall, 1),
            "processor_seconds": round(time.process_time() - busy, 1),
            "peak_mb": round(peak),
            "left_mb": round(_status("VmRSS")),
        }

    def wrapped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The function, measured."""

        def measured(*args: Any, **kwargs: Any) -> Any:
            with self.step(name):
                return call(*args, **kwargs)

        return measured


def _forget_peak() -> None:
    """Let the peak of this process begin anew (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def _status(name: str) -> float:
    """A size of this process in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """Prepare the tables as a run of a classical recommender does, until a step."""
    import torch
    from hydra import compose, initialize_config_dir

    from mllmrec.baselines.base import FitInputs
    from mllmrec.baselines.item_knn import ItemKnn
    from mllmrec.baselines.popularity import Popularity
    from mllmrec.baselines.ranking import RecommenderRanker
    from mllmrec.config import CONFIG_DIR
    from mllmrec.evaluation.protocols import main_protocol
    from mllmrec.samples import filtered as filtering
    from mllmrec.samples.item_texts import item_texts
    from mllmrec.samples.prepare import prepare

    torch.set_num_threads(1)
    folder = Path(tempfile.gettempdir()) / f"mllmrec-large-{settings['interactions']}-{settings['seed']}"
    files = write_tables(folder, settings["interactions"], settings["files"], settings["seed"])
    gc.collect()
    pa.default_memory_pool().release_unused()
    wanted = STEPS[: STEPS.index(settings["until"]) + 1]
    meter = Meter()
    result: dict[str, Any] = {"start_mb": round(_status("VmRSS")), "steps": meter.steps}
    for name, function in (("load", "load_checked"), ("filter", "build_interactions")):
        setattr(filtering, function, meter.wrapped(name, getattr(filtering, function)))
    with tempfile.TemporaryDirectory() as cache:
        overrides = ["dataset=tabular", *(f"dataset.{name}={path}" for name, path in files.items())]
        overrides += [
            f"cache_dir={cache}",
            "method=popularity",
            f"dataset.filters.k_core={settings['k_core']}",
        ]
        overrides += [f"eval.max_users={settings['evaluated'] or 'null'}"]
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            cfg = compose("train", overrides=overrides)
        with meter.step("prepare"):
            prepared = prepare(cfg, training=False)
        with meter.step("again"):
            prepared = prepare(cfg, training=False)
        result["used"] = prepared.summary["used"]
        if "candidates" in wanted:
            with meter.step("candidates"):
                protocol = main_protocol(cfg.eval, cfg.candidates.weighting, 0, prepared)
        recommenders = {"popularity": Popularity(), "item_knn": ItemKnn()}
        for name, recommender in recommenders.items():
            if name not in wanted:
                continue
            with meter.step(name):
                recommender.fit(
                    FitInputs(
                        prepared.samples["train"].parts(),
                        len(prepared.items),
                        item_texts(prepared),
                        seed=0,
                        make_trainer=dict,
                    )
                )
        if "rank" in wanted:
            from mllmrec.run.folder import RunFolder

            with meter.step("rank"):
                found = protocol.rank(
                    "item_knn", RecommenderRanker(recommenders["item_knn"], 0), RunFolder(cache)
                )
            result["means"] = found.means(protocol.ks)
            with meter.step("intervals"):
                protocol.intervals(found)
    return result


if __name__ == "__main__":
    import json

    print(json.dumps(measure(json.loads(sys.argv[2]))))
