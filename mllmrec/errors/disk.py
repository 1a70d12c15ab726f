"""Full or read-only disks, files in place of folders, damaged files: not defects, so messages say what to do.

This module imports only the standard library, so that commands answer at once.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mllmrec.errors import UserError

_ELSEWHERE = "choose another folder (hydra.run.dir=DIR, hydra.sweep.dir=DIR or cache_dir=DIR)"
_AGAIN = "then start the command again; what is on disk is whole"
_SPACE = {
    errno.ENOSPC: f"the disk is full: free some space, {_AGAIN}",
    errno.EDQUOT: f"your quota of disk space is used up: free some space, {_AGAIN}",
    errno.EFBIG: f"no file may become so large here: raise the limit (ulimit -f), {_AGAIN}",
    errno.EIO: f"the disk failed: check the disk, {_AGAIN}",
    errno.EROFS: f"the file system is read-only: {_ELSEWHERE}",
}
_PERMISSION = f"cannot be opened, permission denied: grant it, or {_ELSEWHERE}"
# These are the user's errors only if they concern a path.
_OF_PATHS = {
    errno.EACCES: _PERMISSION,
    errno.EPERM: _PERMISSION,
    errno.ENOTDIR: f"is a file, and a folder is needed there: {_ELSEWHERE}",
    errno.EISDIR: "is a folder, and a file is needed there: move it away",
    errno.ENAMETOOLONG: f"is too long for a file's name here: {_ELSEWHERE}",
}
# Libraries written in Rust give the number only inside the message.
_IN_WORDS = re.compile(r"\(os error (\d+)\)")


def user_error_behind(error: BaseException) -> UserError | None:
    """The `UserError` behind an exception, or one that describes a disk error behind it; None for a defect.

    It searches the causes, because Hydra wraps exceptions of constructors.
    """
    cause: BaseException | None = error
    while cause is not None:
        told = cause if isinstance(cause, UserError) else disk_fault(cause)
        if told is not None:
            return told
        cause = cause.__cause__
    return None


@contextmanager
def about(path: Path) -> Iterator[None]:
    """Make disk errors in the block name ``path``; an error from a write names no file, or a temporary one.

    Raises:
        OSError: in place of a library's own exception, if that reports a disk error.
    """
    try:
        yield
    except OSError as error:
        if _number(error) in _SPACE:
            error.filename, error.filename2 = str(path), None
        raise
    except Exception as error:
        number = _number(error)
        if number in _SPACE:
            raise OSError(number, os.strerror(number), str(path)) from error
        raise


@contextmanager
def refusing_damage(path: Path) -> Iterator[None]:
    """Read ``path`` in this block.

    Raises:
        UserError: it is not a Parquet file, or not one that `write_stage` wrote.
    """
    try:
        yield
    # pyarrow's exceptions are subclasses of these.
    except (ValueError, KeyError, TypeError, NotImplementedError) as error:
        first = str(error).strip().partition("\n")[0]
        raise UserError(f"{path} is damaged ({first}): put a copy in its place, or run again") from error


def disk_fault(error: BaseException) -> UserError | None:
    """A `UserError` that describes a disk error; None for any other exception."""
    number = _number(error)
    path = getattr(error, "filename2", None) or getattr(error, "filename", None)
    if number in _SPACE:
        return UserError(f"{path or 'the output of the command, or a file'}: {_SPACE[number]}")
    if not isinstance(path, str | os.PathLike):
        return None
    if number in (errno.ENOTDIR, errno.EEXIST):
        file = next((part for part in (Path(path), *Path(path).parents) if part.is_file()), None)
        return None if file is None else UserError(f"{file} {_OF_PATHS[errno.ENOTDIR]}")
    return UserError(f"{path} {_OF_PATHS[number]}") if number in _OF_PATHS else None


def _number(error: BaseException) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    found = _IN_WORDS.search(str(error))
    return int(found[1]) if found else None
