"""The files of a report: the page, the same page as Markdown and LaTeX, all numbers, and the pictures."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from mllmrec.cache import atomic_path, write_json
from mllmrec.reporting.page import Section, page
from mllmrec.reporting.tables import latex, markdown


def write_report(folder: Path, title: str, made: str, sections: Sequence[Section]) -> Path:
    """Write report.html, report.md, table.tex and report.json; return the page's path.

    Args:
        folder: the report's folder, which holds the pictures.
        title: the report's title.
        made: when the report was made, as text.
        sections: one per experiment.
    """
    _write(folder / "report.md", markdown_page(title, made, sections, folder))
    _write(folder / "table.tex", latex_tables(sections))
    write_json(
        folder / "report.json",
        {"title": title, "experiments": [section.experiment.as_json() for section in sections]},
    )
    _write(folder / "report.html", page(title, made, sections, folder))
    return folder / "report.html"


def markdown_page(title: str, made: str, sections: Sequence[Section], folder: Path) -> str:
    """The report as Markdown; links to pictures are relative to ``folder``."""
    parts = [f"# {title}\n", f"{made}\n"]
    for section in sections:
        parts.append(f"## {section.experiment.name}\n")
        parts += [f"> {note}\n" for note in section.notes]
        for table in section.tables:
            parts += [f"### {table.title}\n", markdown(table)]
        for picture in section.pictures:
            link = Path(os.path.relpath(picture.path, folder)).as_posix().replace(" ", "%20")
            parts.append(f"![{picture.title}]({link})\n\n**{picture.title}.** {picture.caption}\n")
    return "\n".join(parts)


def latex_tables(sections: Sequence[Section]) -> str:
    """Every table, for a document that uses booktabs and graphicx."""
    parts = ["% needs \\usepackage{booktabs,graphicx}\n"]
    for section in sections:
        label = slug(section.experiment.name)
        parts.append(latex(section.results, label))
        if section.comparisons is not None:
            parts.append(latex(section.comparisons, f"{label}-tests"))
        if section.slices is not None:
            parts.append(latex(section.slices, f"{label}-slices"))
        if section.costs is not None:
            parts.append(latex(section.costs, f"{label}-costs"))
        if section.training is not None:
            parts.append(latex(section.training, f"{label}-training"))
        if section.ranking_costs is not None:
            parts.append(latex(section.ranking_costs, f"{label}-rankings"))
    return "\n".join(parts)


def slug(name: str) -> str:
    """A name that is safe as a file name and as a LaTeX label."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower() or "experiment"


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(
            text, encoding="utf-8", errors="backslashreplace"
        )  # names of folders may be no text
