"""``python -m mllmrec.datasets export run=DIR out=DIR``: a run's candidate sets and reasoning, for others to compare on."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from mllmrec.stopping import stoppable

if TYPE_CHECKING:
    from omegaconf import DictConfig


def export(cfg: DictConfig) -> None:
    """Write the folder, send it if asked to, and print what is in it."""
    from mllmrec.config.trust import trusted
    from mllmrec.exporting.data_folder import export_data
    from mllmrec.exporting.hub import push, refuse_name
    from mllmrec.screen.console import make_console, relative

    if cfg.push is not None:
        refuse_name(cfg.push)
    done = export_data(cfg.run, cfg.out, cfg.overwrite, trusted(cfg.trust), cfg.reasoning)
    console = make_console()
    for file, count in done.rows.items():
        console.print(
            f"{relative(done.path / file)}: {count:,} rows", highlight=False, markup=False, soft_wrap=True
        )
    if cfg.push is not None:
        address = push(done.path, cfg.push, cfg.private, "dataset")
        console.print(f"sent: {address}", highlight=False, markup=False, soft_wrap=True)


def main() -> None:
    """Entry point. The word ``export`` says what is to be done, and there is nothing else yet."""
    with stoppable("mllmrec.datasets"):
        from mllmrec.cli import WRONG_USE, run_app

        if sys.argv[1:2] == ["export"]:
            del sys.argv[1]
        elif not any(word.startswith("-") for word in sys.argv[1:]):
            print(
                "mllmrec.datasets: error: say what to do: python -m mllmrec.datasets export run=DIR out=DIR",
                file=sys.stderr,
            )
            sys.exit(WRONG_USE)
        run_app(export, "datasets")


if __name__ == "__main__":
    main()
