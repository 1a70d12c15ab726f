"""Local generators, one per purpose: nothing in mllmrec draws from a global generator.

The run's seed and a purpose name each generator. So candidates, CoT selection and shuffles are each reproducible alone,
whatever else was drawn before them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed from the run's ``seed`` and a purpose such as ``("candidates", "test", user_id)``."""
    name = "\x1f".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 1


def numpy_generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """A separate NumPy generator for this purpose."""
    return np.random.Generator(np.random.Philox(derive_seed(seed, *purpose)))


def torch_generator(seed: int, *purpose: str | int, device: str | torch.device = "cpu") -> torch.Generator:
    """A separate torch generator for this purpose."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *purpose))


@contextmanager
def seeded_globals(seed: int, *purpose: str | int) -> Iterator[None]:
    """Seed torch's global generators for libraries that draw from them (weight initialisation, dropout).

    Afterwards the generators have their old state again.
    """
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(seed, *purpose))
        yield
