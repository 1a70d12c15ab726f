"""Captions of a catalogue, each made once: a run that was interrupted makes the missing ones only."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from mllmrec.cache import file_fingerprint, fingerprint
from mllmrec.captions.base import Captioner
from mllmrec.captions.precomputed import Precomputed
from mllmrec.data.base import Items


def caption_items(
    captioner: Captioner,
    items: Items,
    cache_dir: str | Path,
    progress: Callable[[int], None] | None = None,
) -> tuple[dict[str, str], dict[str, int]]:
    """Caption every item that can be captioned.

    A caption made from an image is stored under the captioner's identity (in the file name, and in the file's
    first line) and the fingerprint of the image's bytes, one JSON line each, written as it is made. Item ids are
    no part of the key: the same image has the same caption wherever it stands.

    Args:
        captioner: what makes the captions.
        items: the catalogue.
        cache_dir: the file ``captions-<hash of the identity>.jsonl`` is kept here.
        progress: called with the number of items just settled.

    Returns:
        Item id → caption, in the catalogue's order, and the counts ``captioned``, ``from_cache`` (of these, those
        not made now), ``no_image``, ``unreadable_image``, ``no_caption``, ``unknown_item`` (captions in a file for
        ids outside the catalogue) and ``without: <reason>`` (as the captioner says); zero counts are left out.
    """
    report = progress or (lambda settled: None)
    counts: dict[str, int] = {}
    captions: dict[str, str] = {}
    if captioner.reads_images:
        missing = "unreadable_image"
        counts["no_image"] = len(items) - len(items.images)
        results = _through_cache(captioner, items, Path(cache_dir), counts)
    else:
        missing = "no_caption"
        results = captioner.caption_images((item, items.images.get(item)) for item in items.ids.tolist())
    for item, caption in results:
        if caption is None:
            counts[missing] = counts.get(missing, 0) + 1
        else:
            captions[item] = caption
        report(1)
    for problem, count in captioner.problems.items():
        counts[missing] -= count
        counts[f"without: {problem}"] = count
    if isinstance(captioner, Precomputed):
        counts["unknown_item"] = len(captioner.captions.keys() - set(items.ids.tolist()))
    counts["captioned"] = len(captions)
    ordered = {item: captions[item] for item in items.ids.tolist() if item in captions}
    return ordered, {name: count for name, count in counts.items() if count}


def _through_cache(
    captioner: Captioner, items: Items, cache_dir: Path, counts: dict[str, int]
) -> Iterator[tuple[str, str | None]]:
    identity = captioner.identity()
    path = cache_dir / f"captions-{fingerprint(identity)}.jsonl"
    known = _read_cache(path)
    todo: list[tuple[str, Path | None]] = []
    prints: dict[str, str] = {}
    for item, image in items.images.items():
        try:
            prints[item] = file_fingerprint(image)
        except OSError:
            yield item, None
            continue
        if prints[item] in known:
            counts["from_cache"] = counts.get("from_cache", 0) + 1
            yield item, known[prints[item]]
        else:
            todo.append((item, image))
    if not todo:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # One unbuffered write a line: lines of two processes that caption at once do not mix.
    with path.open("ab", buffering=0) as stream:
        if stream.tell() == 0:
            stream.write(_line({"identity": identity}))
        elif not path.read_bytes().endswith(b"\n"):
            stream.write(b"\n")
        for item, caption in captioner.caption_images(todo):
            if caption is not None:
                stream.write(_line({"image": prints[item], "caption": caption}))
            yield item, caption


def _line(record: dict[str, object]) -> bytes:
    return (json.dumps(record, ensure_ascii=False) + "\n").encode()


def _read_cache(path: Path) -> dict[str, str]:
    """Image fingerprint → caption; a line that a killed process left unfinished is passed over."""
    known: dict[str, str] = {}
    if not path.exists():
        return known
    with path.open("rb") as stream:
        for line in stream:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict) and isinstance(record.get("caption"), str) and "image" in record:
                known[record["image"]] = record["caption"]
    return known
