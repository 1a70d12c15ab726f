"""Chromium for tests of pages: that of the system, or the one that ``playwright install chromium`` brought."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser without a window; skips the test where Playwright or a Chromium is missing."""
    library = pytest.importorskip("playwright.sync_api", reason="needs pip install 'mllmrec[browser]'")
    with library.sync_playwright() as started:
        own = started.chromium.executable_path
        found = next(filter(None, map(shutil.which, NAMES)), own)
        if not Path(found).is_file():
            pytest.skip("needs Chromium: apt-get install chromium, or playwright install chromium")
        browser = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def watched(browser: Any, own: Callable[[str], bool], **settings: Any) -> Any:
    """A page that keeps in ``faults`` what goes wrong: errors, warnings, dialogs, and requests that are not its own.

    Args:
        browser: of `chromium`.
        own: whether the page may ask for an address.
        settings: of the page, such as ``viewport``.
    """
    page = browser.new_page(**settings)
    page.set_default_timeout(20_000)
    page.faults = []
    page.on("dialog", lambda dialog: (page.faults.append(f"a text ran: {dialog.message}"), dialog.dismiss()))
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("request", lambda asked: own(asked.url) or page.faults.append(asked.url))
    # A refused request is logged as an error, too; the page shows its sentence.
    page.on(
        "console",
        lambda said: (
            page.faults.append(said.text)
            if said.type in ("error", "warning") and "Failed to load resource" not in said.text
            else None
        ),
    )
    return page
