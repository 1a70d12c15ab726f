"""Ranks a run's users with its exports, in a process that cannot import mllmrec, and compares with ``mllmrec.evaluate``.

    python experiments/exported_rankings.py run=DIR users=1000 out=runs/exported
    python experiments/exported_rankings.py run=DIR users=200 vllm=.venv-vllm/bin/python

Prints one JSON line for the merged model and, if the run trained adapters, one for the adapter: users, how many rankings are
equal, and the largest difference of a log-probability. With ``vllm``, the Python of an environment that has vLLM, vLLM ranks
the merged model, too. ``experiments/serving.md`` holds the figures.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

USAGE = (
    "usage: python experiments/exported_rankings.py run=DIR [users=1000] [out=runs/exported] [vllm=PYTHON]"
)
# Both run without mllmrec: they read rows of (history, candidates) and write each row's scores.
START = """
import json, os, runpy, sys
sys.modules["mllmrec"] = None
from pathlib import Path
folder, written = Path(sys.argv[1]), Path(sys.argv[2])
rank = runpy.run_path(str(folder / "rank.py"), run_name="rank")
about = rank["described"](folder)
chat = about["chat"]
def asked(row):
    prompt = rank["prompt_of"](about, row["history"], row["candidates"])
    return chat["before"] + prompt + chat["after"], rank["answers_of"](about, row["candidates"])
"""
RANKING = """
model, tokenizer = rank["load"](folder, about)
scores = [rank["log_probabilities"](model, tokenizer, about, *asked(row)) for row in map(json.loads, sys.stdin)]
written.write_text(json.dumps(scores))
"""
# vLLM starts processes that import this file again.
IN_VLLM = """
def main():
    from transformers import AutoTokenizer
    from vllm import LLM, SamplingParams
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    end = [tokenizer.eos_token_id] if chat["score_end_token"] else []
    prompts, answers, sizes = [], [], []
    for row in map(json.loads, sys.stdin):
        text, names = asked(row)
        start = tokenizer(text, add_special_tokens=chat["add_special_tokens"])["input_ids"]
        named = [tokenizer(name, add_special_tokens=False)["input_ids"] + end for name in names]
        prompts += [{"prompt_token_ids": start + ids} for ids in named]
        answers += named
        sizes.append(len(named))
    longest = max(len(prompt["prompt_token_ids"]) for prompt in prompts) + 1
    model = LLM(model=str(folder), dtype="float32", enforce_eager=True, max_num_seqs=16, max_model_len=longest)
    # vLLM gives the log-probabilities of a prompt's tokens; a token has to be drawn besides.
    outputs = model.generate(prompts, SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0))
    found = []
    for output, ids in zip(outputs, answers, strict=True):
        behind = output.prompt_logprobs[-len(ids):]
        found.append(sum(tokens[token].logprob for tokens, token in zip(behind, ids, strict=True)))
    rest = iter(found)
    written.write_text(json.dumps([[next(rest) for _ in range(size)] for size in sizes]))
if __name__ == "__main__":
    main()
"""


def command(name: str, *arguments: str) -> None:
    """Run a command of mllmrec; end if it fails."""
    done = subprocess.run([sys.executable, "-m", f"mllmrec.{name}", *arguments], stdout=subprocess.DEVNULL)
    if done.returncode:
        sys.exit(done.returncode)


def compare(
    folder: Path, rows: list[dict[str, Any]], known: dict[str, dict[str, float]], vllm: str = ""
) -> dict[str, Any]:
    """Rank every row with the export in ``folder``; ``known`` holds the scores of mllmrec by user and item.

    Args:
        folder: the export's.
        rows: users' histories and candidates.
        known: what is compared with.
        vllm: the Python of an environment with vLLM, which ranks; "": the export's own ``rank.py`` does.
    """
    given = "\n".join(
        json.dumps({"history": row["history"], "candidates": row["candidates"]}) for row in rows
    )
    with tempfile.TemporaryDirectory() as place:
        script, written = Path(place) / "ranking.py", Path(place) / "scores.json"
        script.write_text(START + (IN_VLLM if vllm else RANKING), encoding="utf-8")
        done = subprocess.run(
            [vllm or sys.executable, str(script), str(folder.resolve()), str(written)],
            input=given,
            capture_output=True,
            text=True,
            env={"VLLM_CPU_KVCACHE_SPACE": "1", **os.environ, "HF_HUB_OFFLINE": "1"},
        )
        if done.returncode:
            sys.exit(done.stderr)
        scores = json.loads(written.read_text(encoding="utf-8"))
    equal, difference = 0, 0.0
    for row, found in zip(rows, scores, strict=True):
        theirs = dict(zip(row["candidates"], found, strict=True))
        ours = known[row["user_id"]]
        equal += sorted(theirs, key=theirs.__getitem__) == sorted(theirs, key=ours.__getitem__)
        difference = max(difference, *(abs(theirs[item] - ours[item]) for item in theirs))
    return {
        "export": folder.name,
        "ranked_by": "vLLM" if vllm else "rank.py",
        "users": len(rows),
        "equal_rankings": equal,
        "largest_difference": float(f"{difference:.1e}"),
    }


def main(arguments: list[str]) -> int:
    """Entry point."""
    defaults = {"users": "1000", "out": "runs/exported", "vllm": ""}
    given = {**defaults, **dict(word.partition("=")[::2] for word in arguments)}
    if set(given) != {"run", *defaults} or not given["users"].isdigit():
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
        if given["vllm"] and merge == "true":
            print(json.dumps(compare(folder, rows, known, given["vllm"])), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
