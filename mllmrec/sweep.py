"""``python -m mllmrec.sweep NAME``: a named experiment as a resumable multirun, and its report."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from mllmrec.stopping import stoppable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    with stoppable("mllmrec.sweep", "start it again to continue"):
        from mllmrec.cli import run_typed
        from mllmrec.sweeping.command import run_command

        given = sys.argv[1:] if arguments is None else arguments
        return run_typed(run_command, given, "mllmrec.sweep", "./sweep.sh --help")


if __name__ == "__main__":
    sys.exit(main())
