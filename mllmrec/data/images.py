"""Finds the items whose image file opens. Missing and broken images are counted; they never end a run."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import islice
from pathlib import Path

from PIL import Image

from mllmrec.errors import UserError, choices

log = logging.getLogger(__name__)

UNREADABLE_IMAGE = "unreadable image"  # why nothing was written about an item or a request
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
MOST_PIXELS = (
    100_000_000  # of an image; packed into a few kilobytes, more would fill the memory of several threads
)
FEW_FILES, FEW_ITEMS = 20, 100  # fewer matches than one in so many files or items look like a mistake


def image_files(folder: Path) -> dict[str, Path]:
    """Id → image file for the files of ``folder`` named ``<id>.jpg``, ``.jpeg``, ``.png`` or ``.webp``.

    Ids are looked up in the list of the folder's files, so an id such as ``../x`` simply does not match.

    Raises:
        UserError: the folder does not exist.
    """
    if not folder.is_dir():
        raise UserError(f"no image folder {folder}: correct the path, or leave it null to go without images")
    files: dict[str, Path] = {}
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            path = Path(entry.path)
            suffix = path.suffix.lower()
            # A dangling link stays, so that it is counted among the files that do not open.
            if suffix not in SUFFIXES or not (entry.is_symlink() or entry.is_file()):
                continue
            known = files.get(path.stem)
            if known is None or SUFFIXES.index(suffix) < SUFFIXES.index(known.suffix.lower()):
                files[path.stem] = path
    return files


def is_whole_image(path: Path) -> bool:
    """Whether every pixel of the file decodes, and there are at most `MOST_PIXELS`. JPEGs are decoded at an eighth of their size, which is cheaper."""
    try:
        status = path.stat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and _decodes(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=1 << 20)
def _decodes(path: Path, size: int, changed: int) -> bool:
    """Whether the file decodes; remembered as long as its size and time of change stay the same."""
    try:
        with Image.open(path) as image:
            if image.width * image.height > MOST_PIXELS:
                return False
            image.draft("RGB", (image.width // 8, image.height // 8))
            image.load()
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError):
        return False
    return True


def broken_images(files: Iterable[Path]) -> list[Path]:
    """The files that do not decode."""
    files = list(files)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        whole = list(pool.map(is_whole_image, files))
    return [path for path, good in zip(files, whole, strict=True) if not good]


def whole_images(files: Mapping[str, Path]) -> tuple[dict[str, Path], dict[str, int]]:
    """The entries whose image decodes, and ``{"unreadable images": n}`` when some do not."""
    left_out = set(broken_images(files.values()))
    usable = {item: path for item, path in files.items() if path not in left_out}
    broken = sorted(path.name for path in left_out)
    if not broken:
        return usable, {}
    more = f" and {len(broken) - 5} more" if len(broken) > 5 else ""
    folder = next(iter(files.values())).parent
    log.warning(
        "%d of %d images in %s do not decode and are left out: %s%s",
        len(broken),
        len(files),
        folder,
        ", ".join(broken[:5]),
        more,
    )
    return usable, {"unreadable images": len(broken)}


def usable_images(folder: Path, item_ids: Iterable[str]) -> tuple[dict[str, Path], dict[str, int]]:
    """Item id → readable image file in ``folder``, and the counts of files left out, by reason.

    Raises:
        UserError: the folder does not exist, or has images but none belongs to an item.
    """
    files = image_files(folder)
    ids = list(item_ids)
    matching = {item: files[item] for item in ids if item in files}
    _judge(folder, files, ids, len(matching))
    return whole_images(matching)


def _judge(folder: Path, files: Mapping[str, Path], ids: Sequence[str], matching: int) -> None:
    """Warn if the images in a folder seem to belong to other items; raise if none matches."""
    if files and not matching:
        names = ", ".join(path.name for path in islice(files.values(), 3))
        raise UserError(
            f"none of the {len(files)} images in {folder} is named after one of the {len(ids)} items: {names}; items "
            f"are {', '.join(ids[:3])}: name each image <item id>.jpg, or name another folder"
        )
    if matching * FEW_FILES < len(files):
        known = set(ids)
        unknown = (path.name for item, path in files.items() if item not in known)
        log.warning(
            "only %d of the %d images in %s match one of the %d items; %s do not",
            matching,
            len(files),
            folder,
            len(ids),
            ", ".join(islice(unknown, 3)),
        )
    elif matching * FEW_ITEMS < len(ids):
        log.warning("%s has images for only %d of the %d items", folder, matching, len(ids))


def images_folder(root: Path, given: str | None, usual: Iterable[str]) -> Path | None:
    """The folder ``given``; else the first of the ``usual`` names under ``root`` that exists; else None.

    Raises:
        UserError: ``given`` does not exist.
    """
    if given is not None:
        folder = Path(given).expanduser()
        if not folder.is_dir():
            raise UserError(
                f"no image folder {folder}: correct the path, or leave it null to look for {choices(list(usual))} under {root}"
            )
        return folder
    return next((root / name for name in usual if (root / name).is_dir()), None)
