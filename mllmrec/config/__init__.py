"""The configuration: where its files are, and the checks that run before anything expensive."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mllmrec.config.checks import check_config

PACKAGE = Path(__file__).resolve().parents[1]
# A wheel has the files inside the package; a checkout has them beside it.
CONFIG_DIR = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"

__all__ = ["CONFIG_DIR", "check_config"]


def __getattr__(name: str) -> Any:
    # They are two fifths of what a help text would import, and it needs none of them.
    if name == "check_config":
        from mllmrec.config.checks import check_config

        return check_config
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
