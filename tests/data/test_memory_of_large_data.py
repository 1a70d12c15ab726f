"""What preparation takes of memory for each interaction, measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet

ROWS = 200_000
# Reads parts of 16,384 rows, as a table of many millions has many parts.
PREPARE = """
import json, resource, sys
import pyarrow as pa
from mllmrec.data import tables
from mllmrec.data.candidates import CandidateSampler, Catalogue
from mllmrec.data.filters import Filters, build_interactions
from mllmrec.data.splits import LeaveOneOut
from mllmrec.data.tabular import Tabular

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

tables.ROWS = 1 << 14
before = peak()
raw = Tabular(interactions=sys.argv[1], items=sys.argv[2]).load()
strings = pa.default_memory_pool().max_memory()
items, interactions, _ = build_interactions(raw, Filters(min_length=5), seed=0)
train = LeaveOneOut()(interactions)["train"]
CandidateSampler(9).bind(Catalogue(interactions, items, train), train)
list(train.parts())
print(json.dumps({"strings": strings, "all": peak() - before, "users": interactions.num_users}))
"""


def test_an_interaction_takes_some_numbers_and_no_text(tmp_path):
    draw = np.random.default_rng(0)
    users = np.array([f"{'x' * 80}{user}" for user in range(ROWS // 10)])
    ids = np.array([f"item {item}" for item in range(ROWS // 20)])
    table = {
        "user_id": users[draw.integers(len(users), size=ROWS)],
        "item_id": ids[draw.integers(len(ids), size=ROWS)],
        "timestamp": draw.integers(1_700_000_000, size=ROWS),
    }
    pyarrow.parquet.write_table(pa.table(table), tmp_path / "ratings.parquet")
    pyarrow.parquet.write_table(pa.table({"item_id": ids, "title": ids}), tmp_path / "items.parquet")
    command = [sys.executable, "-c", PREPARE, tmp_path / "ratings.parquet", tmp_path / "items.parquet"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["users"] > 0.9 * len(users)
    # The ids of all rows are 90 bytes each, and were held several times. What stays of a part is the ids it met.
    assert found["strings"] < 210 * ROWS
    assert found["all"] < 1000 * ROWS
