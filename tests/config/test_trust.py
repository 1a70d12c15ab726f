"""Settings that nobody typed here may name classes of mllmrec and OpenAI's server; all else has to be trusted by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from mllmrec.config import CONFIG_DIR
from mllmrec.config.trust import named_in, refuse_strangers, trusted
from mllmrec.errors import UserError

FILE = Path("run/.hydra/resolved.yaml")


def refused(settings: object, *trust: str) -> str:
    with pytest.raises(UserError) as caught:
        refuse_strangers(settings, FILE, trust)
    return str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"engine": {"_target_": "pandas.read_pickle"}}, "engine._target_=pandas.read_pickle: .*trust=[pandas]"),
        ({"a": [{"b": {"_target_": "evil.Class"}}]}, "a[0].b._target_=evil.Class: .*trust=[evil]"),
        ({"engine": {"_target_": "mllmrec.cli.os.system"}}, "engine._target_=mllmrec.cli.os.system: no class of mllmrec"),
        ({"a": {"_target_": "mllmrec.jobs.reproduction.subprocess.Popen"}}, "subprocess.Popen: no class of mllmrec"),
        ({"a": {"_target_": "mllmrec.jobs.reproduction.run_again"}}, "run_again: no class of mllmrec"),
        ({"method": {"phases": ["sft", "evil.KIND"]}}, "method.phases[1].kind=evil.KIND: .*trust=[evil]"),
        ({"method": {"phases": [{"kind": "evil.KIND"}]}}, "method.phases[0].kind=evil.KIND: .*trust=[evil]"),
        ({"caption": {"base_url": "https://evil.example/v1"}}, "caption.base_url=.*a key to evil.example: .*trust=[evil.example]"),
        ({"caption": {"base_url": "https://api.openai.com@evil.example/v1"}}, "a key to evil.example"),
        ({"cache_dir": "https://evil.example/${oc.env:OPENAI_API_KEY}"}, "cache_dir=.*all references resolved"),
    ],
)  # fmt: skip
def test_what_is_not_trusted_is_refused_by_place_and_name(settings, words: str) -> None:
    message = refused(settings)
    assert message.startswith("run/.hydra/resolved.yaml: ")
    assert re.search(re.escape(words).replace(r"\.\*", ".*"), message), message


def test_trust_is_for_the_named_alone() -> None:
    settings = {
        "a": {"_target_": "mllmrec.rewards.hit_format.HitFormat"},
        "b": {"base_url": "http://gpu-box:8000/v1"},
    }
    assert "trust=[gpu-box]" in refused(settings, "gpu", "mllmrec")
    refuse_strangers(settings, FILE, ["gpu-box"])
    # A trusted package lends nothing of what it imports.
    assert "no class of mllmrec" in refused({"a": {"_target_": "mllmrec.cli.Path"}}, "gpu-box")
    refuse_strangers({"b": {"base_url": "http://127.0.0.1:8000/v1", "_target_": None}}, FILE, [])


def test_names_come_from_the_command_and_the_environment(monkeypatch) -> None:
    assert trusted() == trusted(None) == ()
    monkeypatch.setenv("MLLMREC_TRUST", "a, b,")
    assert trusted("ourlab") == ("ourlab", "a", "b")
    assert trusted(["x", "y"]) == ("x", "y", "a", "b")


def test_whoever_types_settings_trusts_what_they_name() -> None:
    settings = {
        "reward": {"_target_": "ourlab.rewards.Near"},
        "draft": {"base_url": "http://gpu-box/v1"},
        "method": {"phases": ["sft", {"kind": "kinds.OURS"}]},
    }
    assert named_in(settings) == ("ourlab", "kinds", "gpu-box")


def test_every_choice_of_the_package_may_stand_in_a_run() -> None:
    # Launchers are Hydra's affair, samplers of searches the tuner's: no run's settings hold them.
    others = {CONFIG_DIR / "hydra", CONFIG_DIR / "tune.yaml"}
    files = [file for file in sorted(CONFIG_DIR.rglob("*.yaml")) if not others & {file, *file.parents}]
    for file in files:
        content = yaml.safe_load(file.read_text(encoding="utf-8").replace("${", "$("))
        refuse_strangers({"choice": content}, file, ())
    assert len(files) > 100
