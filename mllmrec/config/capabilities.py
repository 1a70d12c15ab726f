"""What a part says of itself as class attributes, read from its source, so that rules about it need no import of torch.

A class of the user's own says the same things in the same way, and obeys the same rules:

- a rollout: ``constrained`` (only the candidates' answers are possible), ``every_answer``, ``off_policy``, ``gives_order``,
  ``inserts`` (somebody else wrote learnt tokens), ``parts`` (of the rewards, which it fills in), ``reasons``, ``describes``
  (it answers in a second prompt), ``lists``, ``by_server`` (a server may draw its tokens);
- a reward: ``parts``, ``needs_title``, ``needs_ids``, ``pays_places``;
- a shaper: ``parts``, ``needs_parts``, ``needs_order``, ``shapes_length`` (it pays for the length of answers);
- an advantage: ``varies``, ``needs_places``, ``needs_parts``, ``makes_up`` (it is larger where few groups differ);
- a loss: ``accepts``, ``on_policy_only``, ``takes_foreign``;
- a cot policy: ``gives_confidence``; a backbone: ``sees_images``, ``from_scratch``; an engine: ``continues_images``;
- a dataset: ``asks_for``, ``takes_files``; a split: ``published``; a sampler: ``plans_ahead``;
- any part: ``needs_package`` (what it imports that a plain install does not bring, and what pip installs to bring it).
"""

from __future__ import annotations

import ast
import pydoc
import sys
from collections.abc import Mapping
from typing import Any

from mllmrec.config.named_classes import located
from mllmrec.config.signatures import Unreadable, base_classes, class_of_target

_MISSING = object()


def capability(section: Any, name: str, default: Any) -> Any:
    """The attribute ``name`` of the class that a section names.

    Args:
        section: resolved settings with a ``_target_``; a rollout around another one passes the question on.
        name: of the attribute.
        default: for a section without a class, and for a class without the attribute.
    """
    if not isinstance(section, Mapping) or section.get("_target_") is None:
        return default
    target = str(section["_target_"])
    if target.split(".")[0] in sys.stdlib_module_names:
        return default  # refused elsewhere; importing it could already do something
    try:
        found = _read(*class_of_target(target), name)
    except (Unreadable, OSError, SyntaxError, ValueError, RecursionError):
        try:
            found = getattr(located(target), name, _MISSING)
        except pydoc.ErrorDuringImport:
            return default  # the check of the classes says so, with the reason
    if found is _MISSING and isinstance(section.get("inner"), Mapping):
        return capability(section["inner"], name, default)
    return default if found is _MISSING else found


def innermost(section: Mapping[str, Any]) -> Mapping[str, Any]:
    """The section of the draw that a rollout is made of: itself, or the one inside."""
    while isinstance(section.get("inner"), Mapping):
        section = section["inner"]
    return section


def _read(place: Any, node: ast.ClassDef, name: str) -> Any:
    """The value that a class, or the first of its bases that has one, gives to an attribute."""
    for statement in node.body:
        value = None
        if isinstance(statement, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == name for target in statement.targets
        ):
            value = statement.value
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            value = statement.value if statement.target.id == name else None
        elif isinstance(statement, ast.FunctionDef) and statement.name == name:
            raise Unreadable(name)  # a property may say anything
        if value is not None:
            return _constant(value)
    for base in base_classes(place, node):
        found = _read(*base, name)
        if found is not _MISSING:
            return found
    return _MISSING


def _constant(value: ast.expr) -> Any:
    frozen = isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "frozenset"
    if frozen:
        assert isinstance(value, ast.Call)
        return frozenset(ast.literal_eval(value.args[0])) if value.args else frozenset()
    return ast.literal_eval(value)
