"""The job of a classical recommender: it is fitted to the users' training parts, then ranked like any other policy."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from mllmrec.baselines.base import FitInputs, Recommender
from mllmrec.baselines.item_texts import item_texts
from mllmrec.baselines.key import recommender_parts
from mllmrec.baselines.neural import NeuralRecommender
from mllmrec.baselines.ranking import RecommenderRanker
from mllmrec.errors import UserError
from mllmrec.evaluation.evaluate import Evaluation
from mllmrec.evaluation.protocol import Protocol
from mllmrec.evaluation.protocols import Protocols
from mllmrec.jobs.beside import rank_baselines
from mllmrec.randomness import seeded_globals
from mllmrec.run.cost import CostMeter
from mllmrec.run.folder import RunFolder
from mllmrec.run.loggers import RunLoggers
from mllmrec.run.one_process import make_trainer
from mllmrec.samples.prepared import Prepared
from mllmrec.screen.training_callbacks import TrainingProgress
from mllmrec.store.trained_once import alone, hand_over, is_whole, keeping, place_of

log = logging.getLogger(__name__)


def run_baseline(
    cfg: DictConfig,
    prepared: Prepared,
    protocols: Protocols,
    held_out: Protocol | None,
    folder: RunFolder,
    loggers: RunLoggers,
    begin: Callable[[], None],
) -> Evaluation:
    """Fit, save and rank the recommender that ``method.recommender`` describes.

    Args:
        cfg: the run's configuration.
        prepared: the data.
        protocols: the protocols of the results.
        held_out: the protocol that ranks validation users during training; None: no such ranking.
        folder: the run's folder.
        loggers: the run's loggers.
        begin: called when nothing is left that could be refused, before anything is written.

    Returns:
        The recommender's evaluation under the main protocol.
    """
    name = str(cfg.method.name)
    recommender: Recommender = instantiate(cfg.method.recommender, _convert_="all")
    begin()
    protocols.describe(RecommenderRanker.name)
    loggers.log_protocol(folder.metrics()["protocol"])
    rank_baselines(cfg, prepared, protocols)
    fitting = _Fitting(cfg, prepared, held_out, folder, loggers)
    fitting.learn(recommender, "recommender", name)
    recommender.save(folder.model_path)
    return protocols.record(name, lambda protocol: RecommenderRanker(recommender, protocol.seed))


def train_item_vectors(
    cfg: DictConfig, prepared: Prepared, held_out: Protocol | None, folder: RunFolder, loggers: RunLoggers
) -> Tensor:
    """Fit the recommender that ``method.item_vectors`` describes and return its vectors; arguments as above.

    Returns:
        (I, D) scaled to mean square 1. The learnt vectors may be so small that a new projector would hardly tell one
        item from another beside its own biases.

    Raises:
        UserError: the recommender has no item vectors.
    """
    recommender: Recommender = instantiate(cfg.method.item_vectors, _convert_="all")
    if not isinstance(recommender, NeuralRecommender):
        raise UserError(
            f"method.item_vectors: {type(recommender).__name__} has no item vectors; choose SasRec, Gru4Rec or Bert4Rec"
        )
    fitting = _Fitting(cfg, prepared, held_out, folder, loggers)
    fitting.learn(recommender, "item_vectors", "item_vectors")
    vectors = recommender.item_vectors()
    return vectors / vectors.square().mean().sqrt()


@dataclass(frozen=True)
class _Fitting:
    """The parts of a run that fitting a recommender needs."""

    cfg: DictConfig
    prepared: Prepared
    held_out: Protocol | None
    folder: RunFolder
    loggers: RunLoggers

    def learn(self, recommender: Recommender, section: str, name: str) -> None:
        """Fit what a section of ``method`` describes, or take it from an earlier job if jobs share; ``name`` is the
        run's name for it."""
        # Only networks are stored. The other recommenders count, which is as quick as reading.
        if not (self.cfg.share_stages and isinstance(recommender, NeuralRecommender)):
            self._fit(recommender, section, name)
            return
        parts = recommender_parts(self.cfg.method[section], self.cfg, self.prepared, self.held_out)
        place = place_of(Path(self.cfg.cache_dir) / "recommenders", parts)
        with alone(place, name):
            if is_whole(place, parts, name):
                recommender.load(place, len(self.prepared.items))
                hand_over(place, self.folder, name)
                return
            self._fit(recommender, section, name)
            with keeping(place, parts, self.folder, [name]) as kept:
                recommender.save(kept)

    def _fit(self, recommender: Recommender, section: str, name: str) -> None:
        held_out = self.held_out

        def measure() -> float:
            assert held_out is not None
            return held_out.objective(held_out.measure(RecommenderRanker(recommender, held_out.seed)))

        with CostMeter() as meter, seeded_globals(self.cfg.seed, "stage", name):
            recommender.fit(
                FitInputs(
                    sequences=self.prepared.samples["train"].parts(),
                    num_items=len(self.prepared.items),
                    texts=item_texts(self.prepared),
                    seed=self.cfg.seed,
                    make_trainer=lambda **settings: self._trainer(name, settings),
                    measure=None if held_out is None else measure,
                    section=f"method.{section}",
                )
            )
        self.folder.record_cost(name, meter.cost())
        log.info("%s: %s", name, meter.cost())

    def _trainer(self, name: str, settings: dict[str, Any]) -> lightning.Trainer:
        return make_trainer(
            # Recommenders are small: half precision would cost them more than they gain.
            {**self.cfg.trainer, "precision": "32-true"},
            self.folder,
            **{**settings, "callbacks": [TrainingProgress(name, ("loss",)), *settings.get("callbacks", [])]},
            logger=self.loggers.for_stage(self.folder, name),
        )
