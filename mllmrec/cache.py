"""Files that are either complete or absent, and caches that record everything that made them."""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import platform
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from mllmrec.errors import UserError
from mllmrec.errors.disk import about

# An incomplete file has a hidden name that says who writes it: .<name>.<process>@<machine>.part
_MACHINE = re.sub(r"[^\w-]", "-", platform.node())
_TEMPORARY = re.compile(r"\..+\.(?P<process>\d+)@(?P<machine>[\w-]*)\.part")


def temporary_beside(path: Path) -> Path:
    """The temporary name under which this process writes ``path``; `remove_abandoned` knows such names."""
    return path.with_name(f".{path.name}.{os.getpid()}@{_MACHINE}.part")


@contextmanager
def atomic_path(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary neighbour of ``path`` to write to; rename it to ``path`` only if the block succeeds.

    Args:
        path: the file's name.
        durable: whether to wait until the content is on the disk before the rename, so that a power cut leaves no empty
            file. Not worth the wait for many small files that are verified when they are read.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    with about(path):
        try:
            yield temporary
            if durable:
                to_disk(temporary)
            os.replace(temporary, path)
            if durable:
                to_disk(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new temporary folder beside ``path``; rename it to ``path`` only if the block succeeds.

    A folder that ``path`` names stays until then and is removed afterwards.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = temporary_beside(path), temporary_beside(path.with_name(f"{path.name}.old"))
    shutil.rmtree(temporary, ignore_errors=True)  # of an earlier process with this number
    with about(path):
        try:
            temporary.mkdir()
            yield temporary
            for file in temporary.rglob("*"):
                to_disk(file)
            if path.exists():
                path.rename(old)
            temporary.rename(path)
            to_disk(path.parent)
        finally:
            if old.exists() and not path.exists():
                old.rename(path)
            for left in (temporary, old):
                shutil.rmtree(left, ignore_errors=True)


def remove_abandoned(folder: Path) -> list[Path]:
    """Remove the temporary files of killed processes of this machine below ``folder``.

    Files of running processes and of other machines stay.

    Returns:
        The removed paths.
    """
    removed = []
    for place, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            found = _TEMPORARY.fullmatch(name)
            if not found or found["machine"] != _MACHINE or psutil.pid_exists(int(found["process"])):
                continue
            path = Path(place, name)
            if name in folders:
                shutil.rmtree(path, ignore_errors=True)
                folders.remove(name)
            else:
                path.unlink(missing_ok=True)
            removed.append(path)
    return removed


def to_disk(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return  # Windows cannot open folders, and a path that cannot be read belongs to someone else
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems have no such call.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically. It refuses NaN; a missing number is ``null``."""
    with atomic_path(path) as temporary:
        temporary.write_text(
            json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
        )


def fingerprint(key: Any) -> str:
    """A short stable hash of a JSON-serialisable key (16 hexadecimal digits)."""
    text = json.dumps(key, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def file_fingerprint(path: Path) -> str:
    """A short hash of a file's bytes (16 hexadecimal digits)."""
    digest = hashlib.blake2b(digest_size=8)
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal digits, as publishers of files give it."""
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def files_fingerprint(files: Mapping[str, Path]) -> str:
    """A short hash of the names and contents of files (16 hexadecimal digits); their order does not count."""
    names = sorted(files)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # other threads can run during hashing and reading
        contents = list(pool.map(file_fingerprint, (files[name] for name in names)))
    return fingerprint(list(zip(names, contents, strict=True)))


def content_fingerprint(path: Path) -> str:
    """A hash of a file's bytes, or of the names and bytes of all files below a folder (16 hexadecimal digits)."""
    if path.is_file():
        return file_fingerprint(path)
    files = (file for file in path.rglob("*") if file.is_file())
    return files_fingerprint({file.relative_to(path).as_posix(): file for file in files})


def source_fingerprint(*files: str, libraries: Sequence[str] = ()) -> str:
    """A hash of the code behind a rule-based computation (16 hexadecimal digits).

    Args:
        files: source files, as in ``__file__``.
        libraries: names of packages; their versions count.
    """
    sources = [file_fingerprint(Path(file)) for file in files]
    return fingerprint([sources, {name: library_version(name) for name in libraries}])


@functools.cache
def library_version(package: str) -> str:
    """The version of an installed package, or "none" if it is not installed.

    A process keeps its first answer: what is installed or removed while it runs is not what it has imported.
    """
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


class Digest:
    """A hash of named parts (16 hexadecimal digits)."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=8)

    def add(self, name: str, value: bytes) -> None:
        """Add a part; the order of parts counts."""
        # With its length, so that two different lists of parts never give the same bytes.
        self._hash.update(f"{name}:{len(value)}:".encode())
        self._hash.update(value)

    def hexdigest(self) -> str:
        """The hash of what was added."""
        return self._hash.hexdigest()


class GrowingFile:
    """Records appended one by one as JSON lines; a killed process loses no appended record.

    The first line says what made the records: ``{"identity": ...}``. The caller puts the identity's fingerprint into the
    file's name.
    """

    def __init__(self, path: Path, identity: Mapping[str, object]) -> None:
        self.path, self._identity = path, dict(identity)
        self._checked = False  # whether the last line of an earlier process is known to be complete

    def records(self) -> Iterator[dict[str, Any]]:
        """The appended records, oldest first, without a line that a killed process left unfinished.

        Raises:
            UserError: the file cannot be read.
        """
        try:
            lines = self.path.read_bytes().split(b"\n") if self.path.exists() else []
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror}); repair or remove it") from error
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict) and "identity" not in record:
                yield record

    def append(self, record: Mapping[str, object]) -> None:
        """Append a record; the operating system has it when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # One unbuffered write per line, so that lines of two processes do not mix.
        with about(self.path), self.path.open("ab", buffering=0) as stream:
            if stream.tell() == 0:
                stream.write(_json_line({"identity": self._identity}))
            elif not self._checked and not _ends_whole(self.path):
                stream.write(b"\n")
            self._checked = True
            stream.write(_json_line(record))


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) == b"\n"


def _json_line(record: Mapping[str, object]) -> bytes:
    return (json.dumps(record, ensure_ascii=False) + "\n").encode()
