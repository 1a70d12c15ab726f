"""The dependencies that the package may be installed with."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


@pytest.mark.parametrize(
    ("version", "allowed"), [("2.6.1", True), ("2.6.2", False), ("2.6.3", False), ("2.6.6", True)]
)
def test_the_releases_of_lightning_that_carried_malware_are_excluded(version: str, allowed: bool) -> None:
    (line,) = (text for text in PYPROJECT.read_text(encoding="utf-8").splitlines() if '"lightning>' in text)
    assert Requirement(line.split('"')[1]).specifier.contains(version) is allowed


def test_the_image_is_built_from_everything_that_the_wheel_has() -> None:
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]}
    needed |= {*wheel["packages"], *wheel["force-include"]}
    lines = (PYPROJECT.parent / "Dockerfile").read_text(encoding="utf-8").splitlines()
    copies = [line.split()[1:-1] for line in lines if line.startswith("COPY ") and "--from" not in line]
    assert {name for names in copies for name in names} == needed
    allowed = (PYPROJECT.parent / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert needed == {line[1:] for line in allowed if line.startswith("!")}
    assert all((PYPROJECT.parent / name).exists() for name in needed)
    (extras,) = (line.partition("=")[2].split(",") for line in lines if line.startswith("ARG EXTRAS="))
    assert set(extras) <= set(project["project"]["optional-dependencies"])
