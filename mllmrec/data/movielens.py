"""MovieLens (Harper and Konstan, 2015): ml-latest-small or ml-1m, with posters if a folder of them is given."""

from __future__ import annotations

import re
import shutil
import zipfile
import zlib
from array import array
from pathlib import Path

import numpy as np
import pyarrow as pa

from mllmrec.cache import atomic_path, file_fingerprint
from mllmrec.data.base import Dataset, Items, RawData, RawInteractions
from mllmrec.data.columns import TableFile, codes_among, first_seen_codes, refuse_duplicate_ids
from mllmrec.data.download import download
from mllmrec.data.images import images_folder, usable_images
from mllmrec.data.released import is_released, load_released
from mllmrec.data.tables import read_table
from mllmrec.data.text import read_lines
from mllmrec.errors import UserError, choices

VARIANTS = {"ml-latest-small": ("ratings.csv", "movies.csv"), "ml-1m": ("ratings.dat", "movies.dat")}
# As TensorFlow Datasets publishes them.
SHA256 = {
    "ml-latest-small": "696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436",
    "ml-1m": "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
}
ARCHIVES = "https://files.grouplens.org/datasets/movielens"
MOST_UNPACKED = 2**30  # bytes of a file in an archive; ml-1m's largest has 25 million
POSTER_FOLDERS = ("posters", "images")
NO_GENRES = "(no genres listed)"
ARTICLES = "The|A|An|Les|Le|La|L'|Los|Las|El|Il|Lo|I|Gli|Der|Die|Das|Den|Det|De|Het|En|Et|Ein|Eine|Un|Una|Une|O|Os|As"
INVERTED = re.compile(rf"(^|\((?:a\.k\.a\. )?)([^()]+?), ({ARTICLES})(?=\)|\s*\(|$)")


class MovieLens(Dataset):
    """Movies with titles, genres and optional posters.

    Reads an official archive or folder, or the released MLLMRec-R1 layout if ``root`` holds ``train.tsv``.

    Args:
        root: the archive's folder (its files may lie in ``raw/``), or a folder with the zip; None: ``cache_dir``.
        cache_dir: where archives are downloaded and unpacked.
        download: fetch the archive when it is absent and ``root`` is None.
        variant: ``ml-latest-small`` or ``ml-1m``.
        posters: the folder of ``<movieId>.jpg``; None: ``root/posters`` if it exists.
    """

    name = "movielens"
    domain = "movie"

    def __init__(
        self,
        root: str | None,
        cache_dir: str,
        download: bool = True,
        variant: str = "ml-latest-small",
        posters: str | None = None,
    ) -> None:
        self.root = None if root is None else Path(root).expanduser()
        self.cache_dir = Path(cache_dir).expanduser()
        self.download = download
        self.variant = variant
        self.posters = posters

    def load(self) -> RawData:
        """Read ratings, movies and posters.

        Raises:
            UserError: a file is missing or malformed, or a rated movie is not in the movie table.
        """
        if self.root is not None and is_released(self.root):
            return load_released(self.root, self.name, self.posters)
        ratings_file, movies_file = self._files()
        if movies_file.suffix == ".dat":
            ratings, movies = (
                _read_dat(ratings_file, "userId movieId rating timestamp"),
                _read_dat(movies_file, "movieId title genres"),
            )
        else:
            ratings = read_table(ratings_file, ["userId", "movieId", "rating", "timestamp"])
            movies = read_table(movies_file, ["movieId", "title", "genres"])
        item_column = movies.ids("movieId")
        refuse_duplicate_ids(movies, item_column)
        ids = np.array(item_column.to_pylist(), dtype=object)
        rated = ratings.ids("movieId")
        items = codes_among(rated, ids)
        if (items < 0).any():
            row = int(np.argmax(items < 0))
            raise UserError(
                f"{ratings.where(row)}: movie {rated[row]} is not in {movies_file}: fetch both files from one archive"
            )
        users, user_ids = first_seen_codes(ratings.ids("userId"))
        folder = images_folder(self.root or ratings_file.parent, self.posters, POSTER_FOLDERS)
        images, skipped = usable_images(folder, ids) if folder else ({}, {})
        return RawData(
            name=self.name,
            items=Items(
                ids=ids,
                titles=np.array([natural_title(title) for title in movies.text("title")], dtype=object),
                details=np.array([_genres(text) for text in movies.text("genres")], dtype=object),
                images=images,
            ),
            interactions=RawInteractions(
                user_ids=user_ids,
                users=users,
                items=items,
                timestamps=ratings.times("timestamp"),
                ratings=ratings.floats("rating").astype(np.float32),
            ),
            skipped=skipped,
        )

    def _files(self) -> tuple[Path, Path]:
        """The files of ratings and movies. The archive is downloaded and unpacked first if needed and allowed."""
        if self.variant not in VARIANTS:
            raise UserError(f"unknown dataset.variant {self.variant!r}: use {choices(list(VARIANTS))}")
        names = VARIANTS[self.variant]
        unpacked = self.cache_dir / "movielens" / self.variant
        folders = [unpacked]
        if self.root is not None:
            folders = [self.root, self.root / "raw", self.root / self.variant]
        for folder in folders:
            if all((folder / name).is_file() for name in names):
                return folder / names[0], folder / names[1]
        archive = (self.root or self.cache_dir / "movielens") / f"{self.variant}.zip"
        url = f"{ARCHIVES}/{self.variant}.zip"
        if self.root is None and self.download:
            download(url, archive, SHA256[self.variant])
        if not archive.is_file():
            raise UserError(
                f"no {' and '.join(names)} in {choices([str(folder) for folder in folders])}, and no {archive}: "
                f"fetch {url} and put it there, or correct dataset.root"
            )
        if self.root is not None:
            unpacked = unpacked.with_name(f"{self.variant}-{file_fingerprint(archive)}")
        _unpack(archive, self.variant, names, unpacked)
        return unpacked / names[0], unpacked / names[1]


