from __future__ import annotations

import json
import os
import sys
from collections import Counter
from functools import cached_property
from pathlib import Path

import pytest

pytest.importorskip("mutmut")
sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))
import mutation
from mutation import Mutant

SOURCE = """\
from contextlib import contextmanager
from functools import cached_property

@contextmanager
def doubled(value):
    if value < 0:
        raise ValueError(
            f"{value} is below 0"
        )
    log.info("at %s", value)
    yield 2 * value


class Box:
    @cached_property
    def half(self):
        return self.whole / 2

    @classmethod
    def made(cls):
        return cls()
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A package of one function, and a test that does not look at its bound."""
    files = {
        "pyproject.toml": "",
        "conf/train.yaml": "",
        "mllmrec/__init__.py": "",
        "mllmrec/rewards/__init__.py": "",
        "mllmrec/rewards/hit.py": "def hit(rank, k):\n    return 1.0 if rank <= k else 0.0\n",
        "mllmrec/rl/__init__.py": "",
        "tests/rewards/test_hit.py": (
            "from mllmrec.rewards.hit import hit\n\n"
            "def test_hit():\n    assert hit(1, 3) == 1.0\n    assert hit(4, 3) == 0.0\n"
        ),
    }
    for name, text in files.items():
        (tmp_path / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "checkout" / name).write_text(text)
    return tmp_path / "checkout"


def test_messages_are_left_alone_and_decorated_functions_are_not():
    lines = mutation.prepared_source(SOURCE).split("\n")
    assert [line.split()[0] for line in lines if line.endswith(mutation.LEFT_ALONE)] == [
        "raise",
        'f"{value}',
        ")",
        'log.info("at',
    ]
    assert not any(line.strip().startswith("@c") for line in lines if "classmethod" not in line)
    names = {"log": type("Log", (), {"info": print})}
    exec("\n".join(lines), names)
    with names["doubled"](3) as value:
        assert value == 6
    assert isinstance(vars(names["Box"])["half"], cached_property)
    box = names["Box"].made()
    box.whole = 8
    assert box.half == 4


def test_a_sample_has_of_each_file_its_share_and_depends_on_the_seed_alone():
    mutants = [
        Mutant(f"{file}.{number}", file)
        for file, size in (("a", 60), ("b", 30), ("c", 9))
        for number in range(size)
    ]
    drawn = mutation.drawn(mutants, 33, seed=1)
    assert Counter(mutant.file for mutant in drawn) == {"a": 20, "b": 10, "c": 3}
    assert [mutant.name for mutant in drawn] == [
        mutant.name for mutant in mutation.drawn(mutants, 33, seed=1)
    ]
    assert drawn != mutation.drawn(mutants, 33, seed=2)
    assert mutation.drawn(mutants, 0, seed=1) == mutants


def test_every_file_is_of_one_part_and_every_part_has_its_tests():
    root = mutation.ROOT
    files = [path for part in mutation.PARTS for path in mutation.files_of(part, root)]
    assert len(files) == len(set(files))
    assert root / "mllmrec" / "rl" / "losses.py" in files
    assert root / "mllmrec" / "phases" / "store.py" in files
    for patterns, tests in mutation.PARTS.values():
        assert all(any(root.glob(pattern)) for pattern in patterns)
        assert any(path for pattern in tests for path in root.glob(pattern))


def test_only_survivors_can_be_equivalent(tmp_path, monkeypatch):
    known = tmp_path / "known.yaml"
    known.write_text(
        "- {file: 'm/a\\.py', before: '.*strict=True.*', after: '.*strict=False.*', reason: a guard}\n"
    )
    monkeypatch.setattr(mutation, "EQUIVALENT", known)
    change = {"before": "zip(a, b, strict=True)", "after": "zip(a, b, strict=False)"}
    mutants = [
        Mutant("1", "m/a.py", "survived", "f", **change),
        Mutant("2", "m/b.py", "survived", "f", **change),
        Mutant("3", "m/a.py", "no tests", "f", **change),
        Mutant("4", "m/a.py", "timeout", "f"),
    ]
    mutation.mark_equivalent(mutants)
    assert [mutant.reason for mutant in mutants] == ["a guard", "", "", ""]
    assert [mutant.name for mutant in mutation.survivors(mutants)] == ["2", "3"]
    counted = mutation.score(mutants)
    assert counted.pop("interval") == pytest.approx([0.0615, 0.7923], abs=1e-4)
    assert counted == {
        "mutants": 4,
        "killed": 1,
        "timeout": 1,
        "equivalent": 1,
        "survived": 2,
        "score": pytest.approx(1 / 3),
    }


@pytest.mark.parametrize("argument", ["sampel=3", "parts=rl,nothing", "sample=many"])
def test_a_wrong_command_line_is_refused(argument):
    assert mutation.main([argument]) == 2


@pytest.mark.slow
def test_survivors_of_a_small_package_are_found_outside_of_it(checkout, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "nice", lambda added: 0)
    before = {path: path.read_bytes() for path in checkout.rglob("*") if path.is_file()}
    assert mutation.main([f"source={checkout}", "parts=rewards", f"out={tmp_path / 'found.json'}"]) == 0
    report = json.loads((tmp_path / "found.json").read_text())
    changes = {(entry["before"], entry["after"]) for entry in report["survivors"]}
    # The test never asks for the last rank that is a hit.
    assert ("return 1.0 if rank <= k else 0.0", "return 1.0 if rank < k else 0.0") in changes
    assert report["all"]["killed"] >= 4
    assert report["all"]["survived"] == len(report["survivors"])
    assert {path: path.read_bytes() for path in checkout.rglob("*") if path.is_file()} == before
