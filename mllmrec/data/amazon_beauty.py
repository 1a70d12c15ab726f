"""Amazon Beauty 2014, 5-core (He and McAuley, 2016): the data of papers such as SASRec, S3-Rec, P5 and TIGER."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pyarrow as pa

from mllmrec.data.base import Dataset, Items, RawData, RawInteractions
from mllmrec.data.columns import TableFile, codes_among, refuse_duplicate_ids
from mllmrec.data.download import download
from mllmrec.data.reviews import read_reviews
from mllmrec.data.sequences import read_sequences
from mllmrec.data.tables import read_table
from mllmrec.data.text import join_details, plain_text, read_lines, require_files
from mllmrec.errors import UserError

REVIEWS, META = "reviews_Beauty_5.json.gz", "meta_Beauty.json.gz"
SEQUENCES, TABLE = Path("raw/sequential_data.txt"), Path("derived/items.tsv")
ADDRESS = "http://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
ASIN = re.compile(r"""['"]asin['"]\s*:\s*['"](\w+)['"]""")


class AmazonBeauty(Dataset):
    """Beauty products with title, brand and category; no images.

    Two layouts can be read. The public files ``reviews_Beauty_5.json.gz`` and ``meta_Beauty.json.gz`` name items by
    ASIN and hold times and ratings. ``raw/sequential_data.txt`` and ``derived/items.tsv`` have item ids of their own
    and list items in time order. Both hold 22,363 users, 12,101 items and 198,502 interactions.

    Args:
        root: the folder with one of the two layouts; None: the public files in ``cache_dir``.
        cache_dir: where the public files are downloaded to.
        download: fetch them when they are absent and ``root`` is None.
    """

    name = "amazon_beauty"
    domain = "beauty product"

    def __init__(self, root: str | None, cache_dir: str, download: bool = True) -> None:
        self.root = None if root is None else Path(root).expanduser()
        self.cache_dir = Path(cache_dir).expanduser()
        self.download = download

    def load(self) -> RawData:
        """Read sequences or reviews, and the item table.

        Raises:
            UserError: a file is missing or malformed.
        """
        first, second = self._files()
        if first.name == REVIEWS:
            return _load_public(self.name, first, second)
        return _load_sequences(self.name, first, second)

    def _files(self) -> tuple[Path, Path]:
        if self.root is not None and (self.root / SEQUENCES).is_file():
            files = self.root / SEQUENCES, self.root / TABLE
            require_files(files, f"{SEQUENCES} goes with {TABLE}")
            return files
        folder = self.root or self.cache_dir / self.name
        files = folder / REVIEWS, folder / META
        if self.root is None and self.download:
            return download(f"{ADDRESS}/{REVIEWS}", files[0]), download(f"{ADDRESS}/{META}", files[1])
        require_files(
            files,
            f"fetch them from {ADDRESS}/, or let dataset.root name a folder with {SEQUENCES} and {TABLE}, "
            "or leave dataset.root null with dataset.download=true",
        )
        return files


def _load_sequences(name: str, sequences_file: Path, table_file: Path) -> RawData:
    table = read_table(table_file, ["item_id", "title", "brand", "categories"])
    column = table.ids("item_id")
    refuse_duplicate_ids(table, column)
    ids = np.array(column.to_pylist(), dtype=object)
    sequences, codes = read_sequences(sequences_file, separator=None)
    positions = codes_among(pa.chunked_array([pa.array(list(codes), pa.string())]), ids)
    if (positions < 0).any():
        unknown = [item for item, position in zip(codes, positions, strict=True) if position < 0]
        raise UserError(
            f"{len(unknown)} items of {sequences_file}, such as {unknown[0]}, are not in {table_file}: fetch both from one source"
        )
    titles = [plain_text(title.replace("\\n", " ").replace("\\t", " ")) for title in table.text("title")]
    leaves = [_leaf(text, table, row) for row, text in enumerate(table.text("categories"))]
    details = [_details(brand, leaf) for brand, leaf in zip(table.text("brand"), leaves, strict=True)]
    return RawData(
        name=name,
        items=Items(ids, np.array(titles, dtype=object), np.array(details, dtype=object)),
        interactions=RawInteractions(sequences.user_ids, sequences.users, positions[sequences.items]),
    )


def _load_public(name: str, reviews_file: Path, meta_file: Path) -> RawData:
    interactions, item_codes = read_reviews(reviews_file, "reviewerID", "asin", "unixReviewTime", "overall")
    titles = np.full(len(item_codes), "", dtype=object)
    details = titles.copy()
    for item, title, detail in _read_meta(meta_file, item_codes):
        titles[item_codes[item]] = title
        details[item_codes[item]] = detail
    return RawData(
        name=name,
        items=Items(np.array(list(item_codes), dtype=object), titles, details),
        interactions=interactions,
    )


def _read_meta(path: Path, wanted: dict[str, int]) -> list[tuple[str, str, str]]:
    """(ASIN, title, details) of the wanted items. Each line is a Python literal; only wanted lines are parsed."""
    found = []
    for number, line in enumerate(read_lines(path), start=1):
        asin = ASIN.search(line)
        if asin is not None and asin[1] not in wanted:
            continue
        if not line.strip():
            continue
        try:
            record = ast.literal_eval(line.strip())
            item = str(record["asin"])
            categories = record.get("categories") or [[]]
            leaf = categories[0][-1] if categories[0] else ""
            title, brand = record.get("title") or "", record.get("brand") or ""
        except (ValueError, SyntaxError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path}:{number}: not a Python dict with asin ({type(error).__name__}): fetch the file again"
            ) from error
        if item in wanted:
            found.append((item, plain_text(title), _details(brand, leaf)))
    return found


def _details(brand: str, leaf: str) -> str:
    return join_details(part for part in (plain_text(brand), plain_text(leaf)) if part != "Unknown")


def _leaf(text: str, table: TableFile, row: int) -> str:
    """The last level of the inside of a Python list, such as ``'Beauty', 'Makeup', 'Nails'``."""
    try:
        levels = ast.literal_eval(f"[{text}]")
    except (ValueError, SyntaxError) as error:
        raise UserError(
            f"{table.where(row)}: categories are not the inside of a Python list: {text[:60]!r}"
        ) from error
    return str(levels[-1]) if levels else ""
