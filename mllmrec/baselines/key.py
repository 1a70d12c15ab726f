"""The key of a trained recommender: everything that made its weights, as named parts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mllmrec.baselines.item_texts import item_texts
from mllmrec.cache import content_fingerprint
from mllmrec.evaluation.protocol import Protocol
from mllmrec.samples.prepared import Prepared
from mllmrec.store.fingerprints import (
    code_fingerprint,
    measure_fingerprint,
    sequences_fingerprint,
    texts_fingerprint,
)


def recommender_parts(
    settings: DictConfig, cfg: DictConfig, prepared: Prepared, held_out: Protocol | None
) -> dict[str, Any]:
    """What a recommender is trained on and what stops its training, as JSON values by name.

    Args:
        settings: the recommender's settings.
        cfg: the run's configuration.
        prepared: the data.
        held_out: the protocol that ranks validation users and stops the training; None: no such ranking.
    """
    plain: Any = OmegaConf.to_container(settings, resolve=True)
    return {
        "settings": plain,
        "trainer": OmegaConf.to_container(cfg.trainer, resolve=True),
        "seed": cfg.seed,
        "code": code_fingerprint(plain),
        "files": {path: content_fingerprint(Path(path)) for path in sorted(set(_paths_in(plain)))},
        "sequences": sequences_fingerprint(prepared.samples["train"].parts()),
        "texts": texts_fingerprint(item_texts(prepared)),
        "held out": measure_fingerprint(held_out, reads_prompts=False),
    }


def _paths_in(settings: Any) -> Iterator[str]:
    """The settings that name a file or folder on this machine, such as a sentence encoder's folder."""
    if isinstance(settings, dict):
        settings = list(settings.values())
    if isinstance(settings, list):
        for value in settings:
            yield from _paths_in(value)
    elif isinstance(settings, str) and Path(settings).exists():
        yield settings
