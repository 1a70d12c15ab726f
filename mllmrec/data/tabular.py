"""Your own data: an interaction table, an item table and perhaps a folder of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mllmrec.data.base import Dataset, Items, RawData, RawInteractions
from mllmrec.data.columns import TableFile, codes_among, first_seen_codes, refuse_duplicate_ids
from mllmrec.data.images import folder_fingerprint, image_files, usable_images, whole_images
from mllmrec.data.tables import read_table
from mllmrec.data.text import input_fingerprint, join_details, require_files
from mllmrec.errors import UserError


class Tabular(Dataset):
    """Tables in CSV, TSV, Parquet or JSON Lines, told by their suffix; text also as ``.gz``.

    Args:
        interactions: the file with one row per interaction.
        items: the file with one row per item.
        images: the folder of images; None: no images.
        user_column: the column of user ids in the interactions.
        item_column: the column of item ids in both files.
        time_column: the column of times (numbers, later is greater); None: the file is in time order.
        rating_column: the column of ratings; None: no ratings.
        title_column: the column of titles in the item file.
        details_columns: columns of the item file joined into the text shown beside a title.
        image_column: the column of the item file with the image's path inside ``images``; None: the images are
            named ``<item id>.jpg``, ``.jpeg``, ``.png`` or ``.webp``.
        unknown_items: ``error`` or ``drop`` interactions whose item the item file lacks.
        encoding: of text files.
        domain: the noun in the prompts.
        name: what reports call the dataset.
    """

    def __init__(
        self,
        interactions: str | None,
        items: str | None,
        images: str | None = None,
        user_column: str = "user_id",
        item_column: str = "item_id",
        time_column: str | None = "timestamp",
        rating_column: str | None = None,
        title_column: str = "title",
        details_columns: Sequence[str] = (),
        image_column: str | None = None,
        unknown_items: str = "error",
        encoding: str = "utf-8",
        domain: str = "item",
        name: str = "tabular",
    ) -> None:
        self.interactions = interactions
        self.items = items
        self.images = images
        self.user_column = user_column
        self.item_column = item_column
        self.time_column = time_column
        self.rating_column = rating_column
        self.title_column = title_column
        self.details_columns = list(details_columns)
        self.image_column = image_column
        self.unknown_items = unknown_items
        self.encoding = encoding
        self.domain = domain
        self.name = name

    def load(self) -> RawData:
        """Read both tables and the images.

        Raises:
            UserError: a file or column is missing, a line is malformed, an item id stands twice or is unknown.
        """
        interactions_file, items_file = self._files()
        if self.unknown_items not in ("error", "drop"):
            raise UserError(f"unknown dataset.unknown_items {self.unknown_items!r}: use drop or error")
        optional = [name for name in (self.image_column,) if name is not None]
        table = read_table(
            items_file, [self.item_column, self.title_column, *self.details_columns, *optional], self.encoding
        )
        item_column = table.ids(self.item_column)
        refuse_duplicate_ids(table, item_column)
        ids = np.array(item_column.to_pylist(), dtype=object)
        details = [table.text(name) for name in self.details_columns]
        interactions, skipped = self._read_interactions(interactions_file, items_file, ids)
        images, unreadable = self._read_images(table, ids)
        items = Items(
            ids=ids,
            titles=table.text(self.title_column),
            details=np.array(
                [join_details(column[row] for column in details) for row in range(len(ids))], dtype=object
            ),
            images=images,
        )
        return RawData(self.name, items, interactions, skipped | unreadable)

    def identity(self) -> dict[str, object]:
        """The settings that change the content, and the content of the files."""
        interactions, items = self._files()
        settings = {
            name: value
            for name, value in vars(self).items()
            if name not in ("interactions", "items", "images")
        }
        return {
            "dataset": "Tabular",
            **settings,
            "interactions": input_fingerprint(interactions),
            "items": input_fingerprint(items),
            "images": None if self.images is None else folder_fingerprint(Path(self.images).expanduser()),
        }

    def _files(self) -> tuple[Path, Path]:
        if self.interactions is None or self.items is None:
            raise UserError(
                "dataset.interactions and dataset.items are not both set: name the two table files"
            )
        interactions, items = Path(self.interactions).expanduser(), Path(self.items).expanduser()
        require_files([interactions, items], "correct dataset.interactions or dataset.items")
        return interactions, items

    def _read_interactions(
        self, path: Path, items_file: Path, ids: np.ndarray
    ) -> tuple[RawInteractions, dict[str, int]]:
        optional = [name for name in (self.time_column, self.rating_column) if name is not None]
        table = read_table(path, [self.user_column, self.item_column, *optional], self.encoding)
        item_column = table.ids(self.item_column)
        items = codes_among(item_column, ids)
        known = items >= 0
        skipped = {}
        if not known.all():
            unknown = np.flatnonzero(~known)
            if self.unknown_items == "error":
                shown = ", ".join(f"{item_column[row]} ({table.where(row)})" for row in unknown[:3])
                raise UserError(
                    f"{len(unknown)} interactions with items that {items_file} lacks: {shown}: "
                    "add the items, or set dataset.unknown_items=drop"
                )
            skipped["interactions with unknown items"] = len(unknown)
        users, user_ids = first_seen_codes(table.ids(self.user_column))
        interactions = RawInteractions(
            user_ids=user_ids,
            users=users[known],
            items=items[known],
            timestamps=None if self.time_column is None else table.times(self.time_column)[known],
            ratings=None
            if self.rating_column is None
            else table.floats(self.rating_column)[known].astype(np.float32),
        )
        return interactions, skipped

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
        for row, (item, name) in enumerate(zip(ids, table.text(self.image_column), strict=True)):
            path = folder / name
            if not path.resolve().is_relative_to(folder.resolve()):
                raise UserError(
                    f"{table.where(row)}: image {name!r} lies outside {folder}: give paths inside the folder"
                )
            if name and path.is_file():
                files[item] = path
        return whole_images(files)
