"""Builds a stage from the configuration and trains it with a Lightning Trainer."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import lightning
import numpy as np
from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig
from torch.utils.data import DataLoader

from mllmrec.engine.base import Engine
from mllmrec.models.policy import Policy
from mllmrec.models.selection import Selection
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.prompts.examples import Examples, Forms
from mllmrec.randomness import seeded_globals
from mllmrec.rl.batch import RolloutBatch
from mllmrec.rl.regularizers import KlToReference
from mllmrec.run.folder import RunFolder
from mllmrec.run.one_process import make_trainer
from mllmrec.run.rollouts import RolloutWriter
from mllmrec.samples.prepared import Prepared
from mllmrec.screen.training_callbacks import StepTimer, TrainingProgress
from mllmrec.stages.base import OptimizerSettings, Stage, training_batches
from mllmrec.stages.dpo import Dpo
from mllmrec.stages.expert_iteration import ExpertIteration, RoundSettings, updates_of
from mllmrec.stages.grpo import Grpo, RolloutStage
from mllmrec.stages.heldout import HeldOutMeasure, held_out_ranking
from mllmrec.stages.kept_rollouts import kept_steps, whole_groups
from mllmrec.stages.pointwise import Pointwise
from mllmrec.stages.rollout_warnings import RolloutWarnings
from mllmrec.stages.sft import Sft, SftMore
from mllmrec.stages.warmup import Warmup, training_sequences
from mllmrec.step.collector import Collector
from mllmrec.step.policy_gradient import PolicyGradient, StepSettings
from mllmrec.step.reference import Frozen, Reference
from mllmrec.step.speaker import Names, Speaker

GRPO_DRAW = "grpo"  # names the draw of negatives for prompts after SFT, if it differs from SFT's draw
_SHOWN = {
    "warmup": ("loss",),
    "sft": ("loss",),
    "sft_more": ("loss",),
    "grpo": ("reward", "kl"),
    "dpo": ("loss", "rewards/accuracies"),
    "expert_iteration": ("loss", "reward"),
    "pointwise": ("loss",),
}


@dataclass(frozen=True)
class StageInputs:
    """The inputs from which every stage is built."""

    cfg: DictConfig
    prepared: Prepared
    policy: Policy
    answers: AnswerTokens
    engine: Engine
    folder: RunFolder
    timer: StepTimer = field(default_factory=StepTimer)


@dataclass(frozen=True)
class Trained:
    """The results of a stage, apart from the weights at its end."""

    selection: Selection | None  # None if no held-out users were ranked
    generated_tokens: int = 0  # by rollouts


# At every stage Lightning repeats advice that a user of this package cannot act on.
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
warnings.filterwarnings(
    "ignore",
    message=".*(does not have many workers|isinstance\\(treespec|smaller than the logging interval).*",
)


def train_stage(
    name: str, inputs: StageInputs, loggers: Sequence[Logger], measure: HeldOutMeasure | None
) -> Trained:
    """Train one stage.

    Args:
        name: ``warmup``, ``sft``, ``sft_more``, ``grpo``, ``dpo``, ``expert_iteration`` or ``pointwise``.
        inputs: configuration, data and policy.
        loggers: this stage's loggers.
        measure: the held-out ranking, or None for never.
    """
    cfg = inputs.cfg
    with seeded_globals(cfg.seed, "stage", name):
        if name == "warmup":
            return _fit_warmup(inputs, loggers)
        needs_reference = name == "dpo" or (name == "grpo" and cfg.grpo.beta > 0)
        inputs.policy.begin_stage(name, cfg[name].lora, keep_reference=needs_reference)
        return _FITS[name](inputs, loggers, measure)


def _fit_warmup(inputs: StageInputs, loggers: Sequence[Logger]) -> Trained:
    settings = inputs.cfg.warmup
    sequences = training_sequences(inputs.prepared.train.samples, settings.length)
    batches = _batches("warmup", len(sequences), settings.batch_size, inputs.cfg)
    inputs.policy.model.requires_grad_(True)
    stage = Warmup(
        inputs.policy.model,
        inputs.answers.first_tokens(),
        _optimizer(settings),
        updates=len(batches),
        dropout=settings.dropout,
    )
    return Trained(_fit(stage, sequences, batches, inputs, loggers, None))


def _fit_sft(inputs: StageInputs, loggers: Sequence[Logger], measure: HeldOutMeasure | None) -> Trained:
    batches = sft_batches(inputs.cfg, inputs.prepared)
    stage = _supervised(Sft, len(batches), inputs, curriculum=inputs.cfg.prompt.curriculum)
    return Trained(_fit(stage, Forms(inputs.prepared.train), batches, inputs, loggers, measure))


def _fit_sft_more(inputs: StageInputs, loggers: Sequence[Logger], measure: HeldOutMeasure | None) -> Trained:
    # As the control for GRPO it reads GRPO's prompts, in GRPO's order.
    size = inputs.cfg.sft_more.prompts_per_step
    examples, batches = _after_sft("sft_more", size, inputs, order="grpo")
    stage = _supervised(SftMore, len(batches), inputs)
    return Trained(_fit(stage, Forms(examples), batches, inputs, loggers, measure))


def _supervised(kind: type[Sft], updates: int, inputs: StageInputs, curriculum: str = "none") -> Sft:
    settings = inputs.cfg[kind.name]
    return kind(
        inputs.policy,
        inputs.answers,
        _optimizer(settings),
        updates=updates,
        micro_batch_size=settings.micro_batch_size,
        engine=inputs.engine,
        loss_on=settings.loss_on,
        curriculum=curriculum,
        seed=inputs.cfg.seed,
    )


def _fit_grpo(inputs: StageInputs, loggers: Sequence[Logger], measure: HeldOutMeasure | None) -> Trained:
    cfg, settings = inputs.cfg, inputs.cfg.grpo
    examples, batches = _after_sft("grpo", settings.prompts_per_step, inputs)
    kept = kept_steps(len(batches), cfg.heldout.every)
    regularizers = [KlToReference(settings.beta, settings.kl)] if settings.beta > 0 else []
    step = PolicyGradient(
        _collector(inputs, settings.micro_batch_size, Frozen() if regularizers else None),
        instantiate(cfg.advantage),
        instantiate(cfg.loss),
        StepSettings(
            group_size=settings.group_size,
            micro_batch_size=settings.micro_batch_size,
            iterations=settings.iterations,
            aggregation=settings.aggregation,
            skip_zero_variance=settings.skip_zero_variance,
        ),
        regularizers,
    )
    with RolloutWriter(inputs.folder.rollouts_path) as writer:

        def keep(batch: RolloutBatch) -> None:
            if settings.rollouts_shown and batch.step in kept:
                writer.append(whole_groups(batch, settings.rollouts_shown))

        stage = Grpo(step, _optimizer(settings), len(batches), keep)
        selection = _fit(stage, Forms(examples), batches, inputs, loggers, measure)
    return Trained(selection, stage.generated_tokens)


def _collector(inputs: StageInputs, micro_batch_size: int, reference: Reference | None) -> Collector:
    cfg, builder = inputs.cfg, inputs.prepared.builder
    rollout = instantiate(cfg.rollout)
    speaker = Speaker(
        inputs.policy,
        inputs.answers,
        inputs.engine,
        rollout.plain,
        Names(builder.ids, builder.titles),
        seed=cfg.seed,
        micro_batch_size=micro_batch_size,
    )
    return Collector(speaker, rollout, instantiate(cfg.reward), reference=reference)


def _fit_dpo(inputs: StageInputs, loggers: Sequence[Logger], measure: HeldOutMeasure | None) -> Trained:
    settings = inputs.cfg.dpo
    examples, batches = _after_sft("dpo", settings.prompts_per_step, inputs)
    stage = Dpo(
        inputs.policy,
        inputs.answers,
        _optimizer(settings),
        updates=len(batches),
        engine=inputs.engine,
        negatives=settings.negatives,
        beta=settings.beta,
        micro_batch_size=settings.micro_batch_size,
        seed=inputs.cfg.seed,
    )
    return Trained(_fit(stage, Forms(examples), batches, inputs, loggers, measure))


def _fit_expert_iteration(
    inputs: StageInputs, loggers: Sequence[Logger], measure: HeldOutMeasure | None
) -> Trained:
    settings = inputs.cfg.expert_iteration
    examples, batches = _after_sft("expert_iteration", settings.prompts_per_round, inputs)
    stage = ExpertIteration(
        _collector(inputs, settings.micro_batch_size, None),
        _optimizer(settings),
        updates_of(batches, settings.batch_size),
        RoundSettings(
            group_size=settings.group_size,
            micro_batch_size=settings.micro_batch_size,
            batch_size=settings.batch_size,
            threshold=settings.threshold,
            repeats=settings.repeats,
            loss_on=settings.loss_on,
        ),
    )
    selection = _fit(stage, Forms(examples), batches, inputs, loggers, measure)
    return Trained(selection, stage.generated_tokens)


def _fit_pointwise(inputs: StageInputs, loggers: Sequence[Logger], measure: HeldOutMeasure | None) -> Trained:
    settings, prepared = inputs.cfg.pointwise, inputs.prepared
    batches = _batches("pointwise", len(prepared.train), settings.batch_size, inputs.cfg)
    stage = Pointwise(
        inputs.policy,
        prepared.questions,
        _optimizer(settings),
        updates=len(batches),
        engine=inputs.engine,
        negatives=settings.negatives,
        micro_batch_size=settings.micro_batch_size,
        seed=inputs.cfg.seed,
    )
    return Trained(_fit(stage, prepared.train, batches, inputs, loggers, measure))


_FITS = {
    "sft": _fit_sft,
    "sft_more": _fit_sft_more,
    "grpo": _fit_grpo,
    "dpo": _fit_dpo,
    "expert_iteration": _fit_expert_iteration,
    "pointwise": _fit_pointwise,
}


def _fit(
    stage: Stage,
    dataset: Any,
    batches: Sequence[np.ndarray],
    inputs: StageInputs,
    loggers: Sequence[Logger],
    measure: HeldOutMeasure | None,
) -> Selection | None:
    cfg = inputs.cfg
    callbacks: list[lightning.Callback] = [inputs.timer, TrainingProgress(stage.name, _SHOWN[stage.name])]
    if isinstance(stage, RolloutStage):
        callbacks.append(RolloutWarnings(**cfg.warnings))
    ranking = None
    if measure is not None and cfg.heldout.users:
        heldout = cfg.heldout
        ranking = held_out_ranking(
            measure, stage, every=heldout.every, keep=heldout.keep, patience=heldout.patience
        )
        callbacks.append(ranking)
    trainer = make_trainer(
        cfg.trainer,
        inputs.folder,
        max_epochs=1,
        logger=list(loggers),
        callbacks=callbacks,
        use_distributed_sampler=False,
    )
    loader = DataLoader(dataset, batch_sampler=[batch.tolist() for batch in batches], collate_fn=list)
    trainer.fit(stage, loader)
    return None if ranking is None else ranking.selection


def sft_batches(cfg: DictConfig, prepared: Prepared) -> list[np.ndarray]:
    """The codes of the prompt forms (`mllmrec.prompts.examples.Forms`) in each batch of SFT."""
    mixture = prepared.mixture
    return mixture.forms(_batches("sft", len(mixture), cfg.sft.batch_size, cfg))


def _after_sft(
    name: str, batch_size: int, inputs: StageInputs, order: str | None = None
) -> tuple[Examples, list[np.ndarray]]:
    """The examples of a stage after SFT, and the codes of the examples in each of its batches.

    Args:
        name: the stage's name.
        batch_size: examples in a batch.
        inputs: the stage's inputs.
        order: names the shuffles; None for the stage's own.
    """
    prepared = inputs.prepared
    examples = prepared.redraw(GRPO_DRAW) if inputs.cfg[name].new_negatives else prepared.train
    batches = _batches(name, len(prepared.mixture), batch_size, inputs.cfg, order)
    return examples, prepared.mixture.forms(batches)


def _batches(
    name: str, size: int, batch_size: int, cfg: DictConfig, order: str | None = None
) -> list[np.ndarray]:
    settings = cfg[name]
    return training_batches(
        size,
        batch_size,
        epochs=settings.epochs,
        max_steps=settings.max_steps,
        seed=cfg.seed,
        purpose=order or name,
    )


def _optimizer(settings: DictConfig) -> OptimizerSettings:
    return OptimizerSettings(
        learning_rate=settings.learning_rate,
        schedule=settings.schedule,
        warmup_ratio=settings.warmup_ratio,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
    )
