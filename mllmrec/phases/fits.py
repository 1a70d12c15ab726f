"""How a phase of each kind is built and trained. `mllmrec.config.kinds` names these functions."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from mllmrec.config.phases import ANSWERS, LEAST
from mllmrec.errors import UserError
from mllmrec.phases.base import Learner, OptimizerSettings
from mllmrec.phases.dpo import Dpo
from mllmrec.phases.drawn_pairs import DrawnDpo, pairs_of
from mllmrec.phases.expert_iteration import ExpertIteration, RoundSettings, updates_of
from mllmrec.phases.grpo import Grpo
from mllmrec.phases.heldout import HeldOutMeasure
from mllmrec.phases.inputs import PhaseInputs, Trained, batch_size_of, examples_of, of_rewards, plan_of
from mllmrec.phases.kept_rollouts import kept_steps, whole_groups
from mllmrec.phases.pointwise import Pointwise
from mllmrec.phases.progress import PracticeProgress
from mllmrec.phases.run import fit
from mllmrec.phases.sft import Sft, SftMore
from mllmrec.phases.training_free import PracticeSettings, TrainingFree
from mllmrec.phases.warmup import Warmup, training_sequences
from mllmrec.prompts.examples import Example, Forms
from mllmrec.reasoners.base import HistoryItem
from mllmrec.rl.batch import RolloutBatch
from mllmrec.rl.parts import REFERENCE, TEACHER, Part
from mllmrec.rl.regularizers import KlToReference, Regularizer
from mllmrec.run.rollouts import RolloutWriter
from mllmrec.samples.item_texts import described_items
from mllmrec.step.angles import angles_of
from mllmrec.step.collector import Collector
from mllmrec.step.names import Names
from mllmrec.step.policy_gradient import PolicyGradient, StepSettings
from mllmrec.step.refill import Dynamic, Refill
from mllmrec.step.sampler import count_steps, shuffled_batches
from mllmrec.step.speaker import Speaker

Loggers = Sequence[Logger]


def fit_warmup(inputs: PhaseInputs, loggers: Loggers, measure: HeldOutMeasure | None) -> Trained:
    """Next-item prediction on item ids; ranks nobody while it trains."""
    settings, job = inputs.settings, inputs.job
    sequences = training_sequences(job.prepared.train.samples, settings.length)
    batches = _shuffled(inputs, len(sequences))
    job.policy.model.requires_grad_(True)
    module = Warmup(
        job.policy.model,
        job.answers.first_tokens(),
        _optimizer(settings),
        updates=len(batches),
        dropout=settings.dropout,
    )
    return Trained(fit(module, sequences, batches, inputs, loggers, None))


def fit_sft(inputs: PhaseInputs, loggers: Loggers, measure: HeldOutMeasure | None) -> Trained:
    """The true answers, or the answers that an earlier phase drew."""
    if inputs.phase.own(ANSWERS) is not None:
        return _fit_drawn(inputs, loggers, measure)
    job = inputs.job
    plan = plan_of(inputs.cfg, job.prepared, inputs.phase, batch_size=inputs.settings.batch_size)
    _begin(inputs)
    module = _supervised(Sft, len(plan), inputs, curriculum=inputs.cfg.prompt.curriculum)
    forms = Forms(examples_of(inputs.cfg, job.prepared, inputs.phase))
    return Trained(fit(module, forms, plan, inputs, loggers, measure))


def _fit_drawn(inputs: PhaseInputs, loggers: Loggers, measure: HeldOutMeasure | None) -> Trained:
    source = str(inputs.phase.own(ANSWERS))
    least = inputs.phase.own(LEAST, 1.0)
    answers = _answers_of(inputs, source, least)
    batches = _shuffled(inputs, len(answers))
    _begin(inputs)
    module = _supervised(Sft, len(batches), inputs)
    return Trained(fit(module, answers, batches, inputs, loggers, measure))


def _answers_of(inputs: PhaseInputs, source: str, least: float) -> list[Example]:
    drawn = inputs.job.drawn.get(source, [])
    answers = of_rewards(drawn, least)
    if not drawn:
        raise UserError(
            f"phase {inputs.phase.name}: no answer of {source} ended within the length limit, so nothing could be learnt: train "
            f"the phase before {source} for longer, or raise rollout.max_new_tokens or rollout.max_reasoning_tokens"
        )
    if not answers:
        best = max(one.reward for one in drawn)
        raise UserError(
            f"phase {inputs.phase.name}: none of the {len(drawn):,} finished answers of {source} has a reward of {least:g} "
            f"or more (the best has {best:g}), so nothing could be learnt: lower least_reward, or train {source} for longer"
        )
    return answers


def fit_sft_more(inputs: PhaseInputs, loggers: Loggers, measure: HeldOutMeasure | None) -> Trained:
    """The control for GRPO: it reads GRPO's prompts, in GRPO's order."""
    settings = inputs.settings
    plan = plan_of(
        inputs.cfg, inputs.job.prepared, inputs.phase, batch_size=settings.prompts_per_step, purpose="grpo"
    )
    _begin(inputs)
    module = _supervised(SftMore, len(plan), inputs)
    forms = Forms(examples_of(inputs.cfg, inputs.job.prepared, inputs.phase))
    return Trained(fit(module, forms, plan, inputs, loggers, measure))


def _supervised(kind: type[Sft], updates: int, inputs: PhaseInputs, curriculum: str = "none") -> Sft:
    settings, job = inputs.settings, inputs.job
    return kind(
        _learner(inputs),
        job.answers,
        _optimizer(settings),
        updates=updates,
        loss_on=settings.loss_on,
        curriculum=curriculum,
        seed=inputs.cfg.seed,
        reasoning_weight=settings.get("reasoning_weight", 1.0),
    )


def fit_grpo(inputs: PhaseInputs, loggers: Loggers, measure: HeldOutMeasure | None) -> Trained:
    """Rollouts, and updates from their advantages."""
    cfg, settings, job = inputs.cfg, inputs.settings, inputs.job
    advantage, loss = instantiate(cfg.advantage), instantiate(cfg.loss)
    regularizers = _regularizers(cfg, settings)
    sampler = instantiate(cfg.get("sampler"))
    forms = Forms(examples_of(cfg, job.prepared, inputs.phase))
    plan = plan_of(
        cfg,
        job.prepared,
        inputs.phase,
        batch_size=settings.prompts_per_step,
        sampler=sampler,
        angles=lambda codes: angles_of(job.policy, [forms[code].prompt for code in codes]),
    )
    refill = None
    if isinstance(sampler, Dynamic):
        refill = Refill(sampler, lambda count: [forms[code] for code in plan.more(count)])
    collector = _collector(inputs, [advantage, loss, *regularizers], refill)
    _begin(inputs, collector)
    generator = None if cfg.get("generator") is None else instantiate(cfg.generator)
    if generator is not None:
        from mllmrec.step.served import Served  # needs an optional package

        folder = job.folder.served_path / inputs.phase.name
        collector.speaker.served = Served(generator, job.policy, folder, settings.iterations)
    step = PolicyGradient(
        collector,
        advantage,
        loss,
        StepSettings(
            group_size=settings.group_size,
            micro_batch_size=settings.micro_batch_size,
            iterations=settings.iterations,
            aggregation=settings.aggregation,
            skip_zero_variance=settings.skip_zero_variance,
            log_kl=settings.get("log_kl", False),
            entropy_share=settings.get("entropy_share", 1.0),
            off_policy_limit=settings.get("off_policy_limit"),
            truncate_at=None if generator is None else generator.agreement.truncate_at,
        ),
        regularizers,
    )
    kept = kept_steps(len(plan), cfg.heldout.every)
    begun = inputs.checkpoints.latest()
    with ExitStack() as ends:
        writer = ends.enter_context(
            RolloutWriter(job.folder.rollouts_path, 0 if begun is None else begun.step)
        )
        served = step.speaker.served
        if served is not None:
            ends.enter_context(served)

        def keep(batch: RolloutBatch) -> None:
            inputs.remember(batch)
            shown = plan.shown if refill is None else plan.shown[refill.kept]
            plan.sampler.observe(shown, collector.fill(batch, plan.sampler.needs))
            if settings.rollouts_shown and batch.step in kept:
                writer.append(whole_groups(batch, settings.rollouts_shown))

        most = settings.get("max_generated_tokens")
        ahead = served is not None and served.runs_ahead
        module = Grpo(
            step,
            _optimizer(settings),
            len(plan),
            keep,
            plan.sampler,
            most,
            (lambda step: [forms[code] for code in plan.ahead(step)]) if ahead else None,
        )
        module.written.append(writer)
        selection = fit(module, forms, plan, inputs, loggers, measure)
    return Trained(selection, module.generated_tokens)


def fit_dpo(inputs: PhaseInputs, loggers: Loggers, measure: HeldOutMeasure | None) -> Trained:
    """Preferences for the true answer, or among the answers that an earlier phase drew."""
    if inputs.phase.own(ANSWERS) is not None:
        return _fit_pairs(inputs, loggers, measure)
    settings, job = inputs.settings, inputs.job
    plan = plan_of(inputs.cfg, job.prepared, inputs.phase, batch_size=settings.prompts_per_step)
    job.policy.begin_phase(inputs.phase.name, settings.lora, keep_reference=True)
    module = Dpo(
        _learner(inputs),
        job.answers,
        _optimizer(settings),
        updates=len(plan),
        negatives=settings.negatives,
        beta=settings.beta,
        seed=inputs.cfg.seed,
    )
    forms = Forms(examples_of(inputs.cfg, job.prepared, inputs.phase))
    return Trained(fit(module, forms, plan, inputs, loggers, measure))


def _fit_pairs(inputs: PhaseInputs, loggers: Loggers, measure: HeldOutMeasure | None) -> Trained:
    settings, job, source = inputs.settings, inputs.job, str(inputs.phase.own(ANSWERS))
    pairs = pairs_of(job.drawn.get(source, []), inputs.phase.own(LEAST, 1.0))
    if not pairs:
        raise UserError(
            f"phase {inputs.phase.name}: no prompt of {source} has both an answer with a reward of least_reward or more and one "
            f"with less, so there is nothing to prefer: change least_reward, raise {source}.group_size, or train {source} for longer"
        )
    batches = _shuffled(inputs, len(pairs))
    job.policy.begin_phase(inputs.phase.name, settings.lora, keep_reference=True)
    module = DrawnDpo(
        _learner(inputs),
        job.answers,
        _optimizer(settings),
        updates=len(batches),
        negatives=1,
        beta=settings.beta,
        seed=inputs.cfg.seed,
    )
    return Trained(fit(module, pairs, batches, inputs, loggers, measure))


def fit_expert_iteration(inputs: PhaseInputs, loggers: Loggers, measure: HeldOutMeasure | None) -> Trained:
    """Rollouts, of which SFT learns the good ones."""
    cfg, settings, job = inputs.cfg, inputs.settings, inputs.job
    plan = plan_of(cfg, job.prepared, inputs.phase, batch_size=settings.prompts_per_round)
    collector = _collector(inputs, [])
    _begin(inputs, collector)
    module = ExpertIteration(
        collector,
        _optimizer(settings),
        updates_of([plan.sampler.plan(step) for step in range(len(plan))], settings.batch_size),
        RoundSettings(
            group_size=settings.group_size,
            micro_batch_size=settings.micro_batch_size,
            batch_size=settings.batch_size,
            threshold=settings.threshold,
            repeats=settings.repeats,
            loss_on=settings.loss_on,
        ),
        on_rollouts=inputs.remember,
    )
    forms = Forms(examples_of(cfg, job.prepared, inputs.phase))
    selection = fit(module, forms, plan, inputs, loggers, measure)
    return Trained(selection, module.generated_tokens)


def fit_pointwise(inputs: PhaseInputs, loggers: Loggers, measure: HeldOutMeasure | None) -> Trained:
    """Yes-or-no questions about one candidate."""
    settings, job = inputs.settings, inputs.job
    batches = _shuffled(inputs, len(job.prepared.train))
    _begin(inputs)
    module = Pointwise(
        _learner(inputs),
        job.prepared.questions,
        _optimizer(settings),
        updates=len(batches),
        negatives=settings.negatives,
        seed=inputs.cfg.seed,
    )
    return Trained(fit(module, job.prepared.train, batches, inputs, loggers, measure))


def fit_training_free(inputs: PhaseInputs, loggers: Loggers, measure: HeldOutMeasure | None) -> Trained:
    """Rollouts, and experience that prompts show from then on. It trains nothing, so there is no Trainer."""
    cfg, settings, job, name = inputs.cfg, inputs.settings, inputs.job, inputs.phase.name
    prepared, items = job.prepared, job.prepared.items
    plan = plan_of(cfg, prepared, inputs.phase, batch_size=settings.prompts_per_step)
    forms = Forms(examples_of(cfg, prepared, inputs.phase))
    heldout = cfg.heldout
    practice = TrainingFree(
        _collector(inputs, []),
        prepared.builder,
        instantiate(cfg.experience),
        {
            code: HistoryItem(item, title, prepared.captions.get(item, ""), items.images.get(item))
            for code, (item, title) in enumerate(
                zip(prepared.builder.ids, items.titles.tolist(), strict=True)
            )
        },
        PracticeSettings(
            group_size=settings.group_size,
            micro_batch_size=settings.micro_batch_size,
            most_experiences=settings.most_experiences,
            most_tokens=settings.most_tokens,
            every=heldout.every,
            keep_best=heldout.keep == "best",
            patience=heldout.patience,
        ),
        prepared.history_length,
    )
    practice.name = name
    practice.practise(
        lambda step: [forms[code] for code in plan[step]],
        len(plan),
        loggers,
        measure if heldout.users else None,
        inputs.remember,
        PracticeProgress(inputs, practice),
    )
    job.timer.seconds = practice.seconds
    practice.write(job.folder.experience_path)
    return Trained(None, practice.collector.speaker.generated_tokens)


def _begin(inputs: PhaseInputs, collector: Collector | None = None) -> None:
    """Make the weights of the phase trainable."""
    judges = () if collector is None else (collector.reference, collector.teacher)
    keeps = any(judge is not None and judge.keeps_start for judge in judges)
    inputs.job.policy.begin_phase(inputs.phase.name, inputs.settings.lora, keep_reference=keeps)


def _regularizers(cfg: DictConfig, settings: DictConfig) -> list[Regularizer]:
    """The KL to the reference, if it has a weight, and the regularizers of the configuration under their names."""
    found: list[Regularizer] = []
    if settings.beta > 0:
        found.append(KlToReference(settings.beta, settings.kl, settings.get("kl_ratio", False)))
    for name, part in (cfg.get("regularizers") or {}).items():
        regularizer: Regularizer = instantiate(part)
        regularizer.name = str(name)
        found.append(regularizer)
    return found


def _collector(inputs: PhaseInputs, others: Sequence[Part], refill: Refill | None = None) -> Collector:
    """Rollout, reward and shapers of a phase, with a reference and a teacher if some part needs one."""
    cfg, job = inputs.cfg, inputs.job
    rollout, reward = instantiate(cfg.rollout), instantiate(cfg.reward)
    reward.meet_items(described_items(cfg, job.prepared))
    shapers = [instantiate(shaper) for shaper in (cfg.get("shapers") or {}).values()]
    needs: frozenset[str] = frozenset().union(
        *(part.needs for part in (*rollout.layers, reward, *shapers, *others))
    )
    if inputs.settings.get("log_kl", False):
        needs |= {REFERENCE}
    speaker = Speaker(
        job.policy,
        job.answers,
        job.engine,
        rollout.plain,
        Names.of(job.prepared.builder, examples_of(cfg, job.prepared, inputs.phase)),
        seed=cfg.seed,
        purpose="rollouts" if inputs.phase.name == inputs.phase.kind.name else inputs.phase.name,
        micro_batch_size=inputs.settings.micro_batch_size,
    )
    reference = instantiate(cfg.get("reference")) if REFERENCE in needs else None
    teacher = instantiate(cfg.get("teacher")) if TEACHER in needs else None
    return Collector(
        speaker,
        rollout,
        reward,
        shapers=shapers,
        reference=reference,
        teacher=teacher,
        refill=refill,
    )


def _shuffled(inputs: PhaseInputs, size: int) -> list[Any]:
    settings = inputs.settings
    batch_size = batch_size_of(settings)
    steps = count_steps(size, batch_size, settings.epochs, settings.max_steps)
    return shuffled_batches(size, batch_size, steps, inputs.cfg.seed, inputs.phase.name)


def _learner(inputs: PhaseInputs) -> Learner:
    return Learner(inputs.job.policy, inputs.job.engine, inputs.settings.micro_batch_size)


def _optimizer(settings: DictConfig) -> OptimizerSettings:
    return OptimizerSettings(
        learning_rate=settings.learning_rate,
        schedule=settings.schedule,
        warmup_ratio=settings.warmup_ratio,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
    )
