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
    - 48 passing, 1 failing, and 3 invalid test cases
    - Found 1 distinct error in this phase

  - during shrink phase (0.01 seconds):
    - 2 passing, 4 failing, and 0 invalid test cases

  - Stopped because nothing left to do


tests/properties/test_any_file.py::test_a_key:

  - during generate phase (0.05 seconds):
    - 50 passing, 0 failing, and 0 invalid test cases

"""


def test_the_examples_of_each_property_are_counted() -> None:
    assert counts(PRINTED) == [("test_a_fence[one]", 50, 5), ("test_a_key", 50, 0)]
