"""The page of options: every group of ``conf/`` with its files and what each says of itself.

python -m mllmrec.config.options > docs/options.md
"""

from __future__ import annotations

from pathlib import Path

from mllmrec.config import CONFIG_DIR

_HIDDEN = ("hydra", "recipe")  # chosen by others and never typed


def page(folder: Path = CONFIG_DIR) -> str:
    """The page in Markdown.

    Args:
        folder: a folder of configuration files.
    """
    lines = [
        "# Options",
        "",
        "Choose a file of a group with `GROUP=FILE`, as in `python -m mllmrec.train dataset=movielens backbone=tiny`. Files",
        "of your own stand beside these with `--config-dir FOLDER` ([extending.md](extending.md)). All values and their one-line",
        "comments: `python -m mllmrec.train --help`, then the files in `conf/`.",
        "",
        "<!-- Written by python -m mllmrec.config.options; a test compares. -->",
    ]
    for group in sorted(path for path in folder.iterdir() if path.is_dir() and path.name not in _HIDDEN):
        files = sorted(group.glob("[!_]*.yaml"))
        if files:
            lines += ["", f"## {group.name}", "", "| file | |", "|---|---|"]
            lines += [f"| `{file.stem}` | {_said(file)} |" for file in files]
    return "\n".join(lines) + "\n"


def _said(file: Path) -> str:
    """The first sentences of a file: its comment lines before the first setting, without commands."""
    said = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        text = line.lstrip("# ").strip()
        if not text.startswith(("@package", "python -m", "./sweep.sh")):
            said.append(text)
    return " ".join(said).replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
