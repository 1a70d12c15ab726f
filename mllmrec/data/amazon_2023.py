"""Amazon Reviews 2023 (Hou et al., 2024): any category, with item images fetched by their URLs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mllmrec.data.base import Dataset, Items, RawData, RawInteractions
from mllmrec.data.download import download_images
from mllmrec.data.images import image_files, whole_images
from mllmrec.data.reviews import read_reviews
from mllmrec.data.text import (
    collapse_spaces,
    join_details,
    plain_text,
    read_json_lines,
    require_files,
)
from mllmrec.errors import UserError
from mllmrec.flat import flat_settings

SOURCE = "hf://datasets/McAuley-Lab/Amazon-Reviews-2023"


@dataclass(frozen=True)
class ImageFetching:
    """Which item images are fetched, and how.

    Args:
        download_images: fetch item images not yet in ``cache_dir``.
        image_min_reviews: fetch images only for items with at least this many reviews; 5 is enough for every 5-core.
        image_workers: how many images are fetched at once.
    """

    download_images: bool = True
    image_min_reviews: int = 5
    image_workers: int = 8


class Amazon2023(Dataset):
    """Products of one category with title, store, category and image.

    `datasets` downloads the raw JSON Lines files and caches them. It cannot load them by name: that needs the
    repository's loading script, which `datasets` no longer runs.

    Args:
        category: as in the file names: ``All_Beauty``, ``Video_Games``, ``Baby_Products``.
        root: the folder with ``<category>.jsonl`` and ``meta_<category>.jsonl``. Both may end in ``.gz`` or lie in
            ``raw/review_categories`` and ``raw/meta_categories``. None: they are fetched from ``source``.
        cache_dir: where item images are kept.
        source: where the files are fetched from: the hub, or a mirror with the same folders.
        images: which item images are fetched, and how.
        max_items: keep only this many of the most reviewed items; None: all.
        domain: the noun in the prompts.
    """

    name = "amazon_2023"

    @flat_settings
    def __init__(
        self,
        category: str,
        root: str | None,
        cache_dir: str,
        source: str = SOURCE,
        images: ImageFetching = ImageFetching(),
        max_items: int | None = None,
        domain: str = "product",
    ) -> None:
        self.name = f"amazon_2023_{category}"
        self.category = category
        self.root = None if root is None else Path(root).expanduser()
        self.cache_dir = Path(cache_dir).expanduser()
        self.source = source
        self.images = images
        self.max_items = max_items
        self.domain = domain

    def load(self) -> RawData:
        """Read reviews and item records, fetch images.

        Raises:
            UserError: a file is missing, malformed or cannot be fetched.
        """
        reviews_file, meta_file = self._files()
        interactions, item_codes = read_reviews(reviews_file, "user_id", "parent_asin", "timestamp", "rating")
        interactions, item_codes, skipped = _most_reviewed(interactions, item_codes, self.max_items)
        titles = np.full(len(item_codes), "", dtype=object)
        details = titles.copy()
        reviews = np.bincount(interactions.items, minlength=len(item_codes))
        urls: dict[str, str] = {}
        for _, record in read_json_lines(meta_file):
            item = str(record.get("parent_asin", ""))
            code = item_codes.get(item)
            if code is None:
                continue
            titles[code] = plain_text(record.get("title"))
            details[code] = join_details((plain_text(record.get("store")), _category(record)))
            url = _image_url(record.get("images"))
            if url and reviews[code] >= self.images.image_min_reviews:
                urls[item] = url
        folder = self._image_folder()
        if self.images.download_images:
            skipped |= download_images(urls, folder, self.images.image_workers)
        images, unreadable = self._cached_images(folder, item_codes)
        items = Items(np.array(list(item_codes), dtype=object), titles, details, images)
        return RawData(self.name, items, interactions, skipped | unreadable)

    def _cached_images(self, folder: Path, items: Iterable[str]) -> tuple[dict[str, Path], dict[str, int]]:
        # The cache may hold images of other items: an earlier run may have had a larger max_items.
        files = image_files(folder) if folder.is_dir() else {}
        return whole_images({item: files[item] for item in items if item in files})

    def _image_folder(self) -> Path:
        return self.cache_dir / "amazon_2023" / self.category / "images"

    def _files(self) -> tuple[Path, Path]:
        parts = ("raw/review_categories", self.category), ("raw/meta_categories", f"meta_{self.category}")
        if self.root is None:
            addresses = [f"{self.source.rstrip('/')}/{folder}/{name}.jsonl" for folder, name in parts]
            return self._fetch(addresses[0]), self._fetch(addresses[1])
        found = []
        for folder, name in parts:
            places = [self.root / below / f"{name}.jsonl{gz}" for below in ("", folder) for gz in ("", ".gz")]
            found.append(next((path for path in places if path.is_file()), places[0]))
        require_files(
            found, "fetch them (also as .jsonl.gz), or leave dataset.root null to fetch them from the hub"
        )
        return found[0], found[1]

    def _fetch(self, address: str) -> Path:
        from datasets import DownloadConfig, DownloadManager

        settings = DownloadConfig(cache_dir=self.cache_dir / "amazon_2023" / "downloads", max_retries=3)
        try:
            return Path(str(DownloadManager(download_config=settings).download(address)))
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"cannot fetch {address} ({type(error).__name__}: {collapse_spaces(str(error))[:200]}): check the network and "
                f"dataset.category={self.category}, or fetch the file by hand and let dataset.root name its folder"
            ) from error


def _most_reviewed(
    interactions: RawInteractions, item_codes: dict[str, int], max_items: int | None
) -> tuple[RawInteractions, dict[str, int], dict[str, int]]:
    """Keep the ``max_items`` items with the most reviews, and their reviews. Of equal items the first seen is kept."""
    if max_items is None or max_items >= len(item_codes):
        return interactions, item_codes, {}
    reviews = np.bincount(interactions.items, minlength=len(item_codes))
    kept = np.sort(np.argsort(-reviews, kind="stable")[:max_items])
    new_code = np.full(len(item_codes), -1, dtype=np.int32)
    new_code[kept] = np.arange(len(kept))
    rows = new_code[interactions.items] >= 0
    names = list(item_codes)
    old_users, users = np.unique(interactions.users[rows], return_inverse=True)
    assert interactions.timestamps is not None
    assert interactions.ratings is not None
    smaller = RawInteractions(
        user_ids=interactions.user_ids[old_users],
        users=users.astype(np.int32),
        items=new_code[interactions.items[rows]],
        timestamps=interactions.timestamps[rows],
        ratings=interactions.ratings[rows],
    )
    skipped = {
        "items beyond max_items": len(names) - len(kept),
        "reviews of items beyond max_items": int((~rows).sum()),
    }
    return smaller, {names[old]: code for code, old in enumerate(kept)}, skipped


def _category(record: dict[str, object]) -> str:
    levels = record.get("categories")
    return plain_text(levels[-1] if isinstance(levels, list) and levels else record.get("main_category"))


def _image_url(images: object) -> str | None:
    """The address of the main image. The large size is preferred to the high resolution: captioning needs no more."""
    pictures = (
        [picture for picture in images if isinstance(picture, dict)] if isinstance(images, list) else []
    )
    pictures.sort(key=lambda picture: picture.get("variant") != "MAIN")
    addresses = (picture.get(size) for picture in pictures for size in ("large", "hi_res", "thumb"))
    return next((address for address in addresses if isinstance(address, str) and address), None)
