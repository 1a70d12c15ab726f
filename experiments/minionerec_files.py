"""Writes Amazon Beauty in the file layout of MiniOneRec's published data, to train on such files.

    python experiments/minionerec_files.py root=DIR out=DIR history=10

Writes ``train.csv``, ``valid.csv`` and ``test.csv`` with MiniOneRec's columns, one row for each target with the latest
``history`` items before it, and ``info.txt`` (semantic id, title and item id, separated by tabs, no header). The last
item of each user is in ``test.csv``, the one before in ``valid.csv``, all others in ``train.csv``. The semantic ids only
fill their columns: each is made from the item id. ``docs/data.md`` says how to read such files.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np

from mllmrec.cache import atomic_path
from mllmrec.data.amazon_beauty import AmazonBeauty
from mllmrec.errors import UserError

COLUMNS = [
    *("user_id", "history_item_title", "item_title", "history_item_id", "item_id"),
    *("history_item_sid", "item_sid"),
]


def write_files(root: str, out: Path, history: int) -> dict[str, int]:
    """Write the four files; returns the number of rows by file name.

    Raises:
        UserError: the data are not there.
    """
    data = AmazonBeauty(root, "unused", download=False).load()
    ids, titles = data.items.ids, data.items.titles
    semantic = np.array([f"<a_{item}>" for item in ids], dtype=object)
    with atomic_path(out / "info.txt") as temporary:
        lines = zip(semantic, titles, ids, strict=True)
        temporary.write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")
    order = np.argsort(data.interactions.users, kind="stable")
    bounds = np.searchsorted(data.interactions.users[order], np.arange(len(data.interactions.user_ids) + 1))
    rows: dict[str, list[list[object]]] = {"train.csv": [], "valid.csv": [], "test.csv": []}
    for user, name in enumerate(data.interactions.user_ids):
        items = data.interactions.items[order[bounds[user] : bounds[user + 1]]]
        for place in range(1, len(items)):
            left = len(items) - place
            file = "test.csv" if left == 1 else "valid.csv" if left == 2 else "train.csv"
            before, target = items[max(0, place - history) : place], items[place]
            rows[file].append(
                [
                    f"A{name}",
                    titles[before].tolist(),
                    titles[target],
                    [int(item) for item in ids[before]],
                    int(ids[target]),
                    semantic[before].tolist(),
                    semantic[target],
                ]
            )
    for file, lines_of_file in rows.items():
        with (
            atomic_path(out / file) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as stream,
        ):
            csv.writer(stream).writerows([COLUMNS, *lines_of_file])
    return {file: len(lines_of_file) for file, lines_of_file in rows.items()}


def main(arguments: list[str]) -> int:
    """The command; returns the exit status."""
    given = dict(argument.partition("=")[::2] for argument in arguments)
    if not {"root", "out"} <= given.keys() <= {"root", "out", "history"}:
        print("give root=DIR (of Amazon Beauty) and out=DIR, perhaps history=10", file=sys.stderr)
        return 2
    try:
        counts = write_files(given["root"], Path(given["out"]), int(given.get("history", "10")))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(", ".join(f"{file}: {count:,} rows" for file, count in counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
