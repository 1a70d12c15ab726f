"""What the answers of the pages allow a browser."""

from __future__ import annotations

import asyncio

import httpx

from mllmrec.exploring.app import make_app
from mllmrec.exploring.headers import HEADERS, POLICY


def test_nothing_runs_or_loads_from_elsewhere():
    rules = dict(rule.split(" ", 1) for rule in POLICY.split("; "))
    assert rules["default-src"] == "'none'"
    assert {rules[name] for name in ("script-src", "style-src", "img-src", "connect-src")} == {"'self'"}
    assert rules["frame-ancestors"] == "'none'"


def test_every_answer_says_so_and_other_names_and_sites_get_none():
    async def asked(path, **headers):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(make_app([]))) as client:
            return await client.get(
                f"http://localhost{path}", headers={k.replace("_", "-"): v for k, v in headers.items()}
            )

    link = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}
    for path, headers, status in (
        ("/", {}, 200),
        ("/", link, 200),
        ("/api/runs", {}, 200),
        ("/api/runs", link, 403),
        ("/api/runs", {"host": "rebound.example"}, 403),
    ):
        answer = asyncio.run(asked(path, **headers))
        assert (answer.status_code, path, headers) == (status, path, headers)
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
