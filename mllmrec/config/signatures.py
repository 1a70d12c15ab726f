"""Reads what a constructor takes from the source of its class, without an import: importing torch alone takes seconds.

Reads only classes with an ``__init__`` of their own or an inherited one, and simple dataclasses. An ``__init__`` may take
settings objects field by field (`mllmrec.flat`). For any other class `signature_of` returns None, and the check
imports the class instead.
"""

from __future__ import annotations

import ast
import builtins
import collections.abc
import functools
import importlib.machinery
import inspect
import pathlib
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

UNREADABLE = inspect.Parameter.empty  # stands for a type that cannot be read from the source
# Names in annotations are looked up in these modules.
_KNOWN_MODULES: Mapping[str, Any] = {
    "typing": typing,
    "collections.abc": collections.abc,
    "pathlib": pathlib,
    "builtins": builtins,
}


_PACKAGE = __name__.split(".")[0]
_WITHOUT_INIT = ("ABC", "Protocol", "object")  # bases that have no constructor of their own
_FLAT = "flat_settings"  # the decorator of `mllmrec.flat`


class Unreadable(Exception):
    """The answer cannot be read from the source."""


def signature_of(target: str) -> dict[str, inspect.Parameter] | None:
    """The parameters of the constructor of ``package.module.Class``, without ``self``.

    Returns:
        Parameters by name. The annotation is a type or `UNREADABLE`; the default is None wherever there is one. None
        instead if the constructor cannot be read from the source.
    """
    module, _, name = target.rpartition(".")
    try:
        place, node = _class(module, name)
        return {one.name: one for one in _parameters(place, node)}
    except (Unreadable, OSError, SyntaxError, ValueError, RecursionError):
        return None


def class_of_target(target: str) -> tuple[_Module, ast.ClassDef]:
    """The source of ``package.module.Class`` and its module.

    Raises:
        Unreadable: it cannot be found without an import.
    """
    module, _, name = target.rpartition(".")
    return _class(module, name)


def base_classes(place: _Module, node: ast.ClassDef) -> list[tuple[_Module, ast.ClassDef]]:
    """The sources of a class's bases, in order.

    Raises:
        Unreadable: one of them cannot be found without an import.
    """
    found = []
    for base in node.bases:
        if not isinstance(base, ast.Name):
            raise Unreadable(node.name)
        if base.id not in _WITHOUT_INIT:
            found.append(_class_of(place, base.id))
    return found


@dataclass(frozen=True)
class _Module:
    """A source file and the statements of its top level."""

    name: str
    tree: ast.Module
    is_package: bool

    def statement(self, name: str) -> ast.stmt:
        """The statement that binds a name at the top level: a class, an assignment or an import."""
        for node in reversed(self.tree.body):  # the last statement counts
            if isinstance(node, ast.ClassDef) and node.name == name:
                return node
            if isinstance(node, ast.Assign) and any(
                isinstance(place, ast.Name) and place.id == name for place in node.targets
            ):
                return node
            if isinstance(node, ast.ImportFrom) and any(
                (one.asname or one.name) == name for one in node.names
            ):
                return node
        raise Unreadable(name)

    def source_of(self, node: ast.ImportFrom) -> str:
        """The full name of the module that an import names."""
        if not node.level:
            return node.module or ""
        parts = self.name.split(".")
        base = parts[: len(parts) - node.level + (1 if self.is_package else 0)]
        return ".".join([*base, *([node.module] if node.module else [])])


@functools.cache
def _module(name: str) -> _Module:
    """The source of a module, found without importing the module or its packages."""
    path: Any = None
    spec = None
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        spec = importlib.machinery.PathFinder.find_spec(".".join(parts[:count]), path)
        if spec is None:
            raise Unreadable(name)
        path = spec.submodule_search_locations
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise Unreadable(name)
    tree = ast.parse(pathlib.Path(spec.origin).read_text(encoding="utf-8"))
    return _Module(name, tree, spec.submodule_search_locations is not None)


def _class(module: str, name: str) -> tuple[_Module, ast.ClassDef]:
    """A class and the module that defines it. Follows imports."""
    place = _module(module)
    node = place.statement(name)
    if isinstance(node, ast.ClassDef):
        return place, node
    if isinstance(node, ast.ImportFrom):
        original = next(one.name for one in node.names if (one.asname or one.name) == name)
        return _class(place.source_of(node), original)
    raise Unreadable(name)


def _parameters(place: _Module, node: ast.ClassDef) -> list[inspect.Parameter]:
    if node.keywords:
        raise Unreadable(node.name)  # a metaclass may do anything
    for decorator in node.decorator_list:
        if _called(decorator) != "dataclass":
            raise Unreadable(node.name)
        return _fields(place, node)
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            return _of_function(place, statement)
        if isinstance(statement, ast.FunctionDef) and statement.name == "__new__":
            raise Unreadable(node.name)
    bases = [base for base in node.bases if not (isinstance(base, ast.Name) and base.id in _WITHOUT_INIT)]
    if not bases:
        return []
    # With several bases, Python's method resolution order chooses the constructor.
    (base, *others) = bases
    if others or not isinstance(base, ast.Name):
        raise Unreadable(node.name)
    return _parameters(*_class_of(place, base.id))


