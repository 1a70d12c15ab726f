"""Your own data: interactions or published splits, an item table, and an optional folder of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from mllmrec.data.base import Dataset, Items, RawData
from mllmrec.data.columns import TableFile, refuse_duplicate_ids
from mllmrec.data.images import image_files, usable_images, whole_images
from mllmrec.data.interaction_tables import InteractionTables, KnownItems
from mllmrec.data.tables import read_table
from mllmrec.data.text import join_details, require_files
from mllmrec.errors import UserError

FILES = ("interactions", "train", "validation", "test", "items")


class Tabular(Dataset):
    """Tables in CSV, TSV, Parquet or JSON Lines. The suffix gives the kind; text files may end in ``.gz``.

    Give either one table of interactions, or the files of a published split: ``train``, ``test`` and optionally
    ``validation``. A row of these files is an interaction too, or a target with its history if ``history_column`` is
    set.

    Args:
        interactions: the file with one row per interaction.
        items: the file with one row per item.
        images: the folder of images; None: no images.
        train: the train rows of a published split, instead of ``interactions``.
        validation: its validation rows; None: the split holds out train users.
        test: its test rows.
        history_column: the column of histories in the split files: lists of item ids, oldest first, or lists printed
            as text. None: a row is an interaction.
        user_column: the column of user ids in the interactions.
        item_column: the column of item ids; with ``history_column`` these are the targets.
        time_column: the column of times (numbers, later is greater); None: the file is in time order. Not read if
            ``history_column`` is set.
        rating_column: the column of ratings; None: no ratings. Not read if ``history_column`` is set.
        items_id_column: the column of item ids in the item file; None: ``item_column``.
        title_column: the column of titles in the item file.
        details_columns: columns of the item file joined into the text shown beside a title.
        image_column: the column of the item file with the image's path inside ``images``; None: the images are
            named ``<item id>.jpg``, ``.jpeg``, ``.png`` or ``.webp``.
        header: which tables begin with a line of column names: ``both``, ``interactions``, ``items`` or ``none``.
            Name the columns of the other tables by number, from 1.
        unknown_items: what to do with interactions whose item is not in the item file: ``error`` or ``drop``.
        encoding: the encoding of text files.
        domain: the noun in the prompts.
        name: what reports call the dataset.

    Raises:
        UserError: a column of a table without header is not given as a number.
    """

    takes_files = True

    def __init__(
        self,
        interactions: str | None,
        items: str | None,
        images: str | None = None,
        train: str | None = None,
        validation: str | None = None,
        test: str | None = None,
        history_column: str | int | None = None,
        user_column: str | int = "user_id",
        item_column: str | int = "item_id",
        time_column: str | int | None = "timestamp",
        rating_column: str | int | None = None,
        items_id_column: str | int | None = None,
        title_column: str | int = "title",
        details_columns: Sequence[str | int] = (),
        image_column: str | int | None = None,
        header: Literal["both", "interactions", "items", "none"] = "both",
        unknown_items: Literal["error", "drop"] = "error",
        encoding: str = "utf-8",
        domain: str = "item",
        name: str = "tabular",
    ) -> None:
        self.interactions = interactions
        self.items = items
        self.images = images
        self.train = train
        self.validation = validation
        self.test = test
        self.history_column = _name(history_column)
        self.user_column = str(user_column)
        self.item_column = str(item_column)
        self.time_column = _name(time_column)
        self.rating_column = _name(rating_column)
        self.items_id_column = _name(items_id_column)
        self.title_column = str(title_column)
        self.details_columns = list(map(str, details_columns))
        self.image_column = _name(image_column)
        self.header = header
        self.unknown_items = unknown_items
        self.encoding = encoding
        self.domain = domain
        self.name = name
        self._check_column_numbers()

    def load(self) -> RawData:
        """Read the tables and the images.

        Raises:
            UserError: a file or column is missing, a line is malformed, or an item id is repeated or unknown.
        """
        files = self._files()
        if self.unknown_items not in ("error", "drop"):
            raise UserError(f"unknown dataset.unknown_items {self.unknown_items!r}: use drop or error")
        optional = [name for name in (self.image_column,) if name is not None]
        id_column = self.items_id_column or self.item_column
        table = read_table(
            files["items"],
            [id_column, self.title_column, *self.details_columns, *optional],
            self.encoding,
            header=self.header in ("both", "items"),
        )
        item_column = table.ids(id_column)
        refuse_duplicate_ids(table, item_column)
        ids = np.array(item_column.to_pylist(), dtype=object)
        details = [table.text(name) for name in self.details_columns]
        known = KnownItems(files["items"], ids, self.unknown_items == "drop")
        tables = self._interaction_tables()
        interactions = (
            tables.read(files["interactions"], known)
            if "interactions" in files
            else tables.read_split(files, known)
        )
        images, unreadable = self._read_images(table, ids)
        items = Items(
            ids=ids,
            titles=table.text(self.title_column),
            details=np.array(
                [join_details(column[row] for column in details) for row in range(len(ids))], dtype=object
            ),
            images=images,
        )
        skipped = {"interactions with unknown items": known.dropped} if known.dropped else {}
        return RawData(self.name, items, interactions, skipped | unreadable)

    def _files(self) -> dict[str, Path]:
        given = {name: getattr(self, name) for name in FILES}
        files = {name: Path(path).expanduser() for name, path in given.items() if path is not None}
        whole, split = "interactions" in files, {"train", "validation", "test"} & files.keys()
        if "items" not in files or not (whole or split):
            raise UserError(
                "dataset.interactions and dataset.items are not both set: name the two table files; for a published "
                "split set dataset.train and dataset.test instead of dataset.interactions"
            )
        if split and (whole or not {"train", "test"} <= split):
            raise UserError(
                "a published split is dataset.train and dataset.test, optionally with dataset.validation, and no "
                "dataset.interactions: name these files"
            )
        require_files(files.values(), f"correct {', '.join(f'dataset.{name}' for name in files)}")
        return files

    def _check_column_numbers(self) -> None:
        of_interactions = ["user_column", "item_column", "history_column"]
        if self.history_column is None:
            of_interactions += ["time_column", "rating_column"]
        of_items = ["items_id_column", "title_column", "details_columns", "image_column"]
        if self.items_id_column is None:
            of_items.append("item_column")
        headless = (of_interactions if self.header in ("items", "none") else []) + (
            of_items if self.header in ("interactions", "none") else []
        )
        wrong = {
            f"dataset.{setting}={column}": None
            for setting in headless
            for column in _columns(getattr(self, setting))
            if not column.isdecimal() or int(column) < 1
        }
        if wrong:
            raise UserError(
                f"{', '.join(wrong)} with dataset.header={self.header}: columns of a table without header are numbers, "
                "from 1"
            )

    def _interaction_tables(self) -> InteractionTables:
        samples = self.history_column is not None
        return InteractionTables(
            user=self.user_column,
            item=self.item_column,
            time=None if samples else self.time_column,
            rating=None if samples else self.rating_column,
            history=self.history_column,
            encoding=self.encoding,
            header=self.header in ("both", "interactions"),
        )

    def _read_images(self, table: TableFile, ids: np.ndarray) -> tuple[dict[str, Path], dict[str, int]]:
        if self.images is None:
            if self.image_column is not None:
                raise UserError(
                    "dataset.image_column is set but dataset.images is not: name the folder of the images"
                )
            return {}, {}
        folder = Path(self.images).expanduser()
        if self.image_column is None:
            return usable_images(folder, ids)
        image_files(folder)
        files: dict[str, Path] = {}
        named: dict[str, None] = {}
        for row, (item, name) in enumerate(zip(ids, table.text(self.image_column), strict=True)):
            path = folder / name
            if not path.resolve().is_relative_to(folder.resolve()):
                raise UserError(
                    f"{table.where(row)}: image {name!r} lies outside {folder}: give paths inside the folder"
                )
            named[name] = None
            if name and path.is_file():
                files[item] = path
        named.pop("", None)
        missing = [name for name in named if not (folder / name).is_file()]
        if missing and not files:
            raise UserError(
                f"none of the {len(missing)} images that column {self.image_column} names is in {folder}: "
                f"{', '.join(missing[:3])}: correct dataset.images or dataset.image_column"
            )
        usable, unreadable = whole_images(files)
        return usable, ({"images that are not there": len(missing)} if missing else {}) | unreadable


def _columns(setting: str | Sequence[str] | None) -> Sequence[str]:
    return [] if setting is None else [setting] if isinstance(setting, str) else setting


def _name(column: str | int | None) -> str | None:
    return None if column is None else str(column)
