"""What transformers shows and says beside us: no bars for files at hand, and its warnings in our log."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers.utils import logging


@contextmanager
def without_bars(source: str | Path) -> Iterator[None]:
    """No bars of transformers in the block, unless something is downloaded and someone watches.

    Args:
        source: a hub name, or the folder that is read or written (of one that is yet to be made, a `Path`).
    """
    watched_download = isinstance(source, str) and not Path(source).exists() and sys.stderr.isatty()
    were_on = logging.is_progress_bar_enabled()
    if not watched_download:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if were_on:
            logging.enable_progress_bar()


def warn_through_our_log() -> None:
    """Let its warnings go where ours go, `run.log` among them, instead of to standard error in a form of its own."""
    logging.disable_default_handler()
    logging.enable_propagation()
