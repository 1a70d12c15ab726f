"""The dependencies that the package may be installed with."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.requirements import Requirement

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


@pytest.mark.parametrize(
    ("version", "allowed"), [("2.6.1", True), ("2.6.2", False), ("2.6.3", False), ("2.6.6", True)]
)
def test_the_releases_of_lightning_that_carried_malware_are_excluded(version: str, allowed: bool) -> None:
    (line,) = (text for text in PYPROJECT.read_text(encoding="utf-8").splitlines() if '"lightning>' in text)
    assert Requirement(line.split('"')[1]).specifier.contains(version) is allowed
