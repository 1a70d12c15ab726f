"""The job of a classical recommender: it is fitted to the users' training parts, then ranked like any other policy."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate
from torch import Tensor

from mllmrec.baselines.base import FitInputs, Recommender
from mllmrec.baselines.key import recommender_parts
from mllmrec.baselines.ranking import RecommenderRanker
from mllmrec.errors import UserError
from mllmrec.evaluation.evaluate import Evaluation
from mllmrec.jobs.beside import rank_baselines
from mllmrec.jobs.new_run import NewRun
from mllmrec.randomness import seeded_globals
from mllmrec.run.attempt import begun_job
from mllmrec.run.checkpoints import Checkpoints, Schedule
from mllmrec.run.cost import CostMeter
from mllmrec.run.one_process import make_trainer
from mllmrec.samples.item_texts import item_texts
from mllmrec.store.trained_once import alone, hand_over, is_whole, keeping, place_of

if TYPE_CHECKING:
    import lightning

    from mllmrec.run.progress import SavedProgress

log = logging.getLogger(__name__)


def run_baseline(run: NewRun) -> Evaluation:
    """Fit, save and rank the recommender that ``method.recommender`` describes.

    Returns:
        The recommender's evaluation under the main protocol.
    """
    cfg, folder, protocols = run.cfg, run.folder, run.protocols
    name = str(cfg.method.name)
    recommender: Recommender = instantiate(cfg.method.recommender, _convert_="all")
    run.begin()
    protocols.describe(RecommenderRanker.name)
    run.loggers.log_protocol(folder.metrics()["protocol"])
    rank_baselines(cfg, run.prepared, protocols)
    _learn(run, recommender, "recommender", name)
    recommender.save(folder.model_path)
    return protocols.record(name, lambda protocol: RecommenderRanker(recommender, protocol.seed))


def train_item_vectors(run: NewRun) -> Tensor:
    """Fit the recommender that ``method.item_vectors`` describes and return its vectors.

    Returns:
        (I, D) scaled to mean square 1. The learnt vectors may be so small that a new projector would hardly tell one
        item from another beside its own biases.

    Raises:
        UserError: the recommender has no item vectors.
    """
    from mllmrec.baselines.neural import NeuralRecommender

    recommender: Recommender = instantiate(run.cfg.method.item_vectors, _convert_="all")
    if not isinstance(recommender, NeuralRecommender):
        raise UserError(
            f"method.item_vectors: {type(recommender).__name__} has no item vectors; choose SasRec, Gru4Rec or Bert4Rec"
        )
    _learn(run, recommender, "item_vectors", "item_vectors")
    vectors = recommender.item_vectors()
    return vectors / vectors.square().mean().sqrt()


def _learn(run: NewRun, recommender: Recommender, section: str, name: str) -> None:
    """Fit what a section of ``method`` describes, or take it from an earlier job if jobs share; ``name`` is the run's
    name for it."""
    cfg, prepared = run.cfg, run.prepared
    if not (cfg.share_stages and recommender.shared):
        _fit(run, recommender, section, name)
        return
    parts = recommender_parts(cfg.method[section], cfg, prepared, run.held_out)
    place = place_of(Path(cfg.cache_dir) / "recommenders", parts)
    with alone(place, name):
        if is_whole(place, parts, name):
            recommender.load(place, len(prepared.items))
            hand_over(place, run.folder, name)
            return
        _fit(run, recommender, section, name)
        with keeping(place, parts, run.folder, [name]) as kept:
            recommender.save(kept)


def _fit(run: NewRun, recommender: Recommender, section: str, name: str) -> None:
    cfg, prepared, held_out = run.cfg, run.prepared, run.held_out

    def measure() -> float:
        assert held_out is not None
        return held_out.objective(held_out.measure(RecommenderRanker(recommender, held_out.seed)))

    progress = _progress(run, name) if recommender.shared else None
    with CostMeter() as meter, seeded_globals(cfg.seed, "stage", name):
        recommender.fit(
            FitInputs(
                sequences=prepared.samples["train"].parts(),
                num_items=len(prepared.items),
                texts=item_texts(prepared),
                seed=cfg.seed,
                make_trainer=lambda **settings: _trainer(run, name, settings, progress),
                progress=progress,
                measure=None if held_out is None else measure,
                section=f"method.{section}",
                cache_dir=Path(cfg.cache_dir),
            )
        )
    if progress is not None:
        meter.earlier = progress.earlier
    run.folder.record_cost(name, meter.cost())
    log.info("%s: %s", name, meter.cost())


def _progress(run: NewRun, name: str) -> SavedProgress:
    from mllmrec.run.progress import SavedProgress

    schedule = Schedule(**run.cfg.checkpoint)
    return SavedProgress(
        name, Checkpoints(run.folder.resume_path / name, schedule.keep, begun_job(run.folder)), schedule
    )


def _trainer(
    run: NewRun, name: str, settings: dict[str, Any], progress: SavedProgress | None
) -> lightning.Trainer:
    from mllmrec.screen.training_callbacks import TrainingProgress

    saved = [] if progress is None else [progress]
    return make_trainer(
        # Recommenders are small: half precision would cost them more than they gain.
        {**run.cfg.trainer, "precision": "32-true"},
        run.folder,
        **{
            **settings,
            "callbacks": [TrainingProgress(name, ("loss",)), *settings.get("callbacks", []), *saved],
        },
        logger=run.loggers.for_stage(run.folder, name),
    )
