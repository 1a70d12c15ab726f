"""Reading a class from its source gives the same parameters as importing it."""

from __future__ import annotations

import inspect
import pydoc
import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_type_hints

import pytest

from mllmrec.config import CONFIG_DIR
from mllmrec.config.signatures import UNREADABLE, signature_of

SHIPPED = sorted(
    {
        found[1]
        for path in CONFIG_DIR.rglob("*.yaml")
        for found in re.finditer(
            r"^\s*_target_: (mllmrec\.\S+)", path.read_text(encoding="utf-8"), re.MULTILINE
        )
    }
)
OWN = """
from dataclasses import dataclass
from typing import Literal as Choice
from other import Base
Names = list[str]

class Plain:
    def __init__(self, how: Choice["a", "b"] = "a", *, names: Names | None = None, odd: "Unknown" = 1, **more): ...

class Inherits(Base): ...

@dataclass
class Data:
    share: float
    count: int = 3

class Mixin:
    pass

class SeveralBases(Mixin, Base): ...

@dataclass
class Fields:
    made: list[str] = field(default_factory=list, init=False)
    share: float = 0.5

@dataclass
class OfTheClass:
    limit: ClassVar[int]
    share: float = 0.5

class Odd:
    def __init__(self, never: int[str] = 1): ...

@wrapped
class Decorated:
    def __init__(self, a): ...

class Meta(metaclass=Anything):
    def __init__(self, a): ...

def function(a): ...
"""


@pytest.mark.parametrize("target", SHIPPED)
def test_shipped_classes_are_read_as_they_are(target: str) -> None:
    found = signature_of(target)
    component = pydoc.locate(target)
    real, hints = inspect.signature(component).parameters, get_type_hints(component.__init__)
    assert [(name, one.default is one.empty) for name, one in found.items()] == [
        (name, one.default is one.empty) for name, one in real.items()
    ]
    known = {name: one.annotation for name, one in found.items() if one.annotation is not UNREADABLE}
    assert known == {name: hints[name] for name in known}
    # `prepare` adds the first two arguments, and Hydra builds the parts inside another before their owner.
    parts = {"inner", "parts", "encoder", "windows", "item", "ranked"}
    assert set(found) - set(known) <= {"pipeline", "open_judge"} | parts


def test_classes_of_one_s_own(tmp_path: Path, import_from: Callable[[Path], None]) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    (tmp_path / "other.py").write_text(
        "class Base:\n    def __init__(self, weight: float): ...\nraise RuntimeError\n"
    )
    import_from(tmp_path)
    plain = signature_of("mine.Plain")
    assert [(name, one.annotation) for name, one in plain.items()] == [
        ("how", Literal["a", "b"]),
        ("names", list[str] | None),
        ("odd", UNREADABLE),
        ("more", UNREADABLE),
    ]
    assert plain["more"].kind is inspect.Parameter.VAR_KEYWORD
    assert signature_of("mine.Odd")["never"].annotation is UNREADABLE
    assert signature_of("mine.Inherits")["weight"].default is inspect.Parameter.empty
    assert {name: one.annotation for name, one in signature_of("mine.Data").items()} == {
        "share": float,
        "count": int,
    }


@pytest.mark.parametrize(
    "target",
    [
        "mine.SeveralBases",
        "mine.Fields",
        "mine.OfTheClass",
        "mine.Decorated",
        "mine.Meta",
        "mine.function",
        "mine.Absent",
        "absent.Class",
        "x",
    ],
)
def test_what_is_not_plain_is_left_to_the_import(
    tmp_path: Path, import_from: Callable[[Path], None], target: str
) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    import_from(tmp_path)
    assert signature_of(target) is None
