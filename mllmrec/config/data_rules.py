"""Rules about settings of dataset and split that contradict each other, written as in `mllmrec.config.rules`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mllmrec.config.capabilities import capability

Settings = Mapping[str, Any]


def validation_exists(cfg: Settings) -> str | None:
    """Something needs validation targets, but the split makes none."""
    if cfg["split"].get("validation_share") == 0 and cfg["dataset"].get("validation") is None:
        wanted = [
            name
            for name, asked in (
                ("eval.split=validation", cfg["eval"]["split"] == "validation"),
                (f"heldout.users={cfg['heldout']['users']}", cfg["heldout"]["users"] > 0),
            )
            if asked
        ]
        if wanted and cfg["split"].get("validation_from") is None:
            return (
                f"{' and '.join(wanted)} with split.validation_share=0: there are no validation users; raise the "
                "share, or set heldout.users=0 and eval.split=test"
            )
    return None


def lengths_agree(cfg: Settings) -> str | None:
    """The longest allowed sequence is shorter than the shortest."""
    for where, section in (("dataset", cfg["dataset"]), ("dataset.filters", cfg["dataset"].get("filters"))):
        low, high = (section or {}).get("min_length"), (section or {}).get("max_length")
        if low is not None and high is not None and low > high:
            return f"{where}.min_length={low} exceeds {where}.max_length={high}: lower the first or raise the second"
    return None


def data_is_named(cfg: Settings) -> str | None:
    """A dataset that cannot be downloaded has no path: only the user knows where it is."""
    dataset = cfg["dataset"]
    required: tuple[str, ...] = capability(dataset, "asks_for", ())
    if capability(dataset, "takes_files", False):
        required = ("train", "test", "items") if _is_published(dataset) else ("interactions", "items")
    absent = [f"dataset.{key}" for key in required if dataset.get(key) is None]
    if absent:
        return f"{' and '.join(absent)} not set: add {' '.join(f'{key}=PATH' for key in absent)}"
    return None


def split_is_of_the_data(cfg: Settings) -> str | None:
    """The dataset has a published split and ``split`` ignores it, or ``split`` needs one and there is none."""
    dataset, published = cfg["dataset"], capability(cfg["split"], "published", False)
    if not capability(dataset, "takes_files", False):
        return None
    if _is_published(dataset):
        if dataset.get("interactions") is not None:
            return (
                "dataset.interactions is set together with files of a published split (dataset.train, validation, "
                "test): remove one or the other"
            )
        if not published:
            return "dataset.train and dataset.test are a published split, but split makes another: set split=given"
    elif published and dataset.get("interactions") is not None:
        return (
            "split=given with dataset.interactions, which has no published split: name dataset.train and dataset.test "
            "instead, or set split=leave_one_out"
        )
    elif dataset.get("history_column") is not None:
        return (
            f"dataset.history_column={dataset['history_column']} without a published split: name dataset.train and "
            "dataset.test"
        )
    return None


def _is_published(dataset: Mapping[str, Any]) -> bool:
    return any(dataset.get(key) is not None for key in ("train", "validation", "test"))


def joined_parts_are_captioners(cfg: Settings) -> str | None:
    """A part of caption=joined is none, or a word in the place of a captioner."""
    for name, part in (cfg["caption"].get("parts") or {}).items():
        if part is not None and not isinstance(part, Mapping):
            return f"caption.parts.{name}={part} is no captioner: choose one with caption@caption.parts.{name}=NAME"
        if part is None or part.get("_target_") is None:
            return (
                f"caption.parts.{name} is none, which makes no caption: leave the part out with '~caption.parts.{name}', or "
                f"choose another with caption@caption.parts.{name}=NAME"
            )
    return None


DATA_RULES = (
    validation_exists,
    lengths_agree,
    data_is_named,
    split_is_of_the_data,
    joined_parts_are_captioners,
)
