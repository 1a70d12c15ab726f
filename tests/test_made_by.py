"""The keys of captions, reasoning and pictures hold everything that made them: every parameter, and the code of rules."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mllmrec import cache, randomness
from mllmrec.cache import source_fingerprint
from mllmrec.captions import colours, palette
from mllmrec.captions.openai import OpenAICaptioner
from mllmrec.captions.palette import Palette
from mllmrec.captions.vlm import Vlm
from mllmrec.data import drawing, synthetic
from mllmrec.data.synthetic import Synthetic
from mllmrec.prompts import markup
from mllmrec.reasoners import counting, template
from mllmrec.reasoners.hf import HfReasoner
from mllmrec.reasoners.openai import OpenAIReasoner
from mllmrec.reasoners.template import TemplateReasoner

# The server's address and the way requests are sent change no text.
_SERVER = (
    "base_url",
    "api_key_env",
    "image_tokens",
    "concurrency",
    "timeout_seconds",
    "attempts",
    "backoff_seconds",
    "max_requests",
    "max_tokens_total",
    "max_money",
    "price_in",
    "price_out",
)
_ROUNDING = ("device", "attn_implementation", "batch_size")
_ASKED = {"model": "m", "prompt": "Describe it."}
_DRAWN = {"path": "org/model", "temperature": 0.5, "sees_images": True}

# class, parameters of one, another value of each that counts, those that do not count
KINDS: dict[str, tuple[type, dict[str, Any], dict[str, Any], tuple[str, ...]]] = {
    "palette": (Palette, {}, {"max_colours": 3}, ()),
    "vlm": (
        Vlm,
        {"path": "org/model", "prompt": "Describe it."},
        {
            "path": "org/other",
            "prompt": "Name it.",
            "revision": "v2",
            "dtype": "float32",
            "max_new_tokens": 3,
            "max_side": 64,
        },
        _ROUNDING,
    ),
    "openai captioner": (
        OpenAICaptioner,
        _ASKED,
        {
            "model": "n",
            "prompt": "Name it.",
            "temperature": 0.5,
            "max_tokens": 3,
            "extra_body": {"seed": 1},
            "image_side": 64,
        },
        _SERVER,
    ),
    "hf": (
        HfReasoner,
        _DRAWN,
        {
            "path": "org/other",
            "sees_images": False,
            "revision": "v2",
            "dtype": "float32",
            "max_new_tokens": 3,
            "temperature": 0.6,
            "top_p": 0.9,
            "seed": 1,
            "enable_thinking": True,
            "max_side": 64,
        },
        _ROUNDING,
    ),
    "openai reasoner": (
        OpenAIReasoner,
        {"model": "m", "sees_images": True},
        {
            "model": "n",
            "temperature": 0.5,
            "max_tokens": 3,
            "extra_body": {"seed": 1},
            "sees_images": False,
            "image_side": 64,
        },
        _SERVER,
    ),
    "template": (TemplateReasoner, {}, {}, ()),
    "synthetic": (
        Synthetic,
        {"cache_dir": "a"},
        {"num_items": 20, "seed": 1, "image_size": 32},
        # The users' choices do not affect the items' pictures.
        ("cache_dir", "num_users", "min_length", "max_length", "visual_share", "temperature"),
    ),
}


def identity_of(made: Any) -> dict[str, object]:
    """The keys of captions and texts, or of the pictures of a synthetic catalogue."""
    return made._image_identity() if isinstance(made, Synthetic) else made.identity()


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_is_part_of_the_identity_or_named_as_one_that_plays_no_part(kind):
    make, given, changes, no_part = KINDS[kind]
    assert set(inspect.signature(make).parameters) == {*changes, *no_part}
    base = identity_of(make(**given))
    assert identity_of(make(**given)) == base
    for name, value in changes.items():
        assert identity_of(make(**{**given, name: value})) != base, name


RULES: dict[str, tuple[Callable[[], Any], tuple[ModuleType, ...]]] = {
    "palette": (Palette, (palette, colours)),
    "template": (TemplateReasoner, (template, counting, markup)),
    "synthetic": (lambda: Synthetic("a"), (synthetic, drawing, randomness)),
}


@pytest.mark.parametrize(
    ("kind", "place"), [(kind, place) for kind in RULES for place in range(len(RULES[kind][1]))]
)
def test_other_rules_are_another_identity(tmp_path, monkeypatch, kind, place):
    make, modules = RULES[kind]
    before = identity_of(make())
    copied = tmp_path / "rules.py"
    copied.write_bytes(Path(modules[place].__file__).read_bytes())
    monkeypatch.setattr(modules[place], "__file__", str(copied))
    assert identity_of(make()) == before
    copied.write_bytes(copied.read_bytes() + b"\nTHRESHOLD = 0.5\n")
    assert identity_of(make()) != before


@pytest.mark.parametrize("kind", ["palette", "synthetic"])
def test_another_version_of_what_reads_and_draws_pictures_is_another_identity(monkeypatch, kind):
    make, _ = RULES[kind]
    before = identity_of(make())
    monkeypatch.setattr(cache, "library_version", lambda name: "0" if name == "pillow" else "1")
    assert identity_of(make()) != before


def test_the_order_of_sources_counts(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    assert source_fingerprint(a, b) != source_fingerprint(b, a)
    assert source_fingerprint(a, libraries=["numpy"]) != source_fingerprint(a, libraries=["scipy"])
