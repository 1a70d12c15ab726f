"""The site of docs/ is built without a warning, and what links promise is there."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from chromium import chromium, watched

PROJECT = Path(__file__).resolve().parents[2]
REASON = "pip install -e '.[docs]' brings what builds the site"


@pytest.fixture
def repository(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("sphinx", reason=REASON)
    monkeypatch.syspath_prepend(str(PROJECT / "docs" / "_ext"))
    return importlib.import_module("repository")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    for name in ("sphinx", "myst_nb", "furo", "sphinx_copybutton", "sphinx_design"):
        pytest.importorskip(name, reason=REASON)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"),
            *("-d", str(folder / "doctrees"), str(PROJECT / "docs"), str(folder / "site")),
        ],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(site: Path) -> None:
    start = (site / "index.html").read_text(encoding="utf-8")
    for page in (PROJECT / "docs").glob("*.md"):
        assert f'href="{page.stem}.html"' in start or page.stem == "index", page.name
    # Experiments are pages, and pages lead to the source that they name.
    assert "group_size.html" in (site / "experiments" / "index.html").read_text(encoding="utf-8")
    preset = (site / "systems" / "gazal_r1.html").read_text(encoding="utf-8")
    (source,) = re.findall(r'href="(\S+gazal\.py\.html)"', preset)
    assert "class" in (site / "systems" / source).read_text(encoding="utf-8")
    # Docstrings are there.
    assert "what one types behind the command" in (site / "api" / "notebooks.html").read_text("utf-8")


@pytest.mark.slow
def test_the_site_fits_a_desk_and_a_phone_and_asks_no_other_server(site: Path) -> None:
    with chromium() as browser:
        for width in (1280, 360):
            page = watched(
                browser, lambda url: url.startswith("file:"), viewport={"width": width, "height": 800}
            )
            for name in ("index", "memory", "explore", "options"):
                page.goto((site / f"{name}.html").as_uri())
                assert page.evaluate("document.documentElement.scrollWidth") <= width, name
                assert all(page.locator("img").evaluate_all("all => all.map(one => one.naturalWidth)")), name
            assert page.faults == []


@pytest.mark.parametrize(
    ("source", "page", "target", "new"),
    [
        # Both move: their links stay what they were.
        ("experiments/paper.md", "experiments/paper.md", "memory.md", "memory.md"),
        ("experiments/paper.md", "experiments/paper.md", "README.md#top", "index.md#top"),
        ("experiments/variants.md", "experiments/variants.md", "../docs/systems.md", "../systems.md"),
        ("mllmrec/cot/README.md", "inside/reasoning.md", "assess/README.md", "assessment.md"),
        ("docs/data.md", "data.md", "../experiments/README.md", "experiments/index.md"),
        ("docs/data.md", "data.md", "options.md#caption", "options.md#caption"),
        ("docs/data.md", "data.md", "../mllmrec/api.py", "source:mllmrec/api.py"),
        ("docs/data.md", "data.md", "https://arxiv.org", "https://arxiv.org"),
        # No such file: the link stays, and Sphinx complains of it.
        ("docs/data.md", "data.md", "../mllmrec/nothing.py", "../mllmrec/nothing.py"),
        ("docs/data.md", "data.md", "../../outside.md", "../../outside.md"),
    ],
)
def test_links_are_written_for_the_site(repository, source: str, page: str, target: str, new: str) -> None:
    assert repository.new_target(source, page, target) == new


def test_a_page_that_no_list_names_is_listed_all_the_same(repository) -> None:
    index = "data\n(other pages)\n"
    listed = repository.others(index)
    assert "data" not in listed
    assert "index" not in listed
    assert "extending" in listed
