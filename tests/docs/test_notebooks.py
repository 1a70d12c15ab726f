"""The notebooks run from their first cell to their last, in a folder of their own."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import nbformat
import pytest

PROJECT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))


def run(path: Path, folder: Path) -> nbformat.NotebookNode:
    spec = importlib.util.spec_from_file_location("docs_run_notebooks", PROJECT / "docs" / "run_notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.run(path, folder)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For both: the second need not draw and caption the images again."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("MLLMREC_CACHE", str(cache))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")]))
    shown = [cell for cell in run(path, tmp_path).cells if cell.cell_type == "code" and cell.outputs]
    assert len(shown) >= 5
    if path.stem == "a_reward_of_your_own":
        assert any("'[ITEM_2]': 0.25" in str(cell.outputs) for cell in shown)
        assert any("near=2: must be at least 0 and below 1" in str(cell.outputs) for cell in shown)
    else:
        assert (tmp_path / "report" / "report.html").stat().st_size > 0


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_stored_notebook_is_small_and_names_no_place(path: Path) -> None:
    nbformat.validate(nbformat.read(path, as_version=4))
    text = path.read_text(encoding="utf-8")
    assert len(text) < 40_000
    for place in ("/tmp", "/home", "/root", str(PROJECT)):
        assert place not in text