def _class_of(place: _Module, name: str) -> tuple[_Module, ast.ClassDef]:
    node = place.statement(name)
    return (place, node) if isinstance(node, ast.ClassDef) else _class(place.name, name)


def _called(node: ast.expr) -> str:
    node = node.func if isinstance(node, ast.Call) else node
    return node.id if isinstance(node, ast.Name) else ""


def _fields(place: _Module, node: ast.ClassDef) -> list[inspect.Parameter]:
    own_init = any(isinstance(one, ast.FunctionDef) and one.name == "__init__" for one in node.body)
    # `field(...)`, ClassVar, InitVar and KW_ONLY change the constructor in ways that are not read here.
    plain = all(
        isinstance(one.annotation, ast.Name | ast.BinOp) and not isinstance(one.value, ast.Call)
        for one in node.body
        if isinstance(one, ast.AnnAssign)
    )
    if node.bases or own_init or not plain:
        raise Unreadable(node.name)
    return [
        _parameter(place, statement.target.id, statement.annotation, statement.value, keyword_only=False)
        for statement in node.body
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
    ]


def _of_function(place: _Module, node: ast.FunctionDef) -> list[inspect.Parameter]:
    if [_called(decorator) for decorator in node.decorator_list] not in ([], [_FLAT]):
        raise Unreadable(node.name)
    given = node.args
    positional = [*given.posonlyargs, *given.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(given.defaults))
    defaults += given.defaults
    found = [
        _parameter(place, one.arg, one.annotation, default, keyword_only=False)
        for one, default in list(zip(positional, defaults, strict=True))[1:]
    ]
    found += [
        _parameter(place, one.arg, one.annotation, default, keyword_only=True)
        for one, default in zip(given.kwonlyargs, given.kw_defaults, strict=True)
    ]
    if given.vararg is not None:
        raise Unreadable(node.name)
    if node.decorator_list:
        annotations = {one.arg: one.annotation for one in [*positional, *given.kwonlyargs]}
        objects = {
            one.name: settings
            for one in found
            if one.default is not one.empty and (settings := _settings(place, annotations[one.name]))
        }
        found = [one for one in found if one.name not in objects]
        found += [one for settings in objects.values() for one in settings]
    if given.kwarg is not None:
        found.append(inspect.Parameter(given.kwarg.arg, inspect.Parameter.VAR_KEYWORD))
    return found


def _settings(place: _Module, annotation: ast.expr | None) -> list[inspect.Parameter]:
    """The fields of a settings object, all with defaults since the object has one. Empty if it is no settings object."""
    if not isinstance(annotation, ast.Name) or isinstance(getattr(builtins, annotation.id, None), type):
        return []
    home, node = _class_of(place, annotation.id)
    if [_called(decorator) for decorator in node.decorator_list] != ["dataclass"]:
        return []
    kind = inspect.Parameter.KEYWORD_ONLY
    return [one.replace(kind=kind, default=None) for one in _fields(home, node)]


def _parameter(
    place: _Module, name: str, annotation: ast.expr | None, default: ast.expr | None, *, keyword_only: bool
) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY if keyword_only else inspect.Parameter.POSITIONAL_OR_KEYWORD
    known = UNREADABLE
    if annotation is not None:
        try:
            known = _type(place, annotation)
        except (Unreadable, TypeError, AttributeError):
            known = UNREADABLE  # for example `int[str]`: Python never evaluates annotations
    # Only whether there is a default counts, not its value.
    value = inspect.Parameter.empty if default is None else None
    return inspect.Parameter(name, kind, default=value, annotation=known)


def _type(place: _Module, node: ast.expr) -> Any:
    """The type of an annotation made of names from the standard library, the module itself or others of this package."""
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            return _type(place, ast.parse(node.value, mode="eval").body)
        return node.value
    if isinstance(node, ast.Name):
        return _named(place, node.id)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return typing.Union[_type(place, node.left), _type(place, node.right)]  # noqa: UP007
    if isinstance(node, ast.Tuple):
        return tuple(_type(place, one) for one in node.elts)
    if isinstance(node, ast.Subscript):
        base = _type(place, node.value)
        if base is typing.Literal:
            inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            if not all(isinstance(one, ast.Constant) for one in inner):
                raise Unreadable(ast.dump(node))
            return typing.Literal[tuple(one.value for one in inner if isinstance(one, ast.Constant))]
        return base[_type(place, node.slice)]
    raise Unreadable(ast.dump(node))


def _named(place: _Module, name: str) -> Any:
    if name == "None":
        return None
    builtin = getattr(builtins, name, None)
    if isinstance(builtin, type):
        return builtin
    node = place.statement(name)
    if isinstance(node, ast.Assign):
        return _type(place, node.value)
    if isinstance(node, ast.ImportFrom):
        source = place.source_of(node)
        original = next(one.name for one in node.names if (one.asname or one.name) == name)
        if source in _KNOWN_MODULES:
            return getattr(_KNOWN_MODULES[source], original)
        if source.split(".")[0] == _PACKAGE:
            return _named(_module(source), original)
    raise Unreadable(name)
