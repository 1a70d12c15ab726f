"""``python -m mllmrec.explore run=DIR[,DIR]``: finished runs on a page, user by user."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from mllmrec.config.listed import listed
from mllmrec.stopping import stoppable

if TYPE_CHECKING:
    from omegaconf import DictConfig


def explore(cfg: DictConfig) -> None:
    """Serve the pages until a signal comes.

    Raises:
        UserError: FastAPI or uvicorn is missing, a folder holds no run, or the port is taken.
    """
    from omegaconf import ListConfig

    from mllmrec.config import check_config
    from mllmrec.config.trust import trusted
    from mllmrec.errors.extras import extra

    check_config(cfg)
    with extra("explore", "the pages need"):
        from mllmrec.exploring import server
    folders = [str(folder) for folder in (cfg.run if isinstance(cfg.run, ListConfig) else [cfg.run])]
    server.serve(folders, cfg.port, cfg.open, trusted(cfg.trust))


def main() -> None:
    """Entry point."""
    sys.argv[1:] = listed(sys.argv[1:], "run")
    with stoppable("mllmrec.explore"):
        from mllmrec.cli import run_app

        run_app(explore, "explore")


if __name__ == "__main__":
    main()
