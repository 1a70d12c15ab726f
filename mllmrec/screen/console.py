"""The console of every command, small tables, and the closing panel."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

MIN_PLAIN_WIDTH = 150  # rich assumes 80 columns in a pipe, where the main table would be cut


def make_console() -> Console:
    """A console for standard output, wide enough for the main table when the output is a file or a pipe."""
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(width=MIN_PLAIN_WIDTH)
    return console


def rows_table(
    title: str, header: Sequence[str], rows: Sequence[Sequence[Any]], caption: str | None = None
) -> Table:
    """Any small table, such as the summary of a dataset or the counts that filters dropped; numbers on the right."""
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    for position, name in enumerate(header):
        numeric = bool(rows) and all(isinstance(row[position], (int, float)) for row in rows)
        table.add_column(name, justify="right" if numeric else "left")
    for row in rows:
        table.add_row(*(Text(_shown(value)) for value in row))
    return table


def _shown(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"


def relative(path: Path) -> str:
    """A path as one would type it from the current folder."""
    try:
        return os.path.relpath(path)
    except ValueError:
        # The path is on another drive on Windows.
        return str(path)


def closing_panel(files: Sequence[tuple[str, Path]], commands: Sequence[tuple[str, str]]) -> Panel:
    """The panel that says where to look next.

    Args:
        files: (description, path); a path that does not exist is left out.
        commands: (description, command line).
    """
    rows = Table.grid(padding=(0, 2))
    rows.add_column(no_wrap=True)
    rows.add_column(overflow="fold")
    for what, path in files:
        if path.exists():
            rows.add_row(Text(what), Text(relative(path), style="bold"))
    lines = Table.grid(padding=(0, 2))
    lines.add_column(no_wrap=True)
    lines.add_column(overflow="fold")
    for what, command in commands:
        lines.add_row(Text(what), Text(command, style="bold"))
    return Panel(Group(rows, Text(""), lines), title="Where to look next", title_align="left", expand=False)


def print_closing(
    files: Sequence[tuple[str, Path]], commands: Sequence[tuple[str, str]], console: Console | None = None
) -> None:
    """Print `closing_panel`."""
    (console or make_console()).print(closing_panel(files, commands))
