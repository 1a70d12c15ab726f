"""Captions from a file: the JSON released with MLLMRec-R1, or a table of the user's own."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from mllmrec.cache import file_fingerprint
from mllmrec.captions.base import Captioner
from mllmrec.data.columns import refuse_duplicate_ids
from mllmrec.data.tables import read_table
from mllmrec.data.text import as_text, collapse_spaces, read_json, require_files
from mllmrec.errors import UserError


class Precomputed(Captioner):
    """Captions looked up by item id. An empty caption counts as absent.

    ``path`` names a ``.json`` file in the released layout, ``{item: {"title": …, "caption": …}}`` or
    ``{item: caption}``, or a CSV, TSV, Parquet or JSON Lines table with the columns ``item_column`` and
    ``caption_column``.

    Raises:
        UserError: the file is missing or malformed (the message names the line or the id), or an id is repeated.
    """

    reads_images = False

    def __init__(
        self, path: str | Path, item_column: str = "item_id", caption_column: str = "caption"
    ) -> None:
        self.path = Path(path)
        self.columns = (item_column, caption_column)
        require_files([self.path], "set caption.path to the captions file")
        if self.path.suffix == ".json":
            captions = _read_released(self.path)
        else:
            table = read_table(self.path, self.columns)
            ids = table.ids(item_column)
            refuse_duplicate_ids(table, ids)
            captions = dict(zip(ids.to_pylist(), table.text(caption_column).tolist(), strict=True))
        self.captions = {item: caption for item, caption in captions.items() if caption}

    def identity(self) -> dict[str, object]:
        """The file's content and the names of the columns read."""
        return {
            "captioner": "precomputed",
            "file": file_fingerprint(self.path),
            "columns": list(self.columns),
        }

    def counts(self, catalogue: Collection[str]) -> dict[str, int]:
        """``unknown_item``: how many captions in the file have an id outside the catalogue."""
        return {"unknown_item": len(self.captions.keys() - set(catalogue))}

    def caption_images(self, images: Iterable[tuple[str, Path | None]]) -> Iterator[tuple[str, str | None]]:
        """Look each id up; the image is not opened."""
        for item, _ in images:
            yield item, self.captions.get(item)


def _read_released(path: Path) -> dict[str, str]:
    records: dict[str, Any] = read_json(path, dict, "an object of captions by item id")
    captions = {}
    for item, record in records.items():
        caption = record.get("caption") if isinstance(record, dict) else record
        if not isinstance(caption, str | None) or (isinstance(record, dict) and "caption" not in record):
            raise UserError(
                f'{path}: item {item}: expected {{"caption": "text"}}, found {as_text(record)[:60]}'
            )
        captions[item.strip()] = collapse_spaces(caption or "")
    return captions
