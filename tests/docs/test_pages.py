"""Every page of docs/: commands compose, Python blocks compile, links lead to files."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from mllmrec.__main__ import COMMANDS
from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.compose import compose_checked

PROJECT = Path(__file__).resolve().parents[2]
PAGES = sorted((PROJECT / "docs").glob("*.md"))
TEXTS = {page.name: page.read_text(encoding="utf-8") for page in PAGES}
NOT_HYDRA = {"sweep", "tune"}
PLACEHOLDER = re.compile(r"\b(DIR|FOLDER)\b")  # files that the check would look for


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", text, flags=re.DOTALL | re.MULTILINE)


def typed(text: str) -> list[tuple[str, list[str]]]:
    """The commands of a page as (name, overrides); a sweep is its jobs' command."""
    found = []
    for line in "".join(blocks(text, "bash")).replace("\\\n", " ").splitlines():
        # Variables of the environment may stand before a command, other commands before &&.
        words = shlex.split(line.rpartition("&&")[2], comments=True)
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            del words[0]
        if words[:2] == ["python", "-m"] and words[2].startswith("mllmrec."):
            found.append((words[2].removeprefix("mllmrec."), words[3:]))
        elif words and words[0].startswith("mllmrec-"):
            found.append((words[0].removeprefix("mllmrec-").replace("-", "_"), words[1:]))
        elif words and words[0] == "./sweep.sh":
            found.append(
                ("train", [f"experiment={words[1]}", *(w for w in words[2:] if not w.startswith("jobs="))])
            )
    return found


def single_runs(overrides: list[str]) -> list[list[str]]:
    """The overrides, and again for every further value of one that has several."""
    several = [
        [f"{key}={value}" for value in values.split(",")] if "[" not in values else [text]
        for text in overrides
        for key, _, values in [text.partition("=")]
    ]
    first = [texts[0] for texts in several]
    return [first] + [
        [*first[:place], text, *first[place + 1 :]]
        for place, texts in enumerate(several)
        for text in texts[1:]
    ]


CASES = [
    pytest.param(name, overrides, id=f"{page} {name} {' '.join(overrides)}"[:90])
    for page, text in TEXTS.items()
    for name, overrides in typed(text)
    # Pages with a package of one's own have tests of their own, which write it.
    if "--config-dir" not in overrides and not any("pkg://ourlab" in word for word in overrides)
]


@pytest.mark.parametrize(("name", "overrides"), CASES)
def test_a_command_composes(name: str, overrides: list[str]) -> None:
    assert name in COMMANDS
    if name in NOT_HYDRA or "--help" in overrides:
        return
    # A machine without a GPU, or without DeepSpeed, checks everything else of a command that asks for one.
    instead = "trainer=deepspeed" if find_spec("deepspeed") else "trainer=fsdp2"
    words = [
        word.replace("trainer=gpu", "trainer=auto").replace("trainer=deepspeed", instead)
        for word in overrides
        if not word.startswith("--")  # --multirun
    ]
    for one in single_runs(words):
        result = compose_checked(name, one, CONFIG_DIR)
        assert result.faults == [], one
        if name in ("train", "build_cot") and not PLACEHOLDER.search(" ".join(one)):
            check_config(result.config)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_of_python_compile(page: Path) -> None:
    for place, block in enumerate(blocks(TEXTS[page.name], "python")):
        compile(block, f"{page.name}, block {place}", "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", TEXTS[page.name]):
        if not re.match(r"https?:|mailto:|#", link):
            assert (page.parent / link.partition("#")[0]).is_file(), link


def test_commands_are_found_and_expanded() -> None:
    """The tests above see what they are meant to see."""
    page = "```bash\nA=1 python -m mllmrec.train --multirun seed=0,1 \\\n  method=sft\n./sweep.sh seeds jobs=2\nls\n```\n"
    assert typed(page) == [
        ("train", ["--multirun", "seed=0,1", "method=sft"]),
        ("train", ["experiment=seeds"]),
    ]
    assert single_runs(["seed=0,1", "eval.ks=[1,3]"]) == [
        ["seed=0", "eval.ks=[1,3]"],
        ["seed=1", "eval.ks=[1,3]"],
    ]
    assert len(CASES) >= 10


def test_the_reward_of_ones_own_is_that_of_the_page_of_parts(
    tmp_path: Path, import_from: Callable[[Path], None]
) -> None:
    """The listings, which tests of extending.md run, and commands that compose with them."""
    page = TEXTS["own_reward.md"]
    for listing in (*blocks(page, "python"), *blocks(page, "yaml")):
        assert listing in TEXTS["extending.md"]
    (tmp_path / "ourlab" / "conf" / "reward").mkdir(parents=True)
    for name in ("ourlab/__init__.py", "ourlab/conf/__init__.py"):
        (tmp_path / name).touch()
    (tmp_path / "ourlab" / "rewards.py").write_text(blocks(page, "python")[0], encoding="utf-8")
    (tmp_path / "ourlab" / "conf" / "reward" / "near.yaml").write_text(
        blocks(page, "yaml")[0], encoding="utf-8"
    )
    import_from(tmp_path)
    conf = str(tmp_path / "ourlab" / "conf")
    own = [overrides for _, overrides in typed(page) if "--config-dir" in overrides]
    assert len(own) == 2
    for overrides in own:
        words = [word for word in overrides if not word.startswith("--") and word != "ourlab/conf"]
        for one in single_runs(words):
            result = compose_checked("train", one, CONFIG_DIR, conf)
            assert result.faults == [], one
            check_config(result.config)
