"""Who may ask a server of this machine that asks for no token."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from mllmrec.serving.guard import refused


def asked(opens=False, host="localhost:8001", **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return refused(Headers({"host": host, **named}), opens, "ask there")


@pytest.mark.parametrize(
    "host", ["localhost:8001", "127.0.0.1:8001", "[::1]:8001", "localhost", "localhost:9", "127.0.0.5:80"]
)
def test_a_browser_of_this_machine_is_answered(host):
    assert asked(host=host) is None
    assert asked(host=host, origin=f"http://{host}", sec_fetch_site="same-origin") is None


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "evil.example:8001", "localhost.evil.example", "a@localhost", "localhost:x", "[::1"],
)
def test_another_name_of_this_machine_is_refused(host):
    # A site whose name was pointed at this machine asks under that name.
    assert asked(host=host) == "this server answers only at localhost: ask there"


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
    assert "another site asked" in asked(**headers)


def test_a_link_elsewhere_may_open_a_page_alone():
    link = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}
    assert asked(opens=True, **link) is None
    assert asked(opens=True, origin="null", **link) is not None
    assert asked(opens=True, sec_fetch_site="cross-site", sec_fetch_mode="no-cors") is not None
