from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))
from fuzz import counts

PRINTED = """..
============================ Hypothesis Statistics =============================

tests/properties/test_any_page.py::test_a_fence[one]:

  - during generate phase (0.05 seconds):
    - Typical runtimes: ~ 0-1 ms, of which ~ 0-1 ms in data generation
    - 48 passing examples, 1 failing examples, 3 invalid examples
    - Found 1 distinct error in this phase

  - during shrink phase (0.01 seconds):
    - 2 passing examples, 4 failing examples, 0 invalid examples

  - Stopped because nothing left to do


tests/properties/test_any_file.py::test_a_key:

  - during generate phase (0.05 seconds):
    - 50 passing examples, 0 failing examples, 0 invalid examples

"""


def test_the_examples_of_each_property_are_counted() -> None:
    assert counts(PRINTED) == [("test_a_fence[one]", 50, 5), ("test_a_key", 50, 0)]
