"""The contents of a fitted recommender as one safetensors file in a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mllmrec.cache import atomic_path
from mllmrec.errors import UserError

NAME = "recommender.safetensors"


def write_weights(folder: Path, kind: str, num_items: int, arrays: dict[str, np.ndarray]) -> None:
    """Write the arrays of a recommender of kind `kind` for `num_items` items."""
    with atomic_path(folder / NAME) as temporary:
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        save_file(contiguous, temporary, metadata={"kind": kind, "items": str(num_items)})


def read_weights(folder: Path, kind: str, num_items: int) -> dict[str, np.ndarray]:
    """The arrays that `write_weights` wrote.

    Raises:
        UserError: there is no such file, or it is for another kind or another number of items.
    """
    path = folder / NAME
    try:
        with safe_open(path, framework="numpy") as stored:
            metadata = stored.metadata() or {}
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path} cannot be read as a fitted recommender ({error}): train with this method first"
        ) from error
    found = (metadata.get("kind"), metadata.get("items"))
    if found != (kind, str(num_items)):
        raise UserError(
            f"{path} holds {found[0]} for {found[1]} items, but {kind} for {num_items} is needed: "
            "use the method and the dataset of the run"
        )
    return arrays
