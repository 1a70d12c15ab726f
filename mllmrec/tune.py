"""``python -m mllmrec.tune``: a search for hyper-parameters on validation users, which goes on when started again."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from mllmrec.stopping import stoppable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    with stoppable("mllmrec.tune", "start it again to continue"):
        from mllmrec.cli import run_typed
        from mllmrec.tuning.command import run_command

        given = sys.argv[1:] if arguments is None else arguments
        return run_typed(run_command, given, "mllmrec.tune", "python -m mllmrec.tune --help")


if __name__ == "__main__":
    sys.exit(main())
