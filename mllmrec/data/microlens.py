"""MicroLens (Ni et al., 2023): micro-videos with titles and cover images.

The publishers' files for MicroLens-100k are ``MicroLens-100k_pairs.csv`` (``user,item,timestamp``, milliseconds),
``MicroLens-100k_pairs.tsv`` (``user<TAB>item item …``), ``MicroLens-100k_title_en.csv`` or
``MicroLens-50k_titles.csv``, and a folder of covers.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from mllmrec.data.base import Dataset, Items, RawData, RawInteractions
from mllmrec.data.columns import codes_among, first_seen_codes
from mllmrec.data.images import images_folder, usable_images
from mllmrec.data.released import is_released, load_released, read_titles
from mllmrec.data.sequences import read_sequences
from mllmrec.data.tables import column_names, read_table
from mllmrec.data.text import read_lines
from mllmrec.errors import UserError

COVER_FOLDERS = ("covers", "images", "MicroLens-100k_covers", "MicroLens-50k_covers")


class MicroLens(Dataset):
    """MicroLens from its publishers' files, or in the released MLLMRec-R1 layout if ``root`` holds ``train.tsv``.

    Items without a line in the titles file are kept with an empty title.

    Args:
        root: the folder with the files.
        covers: the folder of ``<item>.jpg``; None: a usual name under ``root`` if one exists.
    """

    asks_for = ("root",)

    name = "microlens"
    domain = "micro-video"

    def __init__(self, root: str | None, covers: str | None = None) -> None:
        self.root = root
        self.covers = covers

    def load(self) -> RawData:
        """Read pairs, titles and covers.

        Raises:
            UserError: a file is missing or malformed.
        """
        root = self._folder()
        if is_released(root):
            return load_released(root, self.name, self.covers)
        pairs, titles_file = self._files(root)
        titles = read_titles(titles_file)
        interactions, ids = _read_pairs(pairs, np.array(list(titles), dtype=object))
        folder = images_folder(root, self.covers, COVER_FOLDERS)
        images, skipped = usable_images(folder, ids) if folder else ({}, {})
        items = Items(
            ids=ids,
            titles=np.array([titles.get(item, "") for item in ids], dtype=object),
            details=np.full(len(ids), "", dtype=object),
            images=images,
        )
        return RawData(self.name, items, interactions, skipped)

    def _folder(self) -> Path:
        if self.root is None:
            raise UserError(
                "dataset.root is not set: give the folder with MicroLens' *_pairs.csv or *_pairs.tsv and *_titles.csv"
            )
        return Path(self.root).expanduser()

    def _files(self, root: Path) -> tuple[Path, Path]:
        """The pairs file (one with times if there is one) and the titles file."""
        pairs = sorted(root.glob("*_pairs.csv")) or sorted(root.glob("*_pairs.tsv"))
        titles = sorted(root.glob("*_titles.csv")) or sorted(root.glob("*_title*.csv"))
        wanted = {"*_pairs.csv or *_pairs.tsv": pairs, "*_titles.csv or *_title_en.csv": titles}
        for pattern, found in wanted.items():
            if len(found) > 1:
                raise UserError(
                    f"{root} has several files {pattern} ({', '.join(path.name for path in found)}): keep one"
                )
        missing = [pattern for pattern, found in wanted.items() if not found]
        if missing:
            raise UserError(
                f"no {' and no '.join(missing)} in {root}: fetch them from https://recsys.westlake.edu.cn "
                "(or give a folder in the released layout with train.tsv)"
            )
        return pairs[0], titles[0]


def _read_pairs(path: Path, titled: np.ndarray) -> tuple[RawInteractions, np.ndarray]:
    """Interactions, and the (I,) item ids: first the ids with a title, then ids that occur only in the pairs."""
    first = next((line for line in read_lines(path) if line.strip()), "")
    if "\t" in first:
        sequences, codes = read_sequences(path)
        items, ids = _join(sequences.items, np.array(list(codes), dtype=object), titled)
        return RawInteractions(sequences.user_ids, sequences.users, items), ids
    header = column_names(path)
    if len(header) < 3 or header[2].isdigit():
        raise UserError(
            f"{path}:1: expected the header user,item,timestamp, found {first.strip()[:60]!r}: add it"
        )
    table = read_table(path, header[:3])
    users, user_ids = first_seen_codes(table.ids(header[0]))
    items, ids = _join(*first_seen_codes(table.ids(header[1])), titled)
    return RawInteractions(user_ids, users, items, timestamps=table.times(header[2])), ids


def _join(codes: np.ndarray, names: np.ndarray, titled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Recode ``codes`` (into ``names``) as codes into ``titled`` followed by the names that ``titled`` lacks."""
    positions = codes_among(pa.chunked_array([pa.array(names.tolist(), pa.string())]), titled)
    untitled = positions < 0
    positions[untitled] = len(titled) + np.arange(untitled.sum(), dtype=np.int32)
    return positions[codes], np.concatenate([titled, names[untitled]])
