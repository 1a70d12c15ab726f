"""How many examples the properties get: few and always the same here, many and new ones in ``experiments/fuzz.py``."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

EXAMPLES = "MLLMREC_FUZZ_EXAMPLES"  # set by experiments/fuzz.py

_QUIET = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile(
    "suite", max_examples=50, derandomize=True, deadline=None, database=None, suppress_health_check=_QUIET
)
settings.register_profile(
    "fuzz",
    max_examples=int(os.environ.get(EXAMPLES, 1000)),
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=_QUIET,
)
settings.load_profile("fuzz" if EXAMPLES in os.environ else "suite")
