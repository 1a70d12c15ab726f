"""Who may ask the pages, and what their answers allow a browser."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from mllmrec.exploring.guard import POLICY, refused


def asked(method="GET", path="/api/runs", host="localhost:8001", **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return refused(Headers({"host": host, **named}), method, path)


@pytest.mark.parametrize(
    "host", ["localhost:8001", "127.0.0.1:8001", "[::1]:8001", "localhost", "localhost:9"]
)
def test_a_browser_of_this_machine_is_answered(host):
    assert asked(host=host) is None
    assert asked("POST", host=host, origin=f"http://{host}", sec_fetch_site="same-origin") is None


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "evil.example:8001", "localhost.evil.example", "a@localhost", "localhost:x", "[::1"],
)
def test_another_name_of_this_machine_is_refused(host):
    # A site whose name was pointed at this machine asks under that name.
    assert "answers only at localhost" in asked(host=host)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "https://localhost:8001"},
        {"origin": "http://localhost:9000"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"},
    ],
)
def test_what_another_site_asks_is_refused(headers):
    for method in ("GET", "POST"):
        assert "another site asked" in asked(method, **headers)


def test_a_link_elsewhere_may_open_the_page_alone():
    link = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}
    assert asked("GET", "/", **link) is None
    assert asked("POST", "/", **link) is not None
    assert asked("GET", "/", sec_fetch_site="cross-site", sec_fetch_mode="no-cors") is not None


def test_nothing_runs_or_loads_from_elsewhere():
    rules = dict(rule.split(" ", 1) for rule in POLICY.split("; "))
    assert rules["default-src"] == "'none'"
    assert {rules[name] for name in ("script-src", "style-src", "img-src", "connect-src")} == {"'self'"}
    assert rules["frame-ancestors"] == "'none'"
