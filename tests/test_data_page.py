"""Every command of docs/data.md, on small files in the form that the page describes."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

PROJECT = Path(__file__).resolve().parents[1]
PAGE = (PROJECT / "docs" / "data.md").read_text(encoding="utf-8")
COMMANDS = [
    line for block in re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL) for line in block.splitlines()
]
USERS, ITEMS, LENGTH = 40, 30, 6


def sequences() -> list[list[int]]:
    """40 users with 6 of 30 items each."""
    generator = np.random.default_rng(0)
    return [generator.permutation(ITEMS)[:LENGTH].tolist() for _ in range(USERS)]


def write(file: Path, rows: list[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(rows) + "\n", encoding="utf-8")


def write_images(folder: Path) -> None:
    folder.mkdir(parents=True)
    for item in range(ITEMS):
        Image.new("RGB", (16, 16), (8 * item, 100, 50)).save(folder / f"{item}.jpg")


def write_items(folder: Path) -> None:
    write(folder / "items.csv", ["item_id,title", *(f"{item},thing number {item}" for item in range(ITEMS))])


def interactions(folder: Path) -> None:
    write_items(folder)
    write_images(folder / "images")
    rows = [
        f"{user},{item},{time}" for user, items in enumerate(sequences()) for time, item in enumerate(items)
    ]
    write(folder / "ratings.csv", ["user_id,item_id,timestamp", *rows])


def headless(folder: Path) -> None:
    write_items(folder)
    rows = [
        f"{user}\t{item}\t5\t{time}"
        for user, items in enumerate(sequences())
        for time, item in enumerate(items)
    ]
    write(folder / "ratings.tsv", rows)


def split(folder: Path) -> None:
    write_items(folder)
    for name, begin, end in (("train", 0, 4), ("valid", 4, 5), ("test", 5, 6)):
        rows = [
            f"{user},{items[time]},{time}"
            for user, items in enumerate(sequences())
            for time in range(begin, end)
        ]
        write(folder / f"{name}.csv", ["user_id,item_id,timestamp", *rows])


def samples(folder: Path) -> None:
    write(folder / "info.txt", [f"<a_{item}>\tthing number {item}\t{item}" for item in range(ITEMS)])
    header = "user_id,history_item_title,item_title,history_item_id,item_id,history_item_sid,item_sid"
    for name, begin, end in (("train", 1, 4), ("valid", 4, 5), ("test", 5, 6)):
        rows = [
            f'A{user},[],x,"{items[:time]}",{items[time]},[],x'
            for user, items in enumerate(sequences())
            for time in range(begin, end)
        ]
        write(folder / f"{name}.csv", [header, *rows])


def released(folder: Path) -> None:
    root = folder / "DIR"
    lines = [f"u{user}\t{' '.join(map(str, items))}" for user, items in enumerate(sequences())]
    write(root / "train.tsv", lines[:30])
    write(root / "test.tsv", lines[30:])
    write(
        root / "netflix_titles.csv", ["item,title", *(f"{item},thing number {item}" for item in range(ITEMS))]
    )
    write_images(root / "images")
    captions = {str(item): {"title": "x", "caption": f"looks like {item}"} for item in range(ITEMS)}
    write(root / "netflix_captions.json", [json.dumps(captions)])
    records = [
        {
            "line_idx": user,
            "user_id": f"u{user}",
            "history_items": list(map(str, items[:-1])),
            "target_item": str(items[-1]),
            "reasoning": f"likes {items[0]}",
        }
        for user, items in enumerate(sequences()[:30])
    ]
    write(root / "netflix_deepseek_cot.json", [json.dumps(records)])


# In the order of the page: the files, and their numbers of train, validation and test samples. The default backbone needs
# histories of two items and trains on every window: of six items, 3 and 4 are training targets, 5 and 6 are held out.
CASES = [
    (interactions, (2 * 40, 40, 40)),
    (headless, (2 * 40, 40, 40)),
    (split, (3 * 40, 40, 40)),  # with split.min_history=1
    (samples, (3 * 40, 40, 40)),
    (released, (4 * 27, 3, 10)),  # a tenth of the 30 train users is held out
]


def test_the_page_is_linked_and_every_command_has_its_case() -> None:
    assert "docs/data.md" in (PROJECT / "README.md").read_text(encoding="utf-8")
    assert len(COMMANDS) == len(CASES)


@pytest.mark.slow
@pytest.mark.parametrize(("typed", "case"), list(zip(COMMANDS, CASES, strict=True)))
def test_a_command_reads_its_files(
    tmp_path: Path, command: Callable[..., SimpleNamespace], typed: str, case: tuple
) -> None:
    write_files, counts = case
    write_files(tmp_path)
    words = shlex.split(typed)
    assert words[:3] == ["python", "-m", "mllmrec.train"]
    fast = ["debug=fast", "dataset.max_users=null", "hydra.run.dir=run"]
    done = command("train", *words[3:], *fast, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "GRPO" in done.stdout
    data = json.loads((tmp_path / "run" / "data.json").read_text(encoding="utf-8"))
    assert tuple(data["samples"][name]["samples"] for name in ("train", "validation", "test")) == counts
    if write_files is released:
        assert data["captions"]["captioned"] == ITEMS
        assert data["cot"]["coverage"]["matched"] > 0
