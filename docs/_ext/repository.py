"""Pages that stand elsewhere in the repository become pages of the site, and links to source files lead to the source.

Experiments and derivations stand where GitHub's readers look for them. Before a build they are copied below ``docs/``
(git ignores the copies), and their relative links are written anew. A link to any other file of the repository leads to
a page with its text. So a link that leads nowhere is a warning, and ``-W`` makes it an error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
# Pages of the site by their place in the repository.
PLACES = {
    "mllmrec/cot/README.md": "inside/reasoning.md",
    "mllmrec/cot/assess/README.md": "inside/assessment.md",
    "mllmrec/rl/algorithms.md": "inside/algorithms.md",
    "mllmrec/rollout/enumerated.md": "inside/enumerated.md",
    "mllmrec/rollout/reasoned.md": "inside/reasoned.md",
    "experiments/README.md": "experiments/index.md",
}
LISTED = "\n\n```{toctree}\n:hidden:\n:glob:\n\n*\n```\n"
OTHERS = "(other pages)"  # stands in a list of index.md for the pages that none of its lists names
LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml"}
LINK = re.compile(r"(\]\()([^)\s]+)(\))")


def places() -> dict[str, str]:
    """Where each page from outside of ``docs/`` stands in the site, both as posix paths."""
    found = dict(PLACES)
    for path in sorted((ROOT / "experiments").glob("*.md")):
        found.setdefault(f"experiments/{path.name}", f"experiments/{path.name}")
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        found[f"notebooks/{path.name}"] = f"notebooks/{path.name}"
    return found


def copy_pages(app: Sphinx) -> None:
    """Bring the pages and their pictures below ``docs/``; leave files alone that have not changed."""
    wanted = {DOCS / place: (ROOT / source).read_bytes() for source, place in places().items()}
    wanted[DOCS / "experiments" / "index.md"] += LISTED.encode()
    wanted.update({DOCS / "experiments" / path.name: path.read_bytes() for path in pictures()})
    for target, content in wanted.items():
        if not target.is_file() or target.read_bytes() != content:
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(content)
    for folder in {target.parent for target in wanted}:
        for path in folder.iterdir():
            if path.is_file() and path not in wanted:
                path.unlink()


def pictures() -> list[Path]:
    """The pictures of the experiments."""
    return [path for path in (ROOT / "experiments").iterdir() if path.suffix in (".png", ".svg")]


def resolved(source: str, target: str) -> str | None:
    """The file of the repository that a link of the page ``source`` leads to, as a posix path; None: no such file."""
    path = (ROOT / source).parent / target.partition("#")[0]
    path = Path(os.path.normpath(path))
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) and path.is_file() else None


def new_target(source: str, page: str, target: str) -> str:
    """What a link of ``source`` has to say in the site's page ``page``.

    Args:
        source: the page's place in the repository.
        page: its place below ``docs/``.
        target: the link as it is written.
    """
    if re.match(r"[a-z]+:|#", target) or (path := resolved(source, target)) is None:
        return target
    _, hash_, anchor = target.partition("#")
    place = places().get(path, path.removeprefix("docs/") if path.startswith("docs/") else None)
    if place is None:
        return target if path.endswith((".png", ".svg")) else f"source:{path}"
    return os.path.relpath(place, Path(page).parent).replace(os.sep, "/") + hash_ + anchor


def rewrite_links(app: Sphinx, docname: str, content: list[str]) -> None:
    """Write the links of a page for its place in the site."""
    page = Path(app.env.doc2path(docname)).relative_to(DOCS).as_posix()
    sources = {place: source for source, place in places().items()}
    source = sources.get(page, f"docs/{page}")
    content[0] = LINK.sub(lambda link: link[1] + new_target(source, page, link[2]) + link[3], content[0])
    if docname == "index":
        content[0] = content[0].replace(OTHERS, "\n".join(others(content[0])))
    if docname == "systems":
        content[0] += LISTED.replace("*", "systems/*")


def others(index: str) -> list[str]:
    """The pages of ``docs/`` that ``index.md`` does not name on a line of their own, by name."""
    return sorted({path.stem for path in DOCS.glob("*.md")} - {"index", *index.splitlines()})


def resolve_sources(app: Sphinx, tree: nodes.document, docname: str) -> None:
    """Lead ``source:`` links to the pages that `source_pages` writes."""
    for link in tree.findall(nodes.reference):
        uri = link.get("refuri", "")
        if uri.startswith("source:"):
            page = f"source/{uri.removeprefix('source:')}"
            link["refuri"] = (
                app.builder.get_relative_uri(docname, page) if app.builder.format == "html" else ""
            )


def source_pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """A page for each file that a page links to."""
    sources = {DOCS / place: source for source, place in places().items()}
    linked = set()
    for path in DOCS.rglob("*.md"):
        source = sources.get(path, path.relative_to(ROOT).as_posix())
        page = path.relative_to(DOCS).as_posix()
        for _, target, _ in LINK.findall(path.read_text(encoding="utf-8")):
            new = new_target(source, page, target)
            if new.startswith("source:"):
                linked.add(new.removeprefix("source:"))
    for name in sorted(linked):
        language = LANGUAGES.get(Path(name).suffix, "text")
        text = (ROOT / name).read_text(encoding="utf-8")
        body = f"<h1>{escape(name)}</h1>" + app.builder.highlighter.highlight_block(
            text, language, linenos=False
        )
        yield f"source/{name}", {"title": name, "body": body}, "page.html"


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("builder-inited", copy_pages)
    app.connect("source-read", rewrite_links)
    app.connect("doctree-resolved", resolve_sources)
    app.connect("html-collect-pages", source_pages)
    return {"version": "1", "env_version": 1, "parallel_read_safe": True, "parallel_write_safe": True}
