"""The pages of published systems: an index of the 62, and a page for each preset of ``conf/variant/``.

python -m mllmrec.config.systems docs

Pages are made of what the files say of themselves: headers, keys with their comments, and the docstrings of parts.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from mllmrec.cache import atomic_path
from mllmrec.config import CONFIG_DIR
from mllmrec.config.signatures import Unreadable, class_of_target

LISTED = Path(__file__).with_name("systems.yaml")
# Groups whose files may be a system as a whole.
_WHOLE = ("variant", "method", "inference", "engine")
_SENTENCE = re.compile(r"(?<=[.])(?<!\bDr[.])(?<!\bal[.])\s+(?=[A-Z])")


@dataclass(frozen=True)
class Setting:
    """A key of a file with its value, as written, and its comment."""

    key: str
    value: str
    comment: str


@dataclass(frozen=True)
class File:
    """What a configuration file says."""

    group: str
    name: str
    said: str  # its first comments
    chosen: list[tuple[str, str]]  # other groups and their files, from its defaults
    settings: list[Setting]
    targets: list[tuple[str, str]]  # key → class

    @property
    def word(self) -> str:
        """What one types."""
        return f"{self.group}={self.name}"


@dataclass(frozen=True)
class Part:
    """A class that a preset uses."""

    key: str  # where it stands
    name: str
    source: str  # of the project
    module_doc: str
    doc: str
    settings: list[Setting] = field(default_factory=list)


@dataclass(frozen=True)
class System:
    """An entry of the list, and what there is of it."""

    number: int
    name: str
    kind: str
    words: list[str]  # what one types
    presets: list[str]
    note: str

    @property
    def missing(self) -> bool:
        """Whether it should have a preset and has none."""
        return not self.words and self.kind != "other"


def read_file(path: Path) -> File:
    """What a file of a group says, read without composing it."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    said = []
    for line in lines:
        if not line.startswith("#"):
            break
        words = line.lstrip("# ").strip()
        if not words.startswith(("@package", "python -m", "./sweep.sh")):
            said.append(words)
    whole: dict[str, Any] = yaml.safe_load(text) or {}
    chosen = []
    for entry in whole.get("defaults", []):
        if isinstance(entry, dict):
            ((group, name),) = entry.items()
            chosen.append((group.removeprefix("override").strip().lstrip("/"), str(name)))
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    found = list(_leaves(node, lines)) if node is not None else []
    prefix = "" if "# @package _global_" in lines[:1] else f"{path.parent.name}."
    targets = [
        ((prefix + key).removesuffix("._target_"), value)
        for key, value, _ in found
        if key.endswith("_target_")
    ]
    settings = [
        Setting(prefix + key, value, comment) for key, value, comment in found if not key.endswith("_target_")
    ]
    return File(path.parent.name, path.stem, " ".join(said), chosen, settings, targets)


def _leaves(node: yaml.Node, lines: Sequence[str], path: str = "") -> Any:
    """(key, value, comment) of each line with a value, in order; values that go over several lines are their first."""
    if not isinstance(node, yaml.MappingNode) or node.flow_style:
        return
    for key, value in node.value:
        inner = f"{path}.{key.value}" if path else key.value
        if inner == "defaults":
            continue
        if isinstance(value, yaml.MappingNode) and not value.flow_style and value.value:
            yield from _leaves(value, lines, inner)
            continue
        line = lines[key.start_mark.line]
        before, _, comment = line.partition(" # ")
        shown = before.partition(":")[2].strip()
        if isinstance(value, yaml.SequenceNode) and not value.flow_style:
            shown = ", ".join(_phase(one) for one in value.value)
        yield inner, shown, comment.strip()


