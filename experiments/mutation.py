"""How many small faults in the code that numbers rest on would its tests notice? The mutation score, file by file.

    python experiments/mutation.py                       every mutant of every part: hours
    python experiments/mutation.py sample=300 seed=0     so many, spread over the files by size: about half an hour
    python experiments/mutation.py parts=rl,rewards      some parts alone

``mutmut`` changes one thing in one function (an operator, a number, an argument, a branch) and runs the tests of that
file that reach the function. A mutant is killed if one fails, or never ends; one that survives is a fault that nobody
would hear of, unless it changes nothing that can be seen: those are named with their reason in
``mutation_equivalent.yaml`` and do not count. Texts of messages are left alone, and so is code outside functions.

Everything happens in temporary copies, on one core, at low priority. ``mutation.md`` says what came out.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from command_line import WrongUse, read_settings
from mutmut.configuration import reset_config
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.mutation.file_mutation import mutate_file_contents
from mutmut.stats import status_by_exit_code
from mutmut.utils.format_utils import get_mutant_name, orig_function_and_class_names_from_key
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table
from scipy.stats import binomtest

ROOT = Path(__file__).resolve().parents[1]
EQUIVALENT = Path(__file__).with_name("mutation_equivalent.yaml")
COPIED = ("mllmrec", "conf", "tests", "experiments", "pyproject.toml", "README.md", "sweep.sh")
# What is mutated, and the tests that answer for it; a file is of the first part that names it.
PARTS = {
    "rl": (["mllmrec/rl/*.py"], ["tests/rl", "tests/step"]),
    "step": (
        ["mllmrec/step/*.py"],
        ["tests/step", "tests/phases/test_grpo.py", "tests/phases/test_grpo_work.py"],
    ),
    "rollout": (["mllmrec/rollout/*.py"], ["tests/rollout"]),
    "rewards": (["mllmrec/rewards/*.py"], ["tests/rewards"]),
    "protocols": (
        ["mllmrec/evaluation/protocol*.py"],
        ["tests/evaluation", "tests/jobs/test_finished_run.py", "tests/jobs/test_controls.py"],
    ),
    "evaluation": (["mllmrec/evaluation/*.py"], ["tests/evaluation"]),
    "reference": (
        ["mllmrec/cot/assess/reference.py", "mllmrec/jobs/judge.py"],
        ["tests/cot/test_assess_*.py", "tests/cot/test_confident*.py", "tests/jobs/test_build_cot_job.py"],
    ),
    "assess": (["mllmrec/cot/assess/*.py"], ["tests/cot/test_assess_*.py"]),
    "candidates": (
        ["mllmrec/data/candidates.py", "mllmrec/data/candidate_sets.py"],
        ["tests/data/test_candidate*.py"],
    ),
    "cache": (["mllmrec/cache.py"], ["tests/test_cache.py"]),
    "keys": (
        ["mllmrec/store/fingerprints.py", "mllmrec/phases/key.py", "mllmrec/baselines/key.py"],
        [
            "tests/test_made_by.py",
            "tests/phases/test_phase_key.py",
            "tests/baselines/test_recommender_key.py",
        ],
    ),
    "store": (
        ["mllmrec/phases/store.py", "mllmrec/store/trained_once.py"],
        [
            "tests/store/test_trained_once.py",
            "tests/jobs/test_shared_*.py",
            "tests/jobs/test_damaged_stores.py",
        ],
    ),
}
# Times of a busy machine would kill mutants that no test sees.
NOT_RUN = "not takes_seconds"
KILLED = ("killed", "timeout", "segfault")
NICENESS = 15
LEFT_ALONE = "# pragma: no mutate"  # mutmut's mark


@dataclass
class Settings:
    """The command line."""

    sample: int = 0  # mutants in all parts together; 0 for all there are
    seed: int = 0  # of the sample
    parts: str = ",".join(PARTS)
    source: str = str(ROOT)  # the checkout to judge, with its own tests
    out: str = "mutation.json"


@dataclass
class Mutant:
    """One change and what became of it."""

    name: str  # mutmut's
    file: str
    status: str = "not checked"
    function: str = ""
    before: str = ""
    after: str = ""
    reason: str = ""  # why it is equivalent


def copy_part(part: str, source: Path, place: Path) -> list[str]:
    """Copy ``source`` to ``place`` with mutmut set up for one part; returns the files that are mutated."""
    for name in COPIED:
        if (source / name).is_dir():
            shutil.copytree(source / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (source / name).exists():
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / name, place / name)
    files = files_of(part, place)
    for path in files:
        path.write_text(prepared_source(path.read_text(encoding="utf-8")), encoding="utf-8")
    tests = sorted(path for pattern in PARTS[part][1] for path in place.glob(pattern))
    lists = {
        "source_paths": ["mllmrec"],
        "only_mutate": [str(path.relative_to(place)) for path in files],
        "also_copy": [name for name in COPIED if name not in ("mllmrec", "tests")],
        "pytest_add_cli_args_test_selection": [str(path.relative_to(place)) for path in tests],
        "pytest_add_cli_args": ["-n0", "-p", "no:cacheprovider", "-k", NOT_RUN],
    }
    values = {"process_isolation": "forkserver", "timeout_multiplier": 4.0, "timeout_constant": 15.0}
    lines = ["[mutmut]", *(f"{key} = {value}" for key, value in values.items())]
    lines += [f"{key} =\n    " + "\n    ".join(entries) for key, entries in lists.items()]
    (place / "setup.cfg").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [str(path.relative_to(place)) for path in files]


def files_of(part: str, place: Path) -> list[Path]:
    """The files of a part that no part before it names."""
    taken: set[Path] = set()
    for name, (patterns, _) in PARTS.items():
        files = {path for pattern in patterns for path in place.glob(pattern)} - taken
        if name == part:
            return sorted(files)
        taken |= files
    raise KeyError(part)


def prepared_source(text: str) -> str:
    """The source as mutmut is to see it: without messages to mutate, and with all functions.

    mutmut passes over decorated functions, so ``@decorator`` is written as ``name = decorator(name)`` below the function,
    which is the same. Texts of errors and of the log are marked: their words are nobody's contract.
    """
    lines = text.split("\n")
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) or (isinstance(node, ast.Expr) and _says_something(node.value)):
            assert node.end_lineno is not None
            for line in range(node.lineno - 1, node.end_lineno):
                lines[line] += f"  {LEFT_ALONE}"
    for owner in (tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))):
        for function in owner.body:
            if isinstance(function, ast.FunctionDef) and _is_rewritten(function.decorator_list):
                _decorate_below(function, text, lines)
    return "\n".join(lines)


def _says_something(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id in ("log", "warnings")
    )


def _is_rewritten(decorators: list[ast.expr]) -> bool:
    # These two mutmut knows.
    return bool(decorators) and [getattr(one, "id", "") for one in decorators] not in (
        ["classmethod"],
        ["staticmethod"],
    )


def _decorate_below(function: ast.FunctionDef, text: str, lines: list[str]) -> None:
    assert function.end_lineno is not None
    decorated = function.name
    for decorator in reversed(function.decorator_list):
        assert decorator.end_lineno is not None
        for line in range(decorator.lineno - 1, decorator.end_lineno):
            lines[line] = ""
        decorated = f"{ast.get_source_segment(text, decorator)}({decorated})"
    indent = " " * function.col_offset
    lines[function.end_lineno - 1] += f"\n{indent}{function.name} = {decorated}"


def mutants_of(files: Sequence[str]) -> list[Mutant]:
    """Every mutant that there is of some files of the working directory."""
    reset_config()
    found = []
    for file in files:
        made = mutate_file_contents(file, Path(file).read_text(encoding="utf-8"))
        found += [Mutant(get_mutant_name(Path(file), name), file) for name in made.mutant_names]
    return found


def drawn(mutants: Sequence[Mutant], size: int, seed: int) -> list[Mutant]:
    """A sample in which each file has its share, by the number of its mutants; all of them for size 0."""
    if size == 0 or size >= len(mutants):
        return list(mutants)
    by_file: dict[str, list[Mutant]] = {}
    for mutant in mutants:
        by_file.setdefault(mutant.file, []).append(mutant)
    exact = np.array([size * len(group) / len(mutants) for group in by_file.values()])
    shares = np.floor(exact).astype(int)
    for index in np.argsort(shares - exact, kind="stable")[: size - int(shares.sum())]:
        shares[index] += 1
    generator = np.random.default_rng(seed)
    return [
        group[position]
        for group, share in zip(by_file.values(), shares, strict=True)
        for position in sorted(generator.permutation(len(group))[:share])
    ]


def judge(mutants: Sequence[Mutant]) -> None:
    """Run the tests against each mutant of the working directory, and write down what became of it."""
    if not mutants:
        return
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    # Of any other path, what is imported from there would not be mutated.
    environment.pop("PYTHONPATH", None)
    names = [mutant.name for mutant in mutants]
    mutmut = Path(sys.executable).with_name("mutmut")
    with Path("mutmut.log").open("w", encoding="utf-8") as log:
        command = [str(mutmut), "run", "--max-children", "1", *names]
        done = subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        said = Path("mutmut.log").read_text(encoding="utf-8", errors="replace")
        raise RuntimeError(f"mutmut ended with status {done.returncode}:\n{said[-4000:]}")
    reset_config()
    codes: dict[str, int | None] = {}
    for file in {mutant.file for mutant in mutants}:
        codes |= json.loads(Path(f"mutants/{file}.meta").read_text(encoding="utf-8"))["exit_code_by_key"]
    for mutant in mutants:
        mutant.status = status_by_exit_code[codes[mutant.name]]
        if mutant.status in KILLED:
            continue
        function, owner = orig_function_and_class_names_from_key(mutant.name)
        mutant.function = f"{owner}.{function}" if owner else function
        changed = get_diff_for_mutant(mutant.name, path=mutant.file).splitlines()[2:]
        mutant.before, mutant.after = (
            " ".join(line[1:].replace(LEFT_ALONE, "").strip() for line in changed if line[0] == sign)
            for sign in "-+"
        )


def mark_equivalent(mutants: Sequence[Mutant]) -> None:
    """Give the survivors that are known to change nothing their reason."""
    known: Any = OmegaConf.to_container(OmegaConf.load(EQUIVALENT))
    for mutant in mutants:
        if mutant.status != "survived":  # what no test reaches says nothing
            continue
        for entry in known:
            found = {
                "file": mutant.file,
                "function": mutant.function,
                "before": mutant.before,
                "after": mutant.after,
            }
            if all(re.fullmatch(entry.get(part, ".*"), text) for part, text in found.items()):
                mutant.reason = entry["reason"]
                break


def score(mutants: Sequence[Mutant]) -> dict[str, object]:
    """Counts, and the share that the tests killed of the mutants that could be, with its 95 % interval (Wilson)."""
    equivalent = sum(mutant.reason != "" for mutant in mutants)
    killed = sum(mutant.status in KILLED for mutant in mutants)
    judged = len(mutants) - equivalent
    found: dict[str, object] = {
        "mutants": len(mutants),
        "killed": killed,
        "timeout": sum(mutant.status == "timeout" for mutant in mutants),  # of the killed
        "equivalent": equivalent,
        "survived": judged - killed,
    }
    if judged:
        interval = binomtest(killed, judged).proportion_ci(method="wilson")
        found |= {"score": killed / judged, "interval": [float(interval.low), float(interval.high)]}
    return found


def survivors(mutants: Sequence[Mutant]) -> Iterator[Mutant]:
    """The mutants that no test noticed and that are not equivalent."""
    return (mutant for mutant in mutants if mutant.status not in KILLED and not mutant.reason)


def show(report: dict, console: Console) -> None:
    """Print the scores and the survivors."""
    table = Table("file", "mutants", "killed", "equivalent", "survived", "score", title="Mutation score")
    for name, row in [*report["files"].items(), ("all", report["all"])]:
        low, high = row.get("interval", (0.0, 0.0))
        counts = [str(row[key]) for key in ("mutants", "killed", "equivalent", "survived")]
        table.add_row(name, *counts, f"{row['score']:.3f} [{low:.3f}, {high:.3f}]" if "score" in row else "")
    console.print(table)
    for entry in report["survivors"]:
        console.print(f"\n{entry['file']} {entry['function']} ({entry['status']})", markup=False)
        console.print(f"  - {entry['before']}\n  + {entry['after']}", markup=False, highlight=False)


def main(arguments: Sequence[str]) -> int:
    """Judge the parts, print what came out and write it to ``out``."""
    try:
        settings = read_settings(Settings, arguments, {"parts": PARTS})
    except WrongUse as error:
        print(error, file=sys.stderr)
        return 2
    os.nice(NICENESS)
    started, here, out = time.monotonic(), Path.cwd(), Path(settings.out).resolve()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="mutation-") as temporary:
        places, found = {}, []
        try:
            for part in settings.parts.split(","):
                places[part] = Path(temporary) / part
                files = copy_part(part, Path(settings.source).resolve(), places[part])
                os.chdir(places[part])
                found += [(part, mutant) for mutant in mutants_of(files)]
            part_of = {mutant.name: part for part, mutant in found}
            chosen = drawn([mutant for _, mutant in found], settings.sample, settings.seed)
            console.print(f"{len(chosen)} of {len(found)} mutants", highlight=False)
            for part, place in places.items():
                os.chdir(place)
                mine = [mutant for mutant in chosen if part_of[mutant.name] == part]
                judge(mine)
                minutes = (time.monotonic() - started) / 60
                console.print(f"{part}: {len(mine)} mutants, {minutes:.1f} minutes in all", highlight=False)
        finally:
            os.chdir(here)
    mark_equivalent(chosen)
    in_all = Counter(mutant.file for _, mutant in found)
    files_seen = sorted(in_all)
    report = {
        "settings": {"sample": settings.sample, "seed": settings.seed, "parts": settings.parts},
        "minutes": round((time.monotonic() - started) / 60, 1),
        "there_are": dict(sorted(in_all.items())),
        "files": {file: score([mutant for mutant in chosen if mutant.file == file]) for file in files_seen},
        "all": score(chosen),
        "survivors": [asdict(mutant) for mutant in survivors(chosen)],
        "equivalent": [asdict(mutant) for mutant in chosen if mutant.reason],
    }
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    show(report, console)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
