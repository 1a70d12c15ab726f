"""Takes the pictures of the explorer and of the report in Chromium; `draw.py` draws those of method.md.

    python -m mllmrec.train experiment=profiled seed=1 hydra.run.dir=runs/grpo
    python -m mllmrec.train experiment=profiled seed=1 method=sft_more hydra.run.dir=runs/sft_more
    python docs/pictures/shots.py grpo=runs/grpo sft_more=runs/sft_more report=FOLDER/report.html

It needs ``pip install 'mllmrec[explore,browser]'`` and a Chromium. Without
``user=ID`` the pictures show the user whose true item gained most places.
"""

from __future__ import annotations

import io
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from PIL import Image
from playwright.sync_api import sync_playwright

from mllmrec.exploring.app import make_app
from mllmrec.exploring.stored import StoredRun, Wanted
from mllmrec.exploring.views import Explored
from mllmrec.serving.server import address, listening_socket, uvicorn_config

HERE = Path(__file__).parent
WIDTH = 1400
TYPED = 3  # items of the history that is typed in
COMPUTED = "#candidates:not(:has(.shimmer))"  # probabilities that older runs did not store are there


@contextmanager
def served(runs: Mapping[str, str | Path]) -> Iterator[str]:
    """The address of the explorer's pages of runs, by the names that the pages show."""
    explored = [Explored(name, StoredRun(folder)) for name, folder in runs.items()]
    for one in explored:
        one.open()
    with listening_socket("127.0.0.1", 0) as bound:
        server = uvicorn.Server(uvicorn_config(make_app(explored)))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        bound.listen()
        thread.start()
        try:
            yield address(bound)
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def chromium() -> Iterator[Any]:
    """A Chromium without a window: that of the system, or Playwright's own."""
    with sync_playwright() as started:
        found = shutil.which("chromium") or shutil.which("google-chrome")
        browser = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def keep(page: Any, path: Path, whole: bool = False) -> None:
    """Write what the window shows, or the whole page, as a small PNG."""
    picture = Image.open(io.BytesIO(page.screenshot(full_page=whole))).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def explorer(browser: Any, grpo: str | Path, beside: str | Path, out: Path, user: str | None = None) -> None:
    """The four pictures of explore.md, of a run and of another on the same users."""
    stored = StoredRun(grpo)
    gained = Wanted(before=stored.phases[-2].name, sort="change", descending=True, limit=1)
    chosen = stored.key(user) if user else stored.table(gained).rows[0].key
    asked = f"user={chosen.user}&target={chosen.target}"
    page = browser.new_page(viewport={"width": WIDTH, "height": 900})
    with served({"grpo": grpo}) as url:
        page.goto(f"{url}/#users?{asked}")
        page.click("#each")
        page.wait_for_selector("#effects")
        page.wait_for_selector(COMPUTED)
        keep(page, out / "explore_user.png", whole=True)
        page.set_viewport_size({"width": WIDTH, "height": 880})
        page.goto(f"{url}/#rollouts")
        page.wait_for_selector("#rollouts .rollout .effect")
        page.wait_for_load_state("networkidle")
        keep(page, out / "explore_rollouts.png")
        shown = page.request.get(f"{url}/api/runs/0/user?{asked}").json()["history"]
        own = "&".join(f"h={item['id']}" for item in shown[-TYPED:])
        page.goto(f"{url}/#own?{own}")
        page.click("#own-results button:has-text('Leave out each')")
        page.wait_for_selector("#own-results td.heat")
        keep(page, out / "explore_own.png", whole=True)
    with served({"grpo": grpo, Path(beside).name: beside}) as url:
        page.goto(f"{url}/#users?{asked}")
        page.wait_for_selector(COMPUTED)
        keep(page, out / "explore_two_runs.png", whole=True)
    page.close()


def report(browser: Any, file: str | Path, out: Path) -> None:
    """The picture of a report: its learning curves, pointed at, with one line hidden."""
    page = browser.new_page(viewport={"width": 1280, "height": 980})
    page.goto(Path(file).resolve().as_uri())
    figure = page.locator("figure").first
    figure.scroll_into_view_if_needed()
    page.wait_for_selector("figure.drawn")
    entries = figure.locator(".legend button:not(.all)")
    if entries.count() > 2:
        entries.nth(entries.count() // 2).click()
    for _ in range(3):
        figure.locator(".u-over").last.press("ArrowRight")
    figure.locator("xpath=preceding-sibling::h3[1]").evaluate("heading => heading.scrollIntoView()")
    keep(page, out / "report.png")
    page.close()


def main(arguments: list[str]) -> None:
    """Take the pictures that the arguments ask for."""
    given = dict(argument.split("=", 1) for argument in arguments)
    out = Path(given.get("out", HERE))
    with chromium() as browser:
        if "grpo" in given:
            explorer(browser, given["grpo"], given["sft_more"], out, given.get("user"))
        if "report" in given:
            report(browser, given["report"], out)


if __name__ == "__main__":
    main(sys.argv[1:])