def _phase(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "{" + ", ".join(f"{key.value}: {_phase(value)}" for key, value in node.value) + "}"
    if isinstance(node, yaml.SequenceNode):
        return "[" + ", ".join(_phase(one) for one in node.value) + "]"
    return str(node.value)


def parts_of(preset: File, folder: Path = CONFIG_DIR) -> list[Part]:
    """The classes of a preset and of the files that it chooses, each once."""
    files = [preset]
    for group, name in preset.chosen:
        path = folder / group / f"{name}.yaml"
        if path.is_file():
            chosen = read_file(path)
            files += [chosen, *_inside(chosen, folder)]
    found: dict[str, Part] = {}
    for file in files:
        for key, target in file.targets:
            own = (
                [one for one in file.settings if one.key.startswith(f"{key}.")] if file is not preset else []
            )
            try:
                module, node = class_of_target(target)
            except (Unreadable, OSError, SyntaxError, ValueError):
                continue
            found.setdefault(target, _part(key, target, module, node, own))
    return list(found.values())


def _inside(file: File, folder: Path) -> list[File]:
    """The files that a file puts inside of itself, as in ``/rollout@inner: constrained``, with keys as they stand there."""
    found = []
    for group, name in file.chosen:
        group, at, place = group.partition("@")
        path = folder / group / f"{name}.yaml"
        if not at or not path.is_file():
            continue
        one, within = read_file(path), f"{file.group}.{place}"
        found.append(
            replace(
                one,
                settings=[replace(each, key=within + each.key.removeprefix(group)) for each in one.settings],
                targets=[(within + key.removeprefix(group), target) for key, target in one.targets],
            )
        )
    return found


def _part(key: str, target: str, module: Any, node: ast.ClassDef, settings: list[Setting]) -> Part:
    source = f"{module.name.replace('.', '/')}.py"
    of_variant = module.name.startswith("mllmrec.variants.")
    return Part(
        key,
        node.name,
        source,
        _markdown(ast.get_docstring(module.tree)) if of_variant else "",
        _markdown(ast.get_docstring(node)),
        settings,
    )


def _markdown(text: str | None) -> str:
    """A docstring as Markdown, up to its arguments: code has single backticks, and no double colon stands before a block."""
    said = re.split(r"\n\n(?:Args|Raises|Returns):\n", text or "")[0]
    return said.replace("``", "`").replace("::\n", ":\n")


@cache
def _headers(folder: Path) -> list[File]:
    return [read_file(path) for group in _WHOLE for path in sorted((folder / group).glob("[!_]*.yaml"))]


def systems(folder: Path = CONFIG_DIR) -> list[System]:
    """The list, with what the folder of configuration files has of each.

    Args:
        folder: a folder of configuration files.
    """
    found = []
    for entry in yaml.safe_load(LISTED.read_text(encoding="utf-8")):
        finds = [] if entry["class"] == "other" else entry.get("find", [entry["name"]])
        files = [
            file for file in _headers(folder) if any(word.lower() in file.said.lower() for word in finds)
        ]
        words = [file.word for file in files] + entry.get("choices", [])
        found.append(
            System(
                entry["number"],
                entry["name"],
                entry["class"],
                list(dict.fromkeys(words)),
                [file.name for file in files if file.group == "variant"],
                entry.get("note", ""),
            )
        )
    return found


def pages(folder: Path = CONFIG_DIR) -> dict[str, str]:
    """Path below ``docs`` → Markdown.

    Args:
        folder: a folder of configuration files.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown
    )
    environment.filters["cell"] = lambda text: text.replace("|", "\\|")
    listed = systems(folder)
    files = [file for file in _headers(folder) if file.group == "variant"]
    said = {file.name: _SENTENCE.split(file.said) for file in files}
    known = {name for one in listed for name in one.presets}
    others = [(file.name, said[file.name][0]) for file in files if file.name not in known]
    made = {
        "systems.md": environment.get_template("systems.md.j2").render(
            systems=listed, others=others, all=set(said)
        )
    }
    page = environment.get_template("system_page.md.j2")
    for file in files:
        first, *rest = said[file.name]
        made[f"systems/{file.name}.md"] = page.render(
            file=file,
            first=first,
            rest=rest,
            parts=parts_of(file, folder),
            listed=[one for one in listed if file.name in one.presets],
            chosen=[(group, name, _said(folder / group / f"{name}.yaml")) for group, name in file.chosen],
        )
    return made


def _said(path: Path) -> str:
    return read_file(path).said if path.is_file() else ""


def write(docs: Path) -> None:
    """Write all pages, and remove those whose preset is gone."""
    made = pages()
    (docs / "systems").mkdir(parents=True, exist_ok=True)
    for old in (docs / "systems").glob("*.md"):
        if f"systems/{old.name}" not in made:
            old.unlink()
    for name, text in made.items():
        with atomic_path(docs / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
