"""What scripts compute or draw for docs/ is what stands there, and fits what was measured."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{Path(name).stem}", DOCS / name)
    module = importlib.util.module_from_spec(spec)
    # A dataclass looks its module up while it is made.
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def memory() -> ModuleType:
    return script("memory.py")


PAGE = (DOCS / "memory.md").read_text(encoding="utf-8")


def test_the_table_of_memory_is_the_computed_one(memory: ModuleType) -> None:
    assert "\n".join(memory.rows()) in PAGE, "python docs/memory.py"


# In millions, as the models' cards state them.
@pytest.mark.parametrize(
    ("name", "millions"),
    [
        *(("SmolLM2-135M", 135), ("Qwen2.5-0.5B", 494), ("Qwen3-0.6B", 596), ("Llama-3.2-1B", 1236)),
        *(("Qwen2.5-1.5B", 1544), ("Qwen3-1.7B", 1721), ("Llama-3.2-3B", 3213), ("Qwen3-4B", 4022)),
        *(("Qwen2.5-7B", 7616), ("Qwen3-8B", 8191)),
    ],
)
def test_shapes_have_the_published_number_of_weights(memory: ModuleType, name: str, millions: int) -> None:
    (shape,) = [one for one in memory.SHAPES if one.name == name]
    assert shape.weights / 1e6 == pytest.approx(millions, rel=0.004)


def test_a_layer_by_hand(memory: ModuleType) -> None:
    shape = memory.Shape("", layers=1, hidden=2, queries=4, keys=1, feed_forward=3, vocabulary=10)
    # 2x4 twice for queries and output, 2x1 twice for keys and values, 2x3 three times.
    assert shape.linear == 16 + 4 + 18
    assert shape.weights == 38 + 20
    # Of rank 1: in and out of each of the seven.
    assert shape.adapter(rank=1) == 2 * 6 + 2 * 3 + 3 * 5
    assert shape.kept(half=False) == 4 * (12 + 8 + 2 + 12)
    assert shape.kept(half=True) == 4 * 12 + 2 * (8 + 2 + 12) + 2 * (10 + 4 + 3)


def test_the_page_compares_the_formula_with_measurements(memory: ModuleType) -> None:
    small = memory.SHAPES[0]
    size_s = memory.Shape("S", 8, 384, 384, 128, 1152, 8192)
    computed = [
        small.kept(half=False) * 2 * 696 + 4 * small.linear,
        small.kept(half=True) * 2 * 696,
        2 * small.layers * small.hidden * 2 * 696,
        size_s.kept(half=False) * 4112 + 4 * size_s.linear,
    ]
    rows = re.findall(r"\| ([\d,]+) \| ([\d,]+) \|$", PAGE.split("## How well")[1], flags=re.MULTILINE)
    measured = (DOCS.parent / "experiments" / "memory.md").read_text(encoding="utf-8")
    assert [said for _, said in rows] == [f"{number / 1e6:,.0f}" for number in computed]
    for figure, _ in rows:
        assert f" {figure} " in measured


@pytest.mark.parametrize("name", ["pipeline", "shared_prefix", "expected_reward"])
def test_a_picture_is_the_drawn_one(name: str) -> None:
    drawn = script("pictures/draw.py").PICTURES[name]().text()
    written = (DOCS / "pictures" / f"{name}.svg").read_text(encoding="utf-8")
    assert written == drawn, "python docs/pictures/draw.py"
