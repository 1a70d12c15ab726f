"""Your own data: interactions or published splits, an item table, and an optional folder of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
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
from mllmrec.flat import flat_settings

FILES = ("interactions", "train", "validation", "test", "items")  # settings that name tables
Column = str | int  # a name, or the number of a column in a table without header
Columns = Sequence[str | int]
Header = Literal["both", "interactions", "items", "none"]
Unknown = Literal["error", "drop"]


@dataclass(frozen=True)
class Files:
    """Where the data is: one table of interactions or the files of a published split, an item table, perhaps images.

    Args:
        interactions: the file with one row per interaction.
        items: the file with one row per item.
        images: the folder of images; None: no images.
        train: the train rows of a published split, instead of ``interactions``.
        validation: its validation rows; None: the split holds out train users.
        test: its test rows.
    """

    interactions: str | None = None
    items: str | None = None
    images: str | None = None
    train: str | None = None
    validation: str | None = None
    test: str | None = None

    def tables(self) -> dict[str, Path]:
        """The tables by setting.

        Raises:
            UserError: they are neither one table nor a published split, or a file is missing.
        """
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


@dataclass(frozen=True)
class InteractionColumns:
    """Which column of the interactions holds what.

    Args:
        user_column: user ids.
        item_column: item ids; with ``history_column`` these are the targets.
        history_column: histories in the files of a published split: lists of item ids, oldest first, or lists printed
            as text. None: a row is an interaction.
        time_column: times (numbers, later is greater); None: the file is in time order. Not read if
            ``history_column`` is set.
        rating_column: ratings; None: no ratings. Not read if ``history_column`` is set.
    """

    user_column: Column = "user_id"
    item_column: Column = "item_id"
    history_column: Column | None = None
    time_column: Column | None = "timestamp"
    rating_column: Column | None = None


@dataclass(frozen=True)
class ItemColumns:
    """Which column of the item file holds what.

    Args:
        items_id_column: item ids; None: ``item_column``.
        title_column: titles.
        details_columns: columns joined into the text shown beside a title.
        image_column: the image's path inside ``images``; None: the images are named ``<item id>.jpg``, ``.jpeg``,
            ``.png`` or ``.webp``.
    """

    items_id_column: Column | None = None
    title_column: Column = "title"
    details_columns: Columns = ()
    image_column: Column | None = None


@dataclass(frozen=True)
class Reading:
    """How the tables are read.

    Args:
        header: which tables begin with a line of column names: ``both``, ``interactions``, ``items`` or ``none``.
            Name the columns of the other tables by number, from 1.
        unknown_items: what to do with interactions whose item is not in the item file: ``error`` or ``drop``.
        encoding: the encoding of text files.
    """

    header: Header = "both"
    unknown_items: Unknown = "error"
    encoding: str = "utf-8"

    def has_header(self, table: Literal["interactions", "items"]) -> bool:
        """Whether the tables of this kind begin with a line of column names."""
        return self.header in ("both", table)


class Tabular(Dataset):
    """Tables in CSV, TSV, Parquet or JSON Lines. The suffix gives the kind; text files may end in ``.gz``.

    Give either one table of interactions, or the files of a published split: ``train``, ``test`` and optionally
    ``validation``. A row of these files is an interaction too, or a target with its history if ``history_column`` is
    set.

    Args:
        files: where the tables and images are.
        of_interactions: the columns of the interactions.
        of_items: the columns of the item file.
        reading: how the tables are read.
        domain: the noun in the prompts.
        name: what reports call the dataset.

    Raises:
        UserError: a column of a table without header is not given as a number.
    """

    takes_files = True

    @flat_settings
    def __init__(
        self,
        files: Files = Files(),
        of_interactions: InteractionColumns = InteractionColumns(),
        of_items: ItemColumns = ItemColumns(),
        reading: Reading = Reading(),
        domain: str = "item",
        name: str = "tabular",
    ) -> None:
        self.files, self.reading = files, reading
        self.of_interactions, self.of_items = of_interactions, of_items
        self.domain, self.name = domain, name
        self._check_column_numbers()

    def files_read(self) -> dict[str, Path] | None:
        """The tables; None if there are images, which may change one by one, or if a subclass may read more.

        Raises:
            UserError: a file is missing.
        """
        alone = type(self) is Tabular and self.files.images is None
        return self.files.tables() if alone else None

    def load(self) -> RawData:
        """Read the tables and the images.

        Raises:
            UserError: a file or column is missing, a line is malformed, or an item id is repeated or unknown.
        """
        files, reading = self.files.tables(), self.reading
        if reading.unknown_items not in ("error", "drop"):
            raise UserError(f"unknown dataset.unknown_items {reading.unknown_items!r}: use drop or error")
        id_column = _name(self.of_items.items_id_column) or str(self.of_interactions.item_column)
        title_column, details_columns = str(self.of_items.title_column), _names(self.of_items.details_columns)
        table = read_table(
            files["items"],
            [id_column, title_column, *details_columns, *_names(self.of_items.image_column)],
            reading.encoding,
            header=reading.has_header("items"),
        )
        item_column = table.ids(id_column)
        refuse_duplicate_ids(table, item_column)
        ids = np.array(item_column.to_pylist(), dtype=object)
        details = [table.text(name) for name in details_columns]
        known = KnownItems(files["items"], ids, reading.unknown_items == "drop")
        tables = self._interaction_tables()
        interactions = (
            tables.read(files["interactions"], known)
            if "interactions" in files
            else tables.read_split(files, known)
        )
        images, unreadable = self._read_images(table, ids)
        items = Items(
            ids=ids,
            titles=table.text(title_column),
            details=np.array(
                [join_details(column[row] for column in details) for row in range(len(ids))], dtype=object
            ),
            images=images,
        )
        skipped = {"interactions with unknown items": known.dropped} if known.dropped else {}
        return RawData(self.name, items, interactions, skipped | unreadable)

    def _check_column_numbers(self) -> None:
        interactions, items = asdict(self.of_interactions), asdict(self.of_items)
        if interactions["history_column"] is not None:
            del interactions["time_column"], interactions["rating_column"]
        if items["items_id_column"] is None:
            items["item_column"] = interactions["item_column"]
        headless = [] if self.reading.has_header("interactions") else [*interactions.items()]
        headless += [] if self.reading.has_header("items") else [*items.items()]
        wrong = {
            f"dataset.{setting}={column}": None
            for setting, given in headless
            for column in _names(given)
            if not column.isdecimal() or int(column) < 1
        }
        if wrong:
            raise UserError(
                f"{', '.join(wrong)} with dataset.header={self.reading.header}: columns of a table without header are numbers, "
                "from 1"
            )

    def _interaction_tables(self) -> InteractionTables:
        columns = self.of_interactions
        samples = columns.history_column is not None
        return InteractionTables(
            user=str(columns.user_column),
            item=str(columns.item_column),
            time=None if samples else _name(columns.time_column),
            rating=None if samples else _name(columns.rating_column),
            history=_name(columns.history_column),
            encoding=self.reading.encoding,
            header=self.reading.has_header("interactions"),
        )

    def _read_images(self, table: TableFile, ids: np.ndarray) -> tuple[dict[str, Path], dict[str, int]]:
        column = _name(self.of_items.image_column)
        if self.files.images is None:
            if column is not None:
                raise UserError(
                    "dataset.image_column is set but dataset.images is not: name the folder of the images"
                )
            return {}, {}
        folder = Path(self.files.images).expanduser()
        if column is None:
            return usable_images(folder, ids)
        image_files(folder)
        files: dict[str, Path] = {}
        named: dict[str, None] = {}
        for row, (item, name) in enumerate(zip(ids, table.text(column), strict=True)):
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
                f"none of the {len(missing)} images that column {column} names is in {folder}: "
                f"{', '.join(missing[:3])}: correct dataset.images or dataset.image_column"
            )
        usable, unreadable = whole_images(files)
        return usable, ({"images that are not there": len(missing)} if missing else {}) | unreadable


def _name(column: Column | None) -> str | None:
    return None if column is None else str(column)


def _names(columns: Columns | Column | None) -> list[str]:
    if columns is None:
        return []
    return [str(columns)] if isinstance(columns, str | int) else [str(column) for column in columns]
