"""The layout released with MLLMRec-R1: ``train.tsv``, ``test.tsv``, ``<name>_titles.csv``, ``images/<item>.jpg``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mllmrec.data.base import TEST, TRAIN, Items, RawData, RawInteractions
from mllmrec.data.images import images_folder, usable_images
from mllmrec.data.sequences import read_sequences
from mllmrec.data.tables import read_rows
from mllmrec.data.text import collapse_spaces, read_lines, require_files
from mllmrec.errors import UserError

IMAGE_FOLDERS = ("images",)
HEADER = re.compile(r'"?((item|video|movie)?_?id|item|asin)"?,|[^,]*,"?title"?(,|\s*$)', re.IGNORECASE)


def is_released(root: Path) -> bool:
    """Whether ``root`` holds the released layout."""
    return (root / "train.tsv").is_file()


def load_released(root: Path, name: str, images: str | None = None) -> RawData:
    """Read the released layout. A user in both files gets one code per file under the same user id.

    Raises:
        UserError: a file is missing or malformed, an item has no line in the titles file, or a user appears twice in
            a file.
    """
    titles_file = _files(root)["titles"]
    titles = read_titles(titles_file)
    codes = {item: code for code, item in enumerate(titles)}
    train, _ = read_sequences(root / "train.tsv", codes)
    test, _ = read_sequences(root / "test.tsv", codes)
    folder = images_folder(root, images, IMAGE_FOLDERS)
    found, skipped = usable_images(folder, titles) if folder else ({}, {})
    return RawData(
        name=name,
        items=Items(
            ids=np.array(list(titles), dtype=object),
            titles=np.array(list(titles.values()), dtype=object),
            details=np.full(len(titles), "", dtype=object),
            images=found,
        ),
        interactions=RawInteractions(
            user_ids=np.concatenate([train.user_ids, test.user_ids]),
            users=np.concatenate([train.users, test.users + np.int32(len(train.user_ids))]),
            items=np.concatenate([train.items, test.items]),
            split=np.repeat(np.array([TRAIN, TEST], dtype=np.int8), [len(train.items), len(test.items)]),
        ),
        skipped=skipped,
    )


def read_titles(path: Path) -> dict[str, str]:
    """Item id → title from the first two columns of a CSV file, with or without a header line.

    A file without a header is split at the first comma of each line: MicroLens leaves titles with commas unquoted.

    Raises:
        UserError: a row has no title column, an id appears twice, a quotation mark is not closed, or the file is empty.
    """
    titles: dict[str, str] = {}
    lines: dict[str, int] = {}
    for number, item, title in _title_rows(path):
        if not item:
            raise UserError(f"{path}:{number}: no item id: correct or remove the line")
        if item in lines:
            raise UserError(
                f"{path}:{number}: item {item} is already on line {lines[item]}: keep one line per item"
            )
        lines[item] = number
        titles[item] = collapse_spaces(title)
    if not titles:
        raise UserError(f"{path} has no items: give a file with one line item,title per item")
    return titles


def _title_rows(path: Path) -> Iterator[tuple[int, str, str]]:
    first = next((line for line in read_lines(path) if line.strip()), "")
    if not HEADER.match(first):
        for number, line in enumerate(read_lines(path), start=1):
            item, comma, title = line.strip().partition(",")
            if item and not comma:
                raise UserError(
                    f"{path}:{number}: expected item,title, found {line.strip()[:60]!r}: correct the line"
                )
            quoted = len(title) > 1 and title[0] == title[-1] == '"'
            if comma:
                yield number, item.strip(), title[1:-1].replace('""', '"') if quoted else title
        return
    rows = read_rows(path)
    _, header = next(rows)
    for number, row in rows:
        unquoted_commas = len(header) == 2 and len(row) > 2
        if len(row) != len(header) and not unquoted_commas:
            raise UserError(
                f"{path}:{number}: {len(row)} fields where the header has {len(header)}: correct the line"
            )
        yield number, row[0].strip(), ",".join(row[1:]) if unquoted_commas else row[1]


def _files(root: Path) -> dict[str, Path]:
    found = sorted(root.glob("*_titles.csv"))
    if len(found) > 1:
        raise UserError(
            f"{root} has several titles files ({', '.join(path.name for path in found)}): keep one"
        )
    titles = found[0] if found else root / f"{root.name}_titles.csv"
    files = {"train": root / "train.tsv", "test": root / "test.tsv", "titles": titles}
    require_files(
        files.values(), "the released MLLMRec-R1 layout needs train.tsv, test.tsv and <name>_titles.csv"
    )
    return files
