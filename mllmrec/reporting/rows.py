"""Groups runs into the rows of a table, and names each row by the settings that vary, apart from the seed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mllmrec.reasoners.told import most_told
from mllmrec.reporting.runs import Run

# Settings that do not affect comparisons. Each row is averaged over its seeds.
IMMATERIAL = (
    "seed",
    "cache_dir",
    "run_name",
    "logger",
    "skip_finished",
    "resume",
    "checkpoint",
    "overwrite",
    "share_stages",
    "baselines",
    "eval.batch_size",
    "eval.keep_top",
    "eval.resamples",
    "trainer.log_every_n_steps",
    "trainer.profiler",
    "trainer.detect_anomaly",
)


@dataclass(frozen=True)
class Row:
    """Runs that differ only in their seed."""

    settings: dict[str, Any]  # settings that vary between rows: key -> value in this row
    runs: list[Run]  # by seed
    short: bool = False  # whether the value alone names the row

    @property
    def label(self) -> str:
        """The row's name: as typed, or just ``sft`` where the values of one setting distinguish all rows."""
        return self.typed.partition("=")[2] if self.short else self.typed

    @property
    def typed(self) -> str:
        """The row's settings as one would type them, such as ``method=sft``."""
        if not self.settings:
            return f"method={method_of(self.runs[0])}"
        return " ".join(f"{key}={_shown(value)}" for key, value in self.settings.items())

    @property
    def leak(self) -> str:
        """What the writers of the runs' reasoning knew beside the history: none, unknown or target."""
        return most_told(run.leak for run in self.runs)

    @property
    def seeds(self) -> list[int]:
        """The seeds, ascending."""
        return [run.seed for run in self.runs]


@dataclass(frozen=True)
class Grouped:
    """The rows of one experiment."""

    rows: list[Row]
    differing: dict[str, list[str]]  # every setting that differs, label or not: key -> its value in each row
    repeated: list[Run]  # older runs of the same settings and seed, left out


def group_runs(runs: Sequence[Run]) -> Grouped:
    """Group runs by everything but their seed. Rows are ordered by their first run, or by the one number that varies.

    The typed settings that differ name a row. If they leave two rows alike, other differing settings are added: chosen
    files first, then single keys. A setting is added only if it does not follow from earlier ones (a method's phases follow
    from its name). Among several runs of the same settings and seed only the latest counts.
    """
    flat = [_flatten(run.config) for run in runs]
    values = [{**settings, **_groups(run)} for settings, run in zip(flat, runs, strict=True)]
    differing = [
        key
        for key in dict.fromkeys(key for settings in values for key in settings)
        if not _immaterial(key)
        and not _is_the_seed(key, values)
        and len({_shown(settings.get(key)) for settings in values}) > 1
    ]
    all_groups = {group for run in runs for group in _groups(run)}
    groups = [key for key in differing if key in all_groups]
    typed = [key for key in dict.fromkeys(key for run in runs for key in run.typed) if not _immaterial(key)]
    shown: list[str] = []
    for key in typed:
        # A typed section, as in sft.lora={rank: 8}, means all keys in it.
        section = None if key in all_groups else f"{key}."
        shown += [
            known
            for known in differing
            if known == key or (section is not None and known.startswith(section))
        ]
    shown = list(dict.fromkeys(shown))
    for key in [*groups, *differing]:
        if key not in shown and not _follows(key, shown, values):
            shown.append(key)
    alike: dict[tuple[str, ...], list[int]] = {}
    for index, settings in enumerate(values):
        alike.setdefault(tuple(_shown(settings.get(key)) for key in shown), []).append(index)
    rows = list(alike.values())
    if len(shown) == 1 and all(_is_number(settings.get(shown[0])) for settings in values):
        rows.sort(key=lambda members: values[members[0]][shown[0]])
    result, repeated = [], []
    for members in rows:
        latest: dict[int, Run] = {}
        for run in sorted((runs[index] for index in members), key=_finished_at):
            if run.seed in latest:
                repeated.append(latest[run.seed])
            latest[run.seed] = run
        settings = {key: values[members[0]].get(key) for key in shown}
        result.append(Row(settings, [latest[seed] for seed in sorted(latest)]))
    # A number means nothing without its key.
    if len(shown) == 1 and all(isinstance(row.settings[shown[0]], str) for row in result):
        result = [replace(row, short=True) for row in result]
    table = {key: [_shown(values[members[0]].get(key)) for members in rows] for key in [*groups, *differing]}
    return Grouped(result, table, repeated)


def method_of(run: Run) -> str:
    """The name of the run's method."""
    method = run.config.get("method")
    return str(method.get("name", "?")) if isinstance(method, dict) else str(method or run.stages[-1])


def numeric_key(rows: Iterable[Row]) -> str | None:
    """The one varying key that is a number in every row; None if there is no such key, or more than one."""
    settings = [row.settings for row in rows]
    keys = [key for key in settings[0] if all(_is_number(values[key]) for values in settings)]
    return keys[0] if len(keys) == 1 else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _groups(run: Run) -> dict[str, str]:
    return {"method": method_of(run), **run.group_choices}


def _follows(key: str, shown: Sequence[str], values: Sequence[dict[str, Any]]) -> bool:
    """Whether ``key`` has one value wherever all of ``shown`` have theirs."""
    seen: dict[tuple[str, ...], str] = {}
    return all(
        seen.setdefault(tuple(_shown(settings.get(name)) for name in shown), _shown(settings.get(key)))
        == _shown(settings.get(key))
        for settings in values
    )


def _immaterial(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in IMMATERIAL)


def _is_the_seed(key: str, values: Sequence[dict[str, Any]]) -> bool:
    """Whether ``key`` is the seed of a part, which every run takes from its own seed."""
    return key.endswith(".seed") and all(
        settings.get(key, settings["seed"]) == settings["seed"] for settings in values
    )


def _flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            flat.update(_flatten(value, f"{path}."))
        else:
            flat[path] = value
    return flat


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "null" if value is None else str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(_shown, value))}]"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        # 1 and 1.0 are one setting.
        return str(int(value))
    return str(value)


def _finished_at(run: Run) -> float:
    return (run.path / "metrics.json").stat().st_mtime
