"""The page of a report in a browser: charts, sorting, filter, printing, and texts that try to run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import chromium, watched

from mllmrec.reporting.files import write_report
from mllmrec.reporting.page import make_section
from mllmrec.reporting.pictures import draw_pictures

ATTACKS = (
    "</script><script>window.ran = 1</script>",
    "<!--<script>window.ran = 2</script>",
    '"><img src=x onerror="window.ran = 3">',
    "line\u2028window.ran = 4//\u2029$\\frac$",
)
LOG = """stage,step,reward,val/NDCG@3
sft,0,,0.1
sft,10,,0.2
grpo,0,0.5,0.2
grpo,10,0.7,{last}
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("browser")


@pytest.fixture
def report(folder, write_run, experiment) -> str:
    """The address of a report of 14 rows, four of them named by hostile texts, written once."""
    runs, out = folder / "<img src=x onerror='window.ran=5'>", folder / "out"
    if not out.exists():
        names = [*ATTACKS, *(f"plain-{number}" for number in range(10))]
        for number, name in enumerate(names):
            write_run(
                runs / f"javascript:{number}",
                {"sft": [1, 2, 9, 9], "grpo": [1] * (number % 5) + [2] * (4 - number % 5)},
                settings={"name": name},
                method=name,
                typed=["name"],
                log=LOG.format(last=0.3 + number / 100),
                seconds=10.0 + number,
                slices=[["cold", "short"], ["head", "long"], ["head", "short"], ["cold", "long"]],
            )
        (runs / "failed").mkdir()
        (runs / "failed" / "failed.json").write_text(json.dumps({"error": ATTACKS[0]}))
        study = experiment(runs, name=ATTACKS[2])
        write_report(out, ATTACKS[0], "2026-01-31", [make_section(study, draw_pictures(study, out))])
    return (out / "report.html").as_uri()


@pytest.fixture
def page(browser, report) -> Iterator[Any]:
    """The report, opened, with the faults that it may not have."""
    opened = watched(
        browser, lambda url: url == report or url.startswith("data:"), viewport={"width": 1400, "height": 900}
    )
    opened.goto(report)
    yield opened
    opened.close()
    assert opened.faults == []


def column(page, place: int, table: int = 0) -> list[str]:
    script = f"[...document.querySelectorAll('table.sortable')[{table}].tBodies[0].rows]"
    return page.evaluate(
        f"{script}.filter(r => !r.hidden).map(r => r.cells[{place}].firstChild?.textContent ?? '')"
    )


def sorts(page, name: str) -> str:
    page.wait_for_timeout(50)
    return (
        page.locator("table.sortable").first.get_by_role("columnheader", name=name).get_attribute("aria-sort")
    )


def test_tables_sort_by_the_number_with_mouse_and_keyboard(page):
    button = page.locator("table.sortable").first.get_by_role("button", name="HR@1")
    button.click()
    assert sorts(page, "HR@1") == "descending"
    numbers = column(page, 2)
    assert numbers == sorted(numbers, reverse=True)
    button.press("Enter")
    assert sorts(page, "HR@1") == "ascending"
    numbers = column(page, 2)
    assert numbers == sorted(numbers)


def test_long_tables_have_a_filter_and_short_ones_have_none(page):
    page.get_by_label("Filter rows:").first.fill("PLAIN 3")
    assert column(page, 0) == ["plain-3"]
    assert page.locator("output").first.text_content() == "1 of 15 rows"
    page.get_by_label("Filter rows:").first.fill("")
    assert len(column(page, 0)) == 15


def test_a_point_says_its_run_its_step_and_its_value_and_the_legend_hides_a_row(page):
    figure = page.locator("figure").first  # the learning curves
    figure.scroll_into_view_if_needed()
    chart = figure.locator(".u-over").last  # GRPO; its highest point is that of the last row, at the right
    place = chart.bounding_box()
    chart.hover(position={"x": place["width"] - 14, "y": 2})
    tip = figure.locator(".tip:visible")
    assert tip.text_content().split("\n") == [
        "plain-9, seed 0, run javascript:13",
        "step 10",
        "held-out NDCG@3 0.43",
    ]
    legend = figure.get_by_role("button", name="plain-9")
    assert legend.get_attribute("aria-pressed") == "true"
    legend.click()
    assert legend.get_attribute("aria-pressed") == "false"
    chart.press("ArrowRight")
    for _ in range(20):
        chart.press("ArrowDown")
    chart.press("ArrowRight")
    assert tip.text_content().split("\n") == [
        "plain-8, seed 0, run javascript:12",
        "step 10",
        "held-out NDCG@3 0.42",
    ]
    figure.get_by_label("Shown:").select_option(label="reward (running mean)")
    assert figure.locator("h4").all_text_contents() == ["GRPO"]


def test_no_text_of_a_run_runs_and_nothing_leaves_the_page(page):
    for figure in page.locator("figure").all():
        figure.scroll_into_view_if_needed()
        figure.locator(".u-over").first.hover()
        figure.locator(".u-over").first.press("ArrowRight")
    page.locator("details").last.locator("summary").click()
    assert page.evaluate("window.ran") is None
    assert page.title() == ATTACKS[0]
    assert page.locator("h2").text_content() == ATTACKS[2]
    assert page.locator("figure.drawn").count() == page.locator("figure").count() == 4
    assert page.faults == []
    # Even if an escape were missing, the page's policy would not let a foreign script run.
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 6'}))"
    )
    assert page.evaluate("window.ran") is None
    (refused,) = page.faults
    assert "Content Security Policy" in refused
    page.faults.clear()


def test_a_print_shows_pictures_in_place_of_charts_and_so_does_a_page_without_scripts(browser, page, report):
    pictures, charts = page.locator("figure img"), page.locator("figure .live")
    page.locator("figure").first.scroll_into_view_if_needed()
    page.locator("figure.drawn").first.wait_for()
    assert (pictures.first.is_visible(), charts.first.is_visible()) == (False, True)
    assert page.pdf().startswith(b"%PDF")
    page.emulate_media(media="print")
    assert (pictures.first.is_visible(), charts.first.is_visible()) == (True, False)
    plain = browser.new_context(java_script_enabled=False).new_page()
    plain.goto(report)
    assert plain.locator("figure img").first.is_visible()
    assert not plain.locator("button").count()


def test_a_narrow_screen_scrolls_tables_and_not_the_page(browser, report):
    narrow = browser.new_context(viewport={"width": 360, "height": 700}, color_scheme="dark").new_page()
    narrow.goto(report)
    assert narrow.evaluate("document.documentElement.scrollWidth") <= 360
    assert narrow.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 24, 28)"
