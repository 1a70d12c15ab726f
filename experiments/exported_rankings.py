"""Ranks a run's users with its exports, in a process that cannot import mllmrec, and compares with ``mllmrec.evaluate``.

    python experiments/exported_rankings.py run=DIR users=1000 out=runs/exported

Prints one JSON line for the merged model and, if the run trained adapters, one for the adapter: users, how many rankings are
equal, and the largest difference of a log-probability. ``experiments/serving.md`` holds the figures.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

USAGE = "usage: python experiments/exported_rankings.py run=DIR [users=1000] [out=runs/exported]"
# Runs without mllmrec: reads rows of (history, candidates), prints each row's scores.
RANKING = """
import json, runpy, sys
sys.modules["mllmrec"] = None
from pathlib import Path
folder = Path(sys.argv[1])
rank = runpy.run_path(str(folder / "rank.py"), run_name="rank")
about = rank["described"](folder)
model, tokenizer = rank["load"](folder, about)
for row in map(json.loads, sys.stdin):
    prompt = rank["prompt_of"](about, row["history"], row["candidates"])
    text = about["chat"]["before"] + prompt + about["chat"]["after"]
    answers = rank["answers_of"](about, row["candidates"])
    print(json.dumps(rank["log_probabilities"](model, tokenizer, about, text, answers)))
"""


def command(name: str, *arguments: str) -> None:
    """Run a command of mllmrec; end if it fails."""
    done = subprocess.run([sys.executable, "-m", f"mllmrec.{name}", *arguments], stdout=subprocess.DEVNULL)
    if done.returncode:
        sys.exit(done.returncode)


def compare(folder: Path, rows: list[dict[str, Any]], known: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Rank every row with the export in ``folder``; ``known`` holds the scores of mllmrec by user and item."""
    given = "\n".join(
        json.dumps({"history": row["history"], "candidates": row["candidates"]}) for row in rows
    )
    done = subprocess.run(
        [sys.executable, "-c", RANKING, str(folder)],
        input=given,
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    if done.returncode:
        sys.exit(done.stderr)
    equal, difference = 0, 0.0
    for row, line in zip(rows, done.stdout.splitlines(), strict=True):
        theirs = dict(zip(row["candidates"], json.loads(line), strict=True))
        ours = known[row["user_id"]]
        equal += sorted(theirs, key=theirs.__getitem__) == sorted(theirs, key=ours.__getitem__)
        difference = max(difference, *(abs(theirs[item] - ours[item]) for item in theirs))
    return {
        "export": folder.name,
        "users": len(rows),
        "equal_rankings": equal,
        "largest_difference": float(f"{difference:.1e}"),
    }


def main(arguments: list[str]) -> int:
    """Entry point."""
    given = {"users": "1000", "out": "runs/exported", **dict(word.partition("=")[::2] for word in arguments)}
    if set(given) != {"run", "users", "out"} or not given["users"].isdigit():
        print(USAGE, file=sys.stderr)
        return 2
    run, out = f"run={given['run']}", Path(given["out"])
    negatives = ("eval.weighting=uniform", f"eval.max_users={given['users']}")
    command("evaluate", run, *negatives, f"hydra.run.dir={out / 'evaluated'}")
    command("datasets", "export", run, f"out={out / 'data'}", "overwrite=true")
    table = pq.read_table(out / "evaluated" / "per_user.parquet").to_pylist()
    known = {
        row["user_id"]: dict(zip(row["ranking"], row["scores"], strict=True))
        for row in table
        if row["scores"]
    }
    candidates = pq.read_table(out / "data" / "candidates" / "test-uniform.parquet").to_pylist()
    rows = [row for row in candidates if row["user_id"] in known]
    for form, merge in (("merged", "true"), ("adapter", "false")):
        if merge == "false" and not (Path(given["run"]) / "adapters").is_dir():
            break
        folder = out / form
        command("export", run, f"out={folder}", f"merge={merge}", "overwrite=true")
        print(json.dumps(compare(folder, rows, known)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
