"""Captions of a catalogue, each made once. A resumed run makes only the missing ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from mllmrec.cache import GrowingFile, file_fingerprint, fingerprint
from mllmrec.captions.base import Captioner
from mllmrec.captions.joined import Joined
from mllmrec.data.base import Items
from mllmrec.errors import UserError

Progress = Callable[[int, str], None]  # items just settled, and a note for the progress bar
_EMPTY = "without: empty caption"


def caption_items(
    captioner: Captioner,
    items: Items,
    cache_dir: str | Path,
    progress: Progress | None = None,
) -> tuple[dict[str, str], dict[str, int]]:
    """Caption every item that can be captioned.

    A caption made from an image is kept in a `CaptionStore` and written as soon as it is made. Its key holds no item
    id: the same image has the same caption for every item. The parts of a `Joined` captioner each keep their own.

    Args:
        captioner: makes the captions.
        items: the catalogue.
        cache_dir: the folder of the store.
        progress: called with the number of items just settled and the amount spent so far ("" if nothing is paid).

    Returns:
        Item id → caption, in the catalogue's order, and counts: ``captioned``, ``from_cache`` (captions that were not
        made in this run), ``no_image``, ``unreadable_image``, ``no_caption``, ``without: <reason>`` (the captioner's
        reason) and the captioner's own counts. Zero counts are left out. The counts of parts begin with their names.
    """
    if isinstance(captioner, Joined):
        return _of_parts(captioner, items, cache_dir, progress)
    report = progress or (lambda settled, note: None)
    counts: dict[str, int] = {}
    captions: dict[str, str] = {}
    if captioner.reads_images:
        missing = "unreadable_image"
        counts["no_image"] = len(items) - len(items.images)
        results = _through_cache(captioner, items, Path(cache_dir), counts)
    else:
        missing = "no_caption"
        results = _pairs(captioner, [(item, items.images.get(item)) for item in items.ids.tolist()])
    for item, caption in results:
        if caption is None:
            counts[missing] = counts.get(missing, 0) + 1
        elif not caption:
            counts[_EMPTY] = counts.get(_EMPTY, 0) + 1
        else:
            captions[item] = caption
        spent = captioner.spent
        report(1, "" if spent is None else spent.describe())
    for problem, count in captioner.problems.items():
        counts[missing] -= count
        counts[f"without: {problem}"] = count
    counts |= captioner.counts(items.ids.tolist())
    counts["captioned"] = len(captions)
    ordered = {item: captions[item] for item in items.ids.tolist() if item in captions}
    return ordered, {name: count for name, count in counts.items() if count}


def _of_parts(
    joined: Joined, items: Items, cache_dir: str | Path, progress: Progress | None
) -> tuple[dict[str, str], dict[str, int]]:
    """Captions of all items by each part in turn, joined, and their counts; see `caption_items`."""
    said, counts = [], {"captioned": 0, "from_cache": 0}
    for name, part in joined.parts.items():
        captions, of_part = caption_items(part, items, cache_dir, progress)
        said.append(captions)
        counts["from_cache"] += of_part.pop("from_cache", 0)
        counts |= {f"{name}: {what}": count for what, count in of_part.items()}
    together = {item: joined.join([captions.get(item) for captions in said]) for item in items.ids.tolist()}
    known = {item: caption for item, caption in together.items() if caption}
    counts["captioned"] = len(known)
    counts["without: caption of any part"] = len(items) - len(known)
    return known, {name: count for name, count in counts.items() if count}


class CaptionStore:
    """The captions of one captioner, keyed by the fingerprint of an image's bytes.

    The file is named after the captioner's identity, which is also the file's first line.
    """

    def __init__(self, folder: Path, identity: dict[str, object]) -> None:
        """Read the captions that the file holds.

        Raises:
            UserError: the file cannot be read.
        """
        self._file = GrowingFile(folder / f"captions-{fingerprint(identity)}.jsonl", identity)
        self._known: dict[str, str] = {}
        for record in self._file.records():
            if isinstance(record.get("caption"), str) and isinstance(record.get("image"), str):
                self._known[record["image"]] = record["caption"]

    def split(self, images: Iterable[tuple[str, Path]]) -> Iterator[tuple[str, Path, str | None, str | None]]:
        """(item id, image, its fingerprint, its caption) of each image; None if unreadable or not captioned yet."""
        for item, path in images:
            try:
                image = file_fingerprint(path)
            except OSError:
                yield item, path, None, None
                continue
            yield item, path, image, self._known.get(image)

    def add(self, image: str, caption: str) -> None:
        """Write a caption; it is on disk when this returns."""
        self._file.append({"image": image, "caption": caption})
        self._known[image] = caption


def _through_cache(
    captioner: Captioner, items: Items, cache_dir: Path, counts: dict[str, int]
) -> Iterator[tuple[str, str | None]]:
    store = CaptionStore(cache_dir, captioner.identity())
    todo: list[tuple[str, Path | None]] = []
    prints: dict[str, str] = {}
    for item, path, image, caption in store.split(items.images.items()):
        if image is None:
            yield item, None
        elif caption is not None:
            counts["from_cache"] = counts.get("from_cache", 0) + 1
            yield item, caption
        else:
            prints[item] = image
            todo.append((item, path))
    if not todo:
        return
    for item, caption in _pairs(captioner, todo):
        if caption is not None:
            store.add(prints[item], caption)
        yield item, caption


def _pairs(
    captioner: Captioner, images: Sequence[tuple[str, Path | None]]
) -> Iterator[tuple[str, str | None]]:
    """Pass on what a captioner yields, and check it against the captioner's interface.

    Raises:
        UserError: it yields a wrong type, the same item twice, or an item that it was not given.
    """
    open_items = {item for item, _ in images}
    for result in captioner.caption_images(images):
        pair = isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], str | None)
        if not pair or result[0] not in open_items:
            name = f"{type(captioner).__module__}.{type(captioner).__name__}"
            raise UserError(
                f"caption {name}: it yields {result!r:.100}; a captioner yields (item id, caption or None) once for each "
                "item that it is given"
            )
        open_items.remove(result[0])
        yield result
