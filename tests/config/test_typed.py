from __future__ import annotations

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from mllmrec.config.typed import typed


@pytest.mark.parametrize(
    "value",
    [
        "outputs/2026-11-29/run",
        "a b",
        "a,b",
        "$HOME",
        "it's",
        'say "no"',
        "c:\\d\\",
        "\\'",
        "[x]",
        "ü",
        "",
    ],
)
def test_what_is_shown_can_be_pasted(value: str) -> None:
    (text,) = shlex.split(typed("run", value))
    given = OverridesParser.create().parse_override(text).value()
    assert (given if isinstance(given, str) else given.text) == value


def test_what_needs_no_quotes_has_none() -> None:
    assert typed("run", "outputs/2026-11-29/10-00-00") == "run=outputs/2026-11-29/10-00-00"


def test_a_list_is_read_as_a_list() -> None:
    (text,) = shlex.split(typed("candidates", ["a b", "x", "it's"]))
    given = OverridesParser.create().parse_override(text).value()
    assert [one if isinstance(one, str) else one.text for one in given] == ["a b", "x", "it's"]
