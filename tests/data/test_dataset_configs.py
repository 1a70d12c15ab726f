from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from hydra.utils import get_class
from omegaconf import OmegaConf

FOLDER = Path(__file__).resolve().parents[2] / "conf" / "dataset"
NAMES = ["amazon_beauty", "amazon_2023", "movielens", "microlens", "netflix", "tabular"]


@pytest.mark.parametrize("name", NAMES)
def test_config_states_every_parameter_with_its_default_and_a_comment(name):
    config = OmegaConf.load(FOLDER / f"{name}.yaml")
    given = OmegaConf.to_container(config, resolve=False)
    given.pop("defaults", None)
    parameters = inspect.signature(get_class(given.pop("_target_"))).parameters
    assert set(given) == set(parameters)
    for key, parameter in parameters.items():
        if parameter.default is not inspect.Parameter.empty:
            assert given[key] == (
                list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
            )
    lines = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    assert all("#" in line for line in lines if ": " in line and not line.startswith("_target_"))
