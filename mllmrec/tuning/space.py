"""What a search varies: axes in Hydra's own words (``interval``, ``choice``, ``range``, ``tag(log, ...)``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Sweep
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

# Settings that say what is measured. Trials that differ in them could not be compared.
MEASURE = ("seed", "protocol_seed", "dataset", "split", "eval", "candidates", "heldout.users", "cache_dir")


@dataclass(frozen=True)
class Axis:
    """One hyper-parameter.

    Attributes:
        key: the setting or group.
        text: the axis as it was given.
        distribution: its values, for Optuna.
    """

    key: str
    text: str
    distribution: BaseDistribution

    def override(self, value: Any) -> str:
        """The override that gives the hyper-parameter a value of `distribution`."""
        return f"{self.key}={value}"


def axes(overrides: list[Override], config: DictConfig) -> list[Axis]:
    """The axes among parsed overrides.

    Args:
        overrides: of the command line and of the search's file.
        config: a composed configuration, whose values tell whole numbers from others.
    """
    return [
        Axis(
            override.get_key_element(),
            str(override.input_line).split("=", 1)[1],
            _distribution(override, config),
        )
        for override in overrides
        if override.is_sweep_override()
    ]


def faults(found: list[Axis]) -> list[str]:
    """What may not be varied."""
    if not found:
        return [
            "nothing is varied: choose a search, as search=grpo, or give an axis, as "
            "'grpo.learning_rate=tag(log,interval(1e-5,1e-3))'"
        ]
    return [
        f"{axis.key}={axis.text}: trials that differ in it are measured differently; give it one value"
        for axis in found
        for name in MEASURE
        if axis.key == name or axis.key.startswith(f"{name}.")
    ]


def _distribution(override: Override, config: DictConfig) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    sweep: Any = override.value()
    kind = type(sweep)
    log = issubclass(kind, Sweep) and "log" in sweep.tags
    if kind is IntervalSweep:
        low, high = _whole(sweep.start), _whole(sweep.end)
        default = OmegaConf.select(config, override.key_or_group)
        if isinstance(low, int) and isinstance(high, int) and isinstance(default, int):
            return IntDistribution(low, high, log=log)
        return FloatDistribution(float(low), float(high), log=log)
    if kind is RangeSweep and all(isinstance(part, int) for part in (sweep.start, sweep.stop, sweep.step)):
        values = range(sweep.start, sweep.stop, sweep.step)
        if sweep.step > 0 and values:
            return IntDistribution(values[0], values[-1], step=sweep.step)
    return CategoricalDistribution(list(override.sweep_string_iterator()))


def first_value(override: Override) -> str | None:
    """An override with the lower end of an interval in its place; None if the override gives no interval."""
    sweep: Any = override.value()
    if type(sweep) is not IntervalSweep:
        return None
    assert sweep.start is not None
    return f"{override.get_key_element()}={_whole(sweep.start)}"


def _whole(number: Any) -> int | float:
    """Hydra reads the ends of every interval as floats; a whole one may belong to a setting of whole numbers."""
    return int(number) if float(number).is_integer() else number


def described(found: list[Axis]) -> Mapping[str, str]:
    """Key → axis, as text that says whether two searches are the same."""
    return {axis.key: axis.text for axis in found}
