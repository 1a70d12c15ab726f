from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from mllmrec.engine.batches import TokenBatch
from mllmrec.store.plain import plain, restored


@dataclass(frozen=True)
class Kept:
    words: tuple[str, ...]
    seen: np.ndarray
    builder: object


def test_state_comes_back_from_a_file_that_can_hold_no_code(tmp_path):
    builder = object()
    state = {
        "kept": {("user 1", 3): Kept(("a", "b"), np.array([1.5, 2.5]), builder)},
        "queue": deque([1, 2, 3], maxlen=3),
        "sets": [{1, 2}, frozenset({"x"})],
        "batch": TokenBatch(torch.tensor([[1, 2]]), torch.tensor([[True, False]])),
        "number": np.float64(0.25),
        "nothing": None,
    }
    torch.save(plain(state, {"builder": builder}), tmp_path / "state.pt")
    another = object()
    found = restored(torch.load(tmp_path / "state.pt", weights_only=True), {"builder": another}, [__name__])
    kept = found["kept"]["user 1", 3]
    assert kept.words == ("a", "b")
    assert kept.seen.tolist() == [1.5, 2.5]
    assert kept.builder is another
    assert found["queue"] == deque([1, 2, 3])
    assert found["queue"].maxlen == 3
    assert found["sets"] == [{1, 2}, frozenset({"x"})]
    assert isinstance(found["sets"][1], frozenset)
    assert isinstance(found["batch"], TokenBatch)
    assert found["batch"].ids.tolist() == [[1, 2]]
    assert found["number"] == 0.25
    assert found["nothing"] is None


def test_what_cannot_be_saved_is_named():
    with pytest.raises(TypeError, match="a Kept2 cannot be saved"):
        plain({"part": [type("Kept2", (), {})()]})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("os:system", "no class of mllmrec"),
        ("subprocess:Popen", "no class of mllmrec"),
        (f"{__name__}:Kept", "no class of mllmrec"),
        ("mllmrecs:Class", "no class of mllmrec"),
        ("mllmrec.nowhere:Class", "no dataclass of this version"),
        ("mllmrec.cache:Path", "no dataclass of this version"),
        ("mllmrec.testing.trials:TokenBatch", "no dataclass of this version"),
        ("mllmrec.store.plain:torch.Size", "no dataclass of this version"),
        ("mllmrec.store.plain:sys.version_info", "no dataclass of this version"),
    ],
)
def test_a_file_names_no_class_but_those_of_mllmrec_and_of_trusted_packages(name, said):
    written = plain(Kept((), np.zeros(1), None))
    with pytest.raises(ValueError, match=f"is {said}"):
        restored({**written, "name": name})
