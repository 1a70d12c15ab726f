from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from mllmrec.data.amazon_beauty import AmazonBeauty
from mllmrec.data.filters import Filters, build_interactions
from mllmrec.data.splits import Given, LeaveOneOut, Samples
from mllmrec.data.tabular import Tabular

SCRIPT = Path(__file__).parents[2] / "experiments" / "minionerec_files.py"
BEAUTY = Path(__file__).parents[3] / "shared" / "data" / "amazon_beauty"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False
    )


@pytest.fixture
def root(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "sequential_data.txt").write_text("1 10 20 30 10\n2 30 20\n")
    (tmp_path / "derived").mkdir()
    rows = ["item_id\ttitle\tbrand\tcategories", "10\tOil, pure\t\t", "20\tComb\t\t", "30\tSoap's\t\t"]
    (tmp_path / "derived" / "items.tsv").write_text("\n".join(rows) + "\n")
    return tmp_path


def read(out: Path) -> Tabular:
    files = {"items": "info.txt", "train": "train.csv", "validation": "valid.csv", "test": "test.csv"}
    return Tabular(
        **{name: str(out / file) for name, file in files.items()},
        history_column="history_item_id",
        items_id_column=3,
        title_column=2,
        header="interactions",
    )


def test_each_target_is_a_row_with_the_published_columns(root, tmp_path):
    done = run(f"root={root}", f"out={tmp_path / 'out'}", "history=2")
    assert done.stdout == "train.csv: 1 rows, valid.csv: 1 rows, test.csv: 2 rows\n"
    with (tmp_path / "out" / "test.csv").open(newline="") as stream:
        first, second = csv.DictReader(stream)
    assert first == {
        "user_id": "A1",
        "history_item_title": """['Comb', "Soap's"]""",
        "item_title": "Oil, pure",
        "history_item_id": "[20, 30]",
        "item_id": "10",
        "history_item_sid": "['<a_20>', '<a_30>']",
        "item_sid": "<a_10>",
    }
    assert (second["user_id"], second["history_item_id"], second["item_id"]) == ("A2", "[30]", "20")
    assert (tmp_path / "out" / "info.txt").read_text().splitlines()[0] == "<a_10>\tOil, pure\t10"
    assert len(read(tmp_path / "out").load().interactions.items) == 6


def test_wrong_use_is_said(tmp_path):
    done = run(f"root={tmp_path}", f"out={tmp_path}")
    assert (done.returncode, "missing files" in done.stderr) == (2, True)
    assert run("root=x").returncode == 2


def samples_of(splits: dict[str, Samples], ids, prefix: str = "") -> dict[str, set]:
    return {
        name: {
            (prefix + split.user_id(i), tuple(ids[split.history(i)]), ids[split.target(i)])
            for i in range(len(split))
        }
        for name, split in splits.items()
    }


@pytest.mark.slow
def test_amazon_beauty_comes_back_as_it_was(tmp_path):
    if not BEAUTY.is_dir():
        pytest.skip("Amazon Beauty lies in ../shared/data/amazon_beauty where it is at hand")
    assert run(f"root={BEAUTY}", f"out={tmp_path}").returncode == 0
    items, interactions, funnel = build_interactions(
        read(tmp_path).load(), Filters(min_length=1, repeats="all"), seed=0
    )
    # Rows hold the latest ten items; histories of up to 203 are put together again.
    assert funnel.whole == {"users": 22363, "items": 12101, "interactions": 198502}
    original = AmazonBeauty(str(BEAUTY), "unused", download=False).load()
    known, whole, _ = build_interactions(original, seed=0)
    expected = samples_of(LeaveOneOut(windows="sliding")(whole), known.ids, "A")
    assert samples_of(Given(windows="sliding")(interactions), items.ids) == expected
