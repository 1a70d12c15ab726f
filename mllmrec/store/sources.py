"""Which files of this package a computation can use: those that its modules import, and the wordings beside them.

A stored phase outlives a change to every other file, such as a server's, a report's or another baseline's. Imports are read
from the source without running it, within functions too. So a file may count that is never run. Classes that settings name
are imported by no file: they have to be among the entries.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def used_files(entries: Collection[str], root: Path = PACKAGE) -> dict[str, Path]:
    """The package's files that some modules use, by their place in the package.

    Args:
        entries: names of modules, or of what they define, such as ``mllmrec.phases.sft.Sft``. Names of other packages
            are left out.
        root: the package's folder.
    """
    found: set[Path] = set()
    waiting = list(entries)
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen or name.partition(".")[0] != root.name:
            continue
        seen.add(name)
        waiting.append(name.rpartition(".")[0])  # importing a module runs the packages that it lies in
        path = _file_of(name, root)
        if path is not None and path not in found:
            found.add(path)
            # The package itself imports nothing before it is asked for.
            waiting += names_in(path, root.name) if path.parent != root or path.name != "__init__.py" else []
    folders = {path.parent for path in found}
    for folder in folders:
        found |= set(folder.glob("*.yaml") if folder == root else folder.rglob("*.yaml"))
    return {path.relative_to(root).as_posix(): path for path in found}


def names_in(path: Path, package: str = PACKAGE.name) -> set[str]:
    """What a source file imports from a package, modules and names in them."""
    return {name for name in _names(path, path.stat().st_mtime_ns) if name.partition(".")[0] == package}


@cache
def _names(path: Path, changed: int) -> frozenset[str]:
    """The names in a file as of a time."""
    return frozenset(_walk(ast.parse(path.read_bytes())))


def _walk(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        for other in node.orelse:
            yield from _walk(other)
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        yield from (f"{node.module}.{alias.name}" for alias in node.names)

    for child in ast.iter_child_nodes(node):
        yield from _walk(child)


def _file_of(name: str, root: Path) -> Path | None:
    place = root.joinpath(*name.split(".")[1:])
    options = (place / "__init__.py", place.with_name(f"{place.name}.py"))
    return next((option for option in options if option.is_file()), None)
