"""Counting recommenders, ranked on the candidates of every run: the bar that a language model has to clear."""

from __future__ import annotations

from functools import partial
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from mllmrec.baselines.base import FitInputs, Recommender
from mllmrec.baselines.ranking import RecommenderRanker
from mllmrec.errors import UserError
from mllmrec.evaluation.protocols import Protocols
from mllmrec.samples.item_texts import item_texts
from mllmrec.samples.prepared import Prepared


def rank_baselines(cfg: DictConfig, prepared: Prepared, protocols: Protocols) -> None:
    """Fit each recommender to the training sequences and record its ranking under every protocol.

    Args:
        cfg: the run's configuration. ``baselines`` maps a name to what `hydra.utils.instantiate` takes; runs of earlier
            versions have none. The run's own method is left out.
        prepared: the data.
        protocols: the run's protocols.

    Raises:
        UserError: a recommender is trained instead of counted.
    """
    inputs = FitInputs(
        sequences=prepared.samples["train"].parts(),
        num_items=len(prepared.items),
        texts=item_texts(prepared),
        seed=cfg.seed,
        make_trainer=_no_trainer,
    )
    for name, described in (cfg.get("baselines") or {}).items():
        if name == cfg.method.name:
            continue
        recommender: Recommender = instantiate(described, _convert_="all")
        recommender.fit(inputs)
        for place in protocols:
            result = place.rank(str(name), partial(RecommenderRanker, recommender, place.protocol.seed))
            place.folder.record_baseline(
                str(name), result.means(place.protocol.ks), place.protocol.intervals(result)
            )
            place.folder.record_slices(str(name), place.protocol.sliced(result))


def _no_trainer(**settings: Any) -> Any:
    raise UserError(
        "baselines: only recommenders that count are ranked beside a run, such as popularity and item_knn; run one that "
        "is trained by itself, as in method=sasrec"
    )
