"""Finished texts on disk, one JSON line each, appended as they come. A killed run loses only texts in flight."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from mllmrec.cache import GrowingFile, file_fingerprint, fingerprint
from mllmrec.reasoners.base import Request, Written


class TextStore:
    """The texts of one reasoner for one stage.

    The file is named after everything besides the request that determines a text (``identity``, which is also its
    first line). A text's key is the fingerprint of all that the request says: messages, history, draft, the target if
    it is told, and the bytes of the images. Two samples with the same request share a text.
    """

    def __init__(
        self, folder: Path, stage: str, identity: Mapping[str, object], *, reads_users: bool = False
    ) -> None:
        """Read the stored texts. A line that a killed process left unfinished is skipped.

        Args:
            folder: the folder of all stages.
            stage: draft, refined or leaky.
            identity: the reasoner's identity.
            reads_users: whether a text depends on whose request it is. If so, users share no texts.

        Raises:
            UserError: the file cannot be read.
        """
        self.path = folder / f"{stage}-{fingerprint({'stage': stage, **identity})}.jsonl"
        self._file, self._reads_users = GrowingFile(self.path, identity), reads_users
        self._known: dict[str, Written] = {}
        for record in self._file.records():
            try:
                self._known[record["key"]] = Written(
                    record["text"], record["reasoning"], record["prompt_tokens"], record["completion_tokens"]
                )
            except (KeyError, TypeError):
                continue

    def __len__(self) -> int:
        return len(self._known)

    def key(self, request: Request) -> str:
        """The key of a request's text."""
        said: dict[str, object] = {
            "messages": [request.system, request.message],
            "history": [[item.item_id, item.title, item.caption] for item in request.history],
            "draft": request.draft,
            "images": [_image_fingerprint(path) for path in request.images],
        }
        if request.examples:
            said["examples"] = [list(example) for example in request.examples]
        if request.leak:
            said["leak"] = request.leak
        if self._reads_users:
            said["user"] = request.user_id
        return fingerprint(said)

    def find(self, key: str) -> Written | None:
        """The text of an earlier request that said the same; None if there is none."""
        return self._known.get(key)

    def add(self, key: str, request: Request, written: Written) -> None:
        """Write a text; it is on disk when this returns."""
        self._file.append(
            {
                "key": key,
                "sample": request.sample_id,
                "user": request.user_id,
                "history": [item.item_id for item in request.history],
                "text": written.text,
                "reasoning": written.reasoning,
                "prompt_tokens": written.prompt_tokens,
                "completion_tokens": written.completion_tokens,
            }
        )
        self._known[key] = written


def _image_fingerprint(path: Path) -> str:
    try:
        status = path.stat()
        return _fingerprint_of(path, status.st_size, status.st_mtime_ns, status.st_ino)
    except OSError:
        return "unreadable"


@lru_cache(maxsize=100_000)
def _fingerprint_of(path: Path, *version: int) -> str:
    """The hash of a file in its present version, remembered because one image appears in many histories."""
    return file_fingerprint(path)
