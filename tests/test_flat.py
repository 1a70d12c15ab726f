"""Settings objects whose fields a caller gives by name."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import pytest

from mllmrec.config.components import component_faults, declared_faults
from mllmrec.config.signatures import signature_of
from mllmrec.flat import flat_settings


@dataclass(frozen=True)
class Training:
    rate: float = 0.5
    epochs: int = 3

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs={self.epochs} must be at least 1")


class Network:
    @flat_settings
    def __init__(self, size: int, training: Training = Training(epochs=7), deep: bool = False) -> None:
        self.all = (size, training.rate, training.epochs, deep)


class Deeper(Network):
    @flat_settings
    def __init__(self, training: Training = Training(rate=2.0)) -> None:
        super().__init__(4, training, deep=True)


def test_fields_and_objects_are_the_same_settings():
    assert Network(2).all == (2, 0.5, 7, False)
    assert Network(2, rate=1.0, deep=True).all == (2, 1.0, 7, True)
    assert Network(2, Training(1.0)).all == Network(2, training=Training(1.0)).all == (2, 1.0, 3, False)
    assert Deeper(epochs=9).all == (4, 2.0, 9, True)


def test_a_name_that_no_object_has_is_refused():
    with pytest.raises(TypeError, match="epoch"):
        Network(2, epoch=1)
    with pytest.raises(TypeError, match="epochs"):
        Network(2, Training(), epochs=1)


def test_two_settings_of_one_name_are_refused():
    with pytest.raises(ValueError, match="several settings are named rate"):

        @flat_settings
        def __init__(self, rate: int, training: Training = Training()) -> None:
            pass


@pytest.mark.parametrize("kind", [Network, Deeper])
def test_the_source_tells_what_the_signature_shows(kind):
    shown = inspect.signature(kind).parameters
    assert [*shown][-2:] == ["rate", "epochs"]
    assert shown["rate"].default == (0.5 if kind is Network else 2.0)
    read = signature_of(f"{__name__}.{kind.__name__}")
    assert [(one.name, one.kind, one.default is one.empty) for one in read.values()] == [
        (one.name, one.kind, one.default is one.empty) for one in shown.values()
    ]
    assert read["rate"].annotation is float


def test_wrong_keys_and_types_are_named():
    def faults(**given):
        section = {"reward": {"_target_": f"{__name__}.Network", **given}}
        (fault,) = declared_faults(section)
        assert component_faults(section) == [fault]
        return fault

    assert "reward.epoch: no such setting here" in faults(size=2, epoch=1)
    assert faults(size=2, rate="fast") == "reward.rate=fast: must be a number"
    assert faults(rate=1.0) == "reward.size is not set: add reward.size=VALUE"
    assert faults(size=2, training=None).startswith("reward.training: no such setting here")
    section = {"reward": {"_target_": f"{__name__}.Network", "size": 2, "epochs": 0}}
    assert component_faults(section) == ["reward: epochs=0 must be at least 1"]
