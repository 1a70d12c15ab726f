"""The key of a trained recommender: everything that made its weights, as named parts."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from mllmrec.evaluation.protocol import Protocol
from mllmrec.samples.item_texts import item_texts
from mllmrec.samples.prepared import Prepared
from mllmrec.store.fingerprints import (
    code_fingerprint,
    measure_fingerprint,
    named_files,
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
        "code": code_fingerprint(plain, "mllmrec.jobs.baseline"),
        "files": named_files(plain),
        "sequences": sequences_fingerprint(prepared.samples["train"].parts()),
        "texts": texts_fingerprint(item_texts(prepared)),
        "held out": measure_fingerprint(held_out, reads_prompts=False),
    }
