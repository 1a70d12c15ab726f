"""Which source files count for trained weights that are kept for other jobs."""

from __future__ import annotations

import pytest

from mllmrec.cache import files_fingerprint
from mllmrec.store.fingerprints import code_fingerprint
from mllmrec.store.sources import used_files

FILES = {
    "__init__.py": "PLACES = {'run': 'pack.jobs'}\nfrom pack import server",
    "jobs.py": "from pack.step import walk\ndef run():\n    from pack.late import arrive",
    "late.py": "import pack.deep.inner",
    "step/__init__.py": "",
    "step/walk.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pack.typed import X",
    "step/words/text.yaml": "a: 1",
    "deep/__init__.py": "from pack import other",
    "deep/inner.py": "import numpy",
    "other.py": "",
    "typed.py": "",
    "server.py": "",
    "named.py": "class Part: ...",
    "unused/words.yaml": "a: 1",
    "unused/baseline.py": "import pack.jobs",
    "jobs.md": "",
}
USED = {
    *("__init__.py", "jobs.py", "late.py", "other.py", "deep/__init__.py", "deep/inner.py"),
    *("step/__init__.py", "step/walk.py", "step/words/text.yaml"),
}


@pytest.fixture
def package(tmp_path):
    root = tmp_path / "pack"
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_files_count_that_imports_lead_to(package):
    assert set(used_files(["pack.jobs"], package)) == USED
    # A class that settings name, and a module of another package.
    assert set(used_files(["pack.jobs.run", "pack.named.Part", "numpy.random"], package)) == USED | {
        "named.py"
    }


@pytest.mark.parametrize("name", FILES)
def test_a_change_counts_where_the_file_is_used(package, name):
    first = files_fingerprint(used_files(["pack.jobs"], package))
    (package / name).write_text(FILES[name] + "\n# more")
    assert (files_fingerprint(used_files(["pack.jobs"], package)) != first) == (name in USED)


def test_a_file_that_is_used_from_now_on_counts(package):
    (package / "other.py").write_text("from pack import server")
    assert set(used_files(["pack.jobs"], package)) == USED | {"server.py"}


def test_training_does_not_hang_on_servers_reports_and_other_baselines():
    sft = [{"fit": {"_target_": "mllmrec.phases.fits.fit_sft"}}, "mllmrec.engine.shared_prefix.SharedPrefix"]
    used = used_files(["mllmrec.jobs.language_model", sft[0]["fit"]["_target_"], sft[1]])
    of = {name.split("/")[0] for name in used}
    assert {"phases", "step", "models", "prompts", "engine"} <= of
    assert {"phases/sft.py", "phases/fits.py", "engine/products.py"} <= set(used)
    assert not of & {"serving", "exploring", "reporting", "exporting", "tuning", "variants", "serve.py"}
    assert not {"baselines/bert4rec.py", "baselines/item_knn.py"} & set(used)
    # Settings decide what counts besides.
    keys = [code_fingerprint(settings, "mllmrec.jobs.language_model")["package"] for settings in ({}, sft)]
    assert keys[0] != keys[1]
    sasrec = used_files(["mllmrec.jobs.baseline", "mllmrec.baselines.sasrec.Sasrec"])
    assert "baselines/sasrec.py" in sasrec
    assert "phases/grpo.py" not in sasrec
