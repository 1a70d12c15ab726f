"""``python -m mllmrec`` lists the commands; ``python -m mllmrec train ...`` runs one of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version

# Module of the package -> what it does. After installation each also has its own command: `mllmrec-build-cot`.
COMMANDS = {
    "train": "prepare, train, evaluate",
    "build_cot": "write, refine and assess reasoning",
    "evaluate": "evaluate a finished run under another protocol",
    "recommend": "a ranked list for one user",
    "export": "a run's model as a folder for transformers and peft",
    "datasets": "a run's candidate sets and reasoning, for others to compare on",
    "serve": "rankings of a finished run over HTTP",
    "explore": "finished runs on a page, user by user",
    "reproduce": "run a finished run again and compare the results",
    "report": "tables, tests and pictures over many runs",
    "sweep": "a named experiment as a resumable multirun",
    "tune": "a search for hyper-parameters on validation users",
}
USAGE = """\
NAME
  mllmrec - post-train language models to recommend, and measure it

SYNOPSIS
  mllmrec COMMAND [key=value ...]
  (the same: mllmrec-COMMAND, or python -m mllmrec.COMMAND)

COMMANDS
  {commands}
  Each answers --help.

TAB COMPLETION
  eval "$(mllmrec-train -sc install=bash)"   settings and choices of mllmrec-train
"""
WRONG_USE = 2


def script(command: str) -> str:
    """The name of a command after installation."""
    return f"mllmrec-{command.replace('_', '-')}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names, or list all commands; return the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help", "help"):
        width = max(map(len, COMMANDS))
        lines = (f"{name.replace('_', '-'):{width}}  {does}" for name, does in COMMANDS.items())
        print(USAGE.format(commands="\n  ".join(lines)), end="")
        return 0
    if given[0] == "--version":
        print(version("mllmrec"))
        return 0
    command = given[0].replace("-", "_")
    if command not in COMMANDS:
        names = ", ".join(name.replace("_", "-") for name in COMMANDS)
        print(f"mllmrec: error: {given[0]}: no such command; there are {names}", file=sys.stderr)
        return WRONG_USE
    # The command reads its arguments and Hydra its name from sys.argv.
    sys.argv = [script(command), *given[1:]]
    return import_module(f"mllmrec.{command}").main() or 0


if __name__ == "__main__":
    sys.exit(main())