def natural_title(title: str) -> str:
    """A title with its article moved back to the front: ``Matrix, The (1999)`` → ``The Matrix (1999)``."""
    return INVERTED.sub(
        lambda found: f"{found[1]}{found[3]}{'' if found[3].endswith(chr(39)) else ' '}{found[2]}", title
    )


def _genres(text: str) -> str:
    return "" if text == NO_GENRES else text.replace("|", ", ")


def _unpack(archive: Path, variant: str, names: tuple[str, str], folder: Path) -> None:
    try:
        with zipfile.ZipFile(archive) as packed:
            for name in names:
                size = packed.getinfo(f"{variant}/{name}").file_size
                if size > MOST_UNPACKED:
                    raise UserError(
                        f"{archive}: {name} unpacks to {size} bytes, and {variant} has at most {MOST_UNPACKED}: delete "
                        "the archive and fetch it again"
                    )
                if not (folder / name).is_file():
                    # The zip reader stops at the size that the archive states.
                    with (
                        atomic_path(folder / name) as temporary,
                        packed.open(f"{variant}/{name}") as source,
                        temporary.open("wb") as target,
                    ):
                        shutil.copyfileobj(source, target)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, RuntimeError, NotImplementedError) as error:
        raise UserError(
            f"{archive}: not the whole archive of {variant} ({error}): delete it and fetch it again"
        ) from error


def _read_dat(path: Path, header: str) -> TableFile:
    """Read a ``::``-separated Latin-1 file of ml-1m. Lines may be of any length, but each must have all fields."""
    names = header.split()
    columns: list[list[str]] = [[] for _ in names]
    numbers = array("q")
    for number, line in enumerate(read_lines(path, "latin-1"), start=1):
        if not line.strip():
            continue
        fields = line.strip().split("::")
        if len(fields) != len(names):
            raise UserError(
                f"{path}:{number}: expected {'::'.join(names)}, found {line.strip()[:60]!r}: correct the line"
            )
        numbers.append(number)
        for column, field in zip(columns, fields, strict=True):
            column.append(field)
    if not numbers:
        raise UserError(f"{path} has no rows: fetch the archive again")
    arrays = {
        name: pa.chunked_array([pa.array(column, pa.string())])
        for name, column in zip(names, columns, strict=True)
    }
    return TableFile(path, arrays, lambda row: f"{path}:{numbers[row]}")
