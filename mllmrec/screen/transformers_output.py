"""Controls the output of transformers: no progress bars for local files, and its warnings go to our log."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def without_bars(source: str | Path) -> Iterator[None]:
    """Hide transformers' progress bars in the block, unless it downloads something and output goes to a terminal.

    Args:
        source: a hub name, or the folder to read or write (a `Path` if the folder does not exist yet).
    """
    from transformers.utils import logging

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
    """Send transformers' warnings where ours go, including `run.log`, instead of to standard error in its own format."""
    from transformers.utils import logging

    logging.disable_default_handler()
    logging.enable_propagation()
