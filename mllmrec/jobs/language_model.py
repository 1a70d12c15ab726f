"""The job of a language model: it runs the method's phases in order and evaluates before the first and after each."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from mllmrec.config.capabilities import innermost
from mllmrec.config.kinds import stage_title
from mllmrec.config.phases import ANSWERS, Phase, phases_of
from mllmrec.engine.base import Engine
from mllmrec.errors.disk import about
from mllmrec.evaluation.evaluate import Evaluation
from mllmrec.evaluation.protocol import Protocol
from mllmrec.evaluation.ranking import Ranker
from mllmrec.inference.base import InferenceInputs, described, inference_of
from mllmrec.jobs.baseline import train_item_vectors
from mllmrec.jobs.beside import rank_baselines
from mllmrec.jobs.learnt_reasoning import check_learnt_reasoning
from mllmrec.jobs.new_run import NewRun
from mllmrec.models.backbones import Backbone
from mllmrec.models.policy import Policy
from mllmrec.models.prompt_lengths import check_lengths, check_question_lengths, keep_to_engine
from mllmrec.models.selection import Selection
from mllmrec.phases.heldout import HeldOutMeasure
from mllmrec.phases.inputs import JobInputs, PhaseInputs, examples_of
from mllmrec.phases.key import PhaseKey
from mllmrec.phases.remembered import note, recall
from mllmrec.phases.run import train_phase
from mllmrec.phases.store import OneJob, PhaseStore
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.prompts.examples import Examples
from mllmrec.prompts.page import PromptSet, write_prompts
from mllmrec.ranks import the_ranks
from mllmrec.run.checkpoints import Schedule
from mllmrec.run.cost import CostMeter
from mllmrec.run.curves import draw_curves
from mllmrec.samples.item_texts import described_items
from mllmrec.samples.prepared import Prepared
from mllmrec.screen.transformers_output import warn_through_our_log
from mllmrec.step.together import read_together
from mllmrec.store.rankings import RankingStore

log = logging.getLogger(__name__)


def run_language_model(run: NewRun) -> Evaluation:
    """Train the phases of ``method.phases``; write the results of each as soon as they are known.

    Returns:
        The evaluation after the last phase under the main protocol.
    """
    cfg, prepared, protocols, folder, loggers = run.cfg, run.prepared, run.protocols, run.folder, run.loggers
    warn_through_our_log()
    engine: Engine = instantiate(cfg.engine)
    backbone: Backbone = instantiate(cfg.backbone)
    by_id = prepared.builder.naming.label == "id"
    labels = [prepared.builder.label(item) for item in range(len(prepared.items))] if by_id else []
    policy = backbone.build(prepared.corpus(), labels, cfg.seed)
    policy.system = cfg.prompt.get("system")
    policy.asks = prepared.builder.asks_for_reasoning
    keep_to_engine(policy, engine)
    policy.meet_items(prepared.items)
    reads_vectors = cfg.prompt.item_tokens == "vector"
    if reads_vectors:
        policy.add_marks(prepared.builder.marks())
    answers = AnswerTokens(prepared.builder, policy.encode_answers, policy.end_token)
    phases = trained_phases(cfg, backbone.from_scratch)
    policy.reserved = max(
        (phase.config(cfg)[phase.kind.name].get("most_tokens", 0) for phase in phases), default=0
    )
    check_prompts(run, phases, policy, answers)
    check_rewards(run, phases)
    check_servers(run, phases, policy)
    if phases and labels and backbone.from_scratch:
        warn_of_new_tokens(run)
    run.begin()
    write_prompts(folder.prompts_path, policy.render, prompt_sets(run, phases), cfg.seed)
    if reads_vectors:
        policy.read_items(train_item_vectors(run), cfg.seed)
    place = torch.device("cuda" if cfg.trainer.accelerator != "cpu" and torch.cuda.is_available() else "cpu")
    policy.model.to(place)
    protocols.describe(further=described(cfg.get("inference")))
    folder.record_reasoning(prepared.summary["cot"]["mix_ratio"], prepared.summary["cot"]["share"])
    loggers.log_protocol(folder.metrics()["protocol"])
    rank_baselines(cfg, prepared, protocols)

    measure, held_out = None, run.held_out
    if held_out is not None:

        def measured() -> dict[str, float]:
            with read_together(policy):
                return held_out.measure(held_out.ranker(policy, answers, engine))

        measure = HeldOutMeasure(measured, held_out.objective)
    job = JobInputs(cfg, prepared, policy, answers, engine, folder, Schedule(**cfg.checkpoint))
    inference, ranks = inference_of(cfg), the_ranks()
    learnt_later = {phase.own(ANSWERS) for phase in phases}

    def train(inputs: PhaseInputs) -> Selection | None:
        phase, prompts, tokens = inputs.phase, policy.prompts_read, policy.prompt_tokens_read
        with CostMeter() as meter:
            trained = train_phase(inputs, loggers.for_stage(folder, phase.name), measure)
            meter.generated_tokens = trained.generated_tokens
        meter.earlier = job.timer.earlier
        meter.prompts, meter.prompt_tokens = policy.prompts_read - prompts, policy.prompt_tokens_read - tokens
        meter.step_seconds = job.timer.seconds
        folder.record_cost(phase.name, meter.cost())
        policy.model.to(place)
        log.info("%s: %s", phase.name, meter.cost())
        return trained.selection

    def ranker(protocol: Protocol) -> Ranker:
        return inference.ranker(InferenceInputs(cfg, protocol, policy, answers, engine))

    job_key = "" if run.job.attempt is None else run.job.attempt.job
    done = PhaseStore(folder.resume_path / "phases", OneJob(job_key))
    store = rankings = None
    if cfg.share_stages:
        if RankingStore.can_keep(cfg) and not described(cfg.get("inference")):
            rankings = RankingStore(
                Path(cfg.cache_dir) / "rankings", cfg, policy, answers, len(prepared.items)
            )
        key = PhaseKey(cfg, prepared, policy, answers, held_out)
        store = PhaseStore(Path(cfg.cache_dir) / "stages", key)
    result = protocols.record("zero_shot", ranker, rankings)
    drawn = monotonic()
    for count, phase in enumerate(phases, 1):
        so_far = phases[:count]
        inputs = PhaseInputs(phase, job, phase.config(cfg), remembers=phase.name in learnt_later)
        selection, restored = None, False
        if done.keeps(so_far):
            with ranks.leader_first():
                selection, restored = done.restore(so_far, cfg, policy, folder)
        if restored:
            recall(inputs)
        elif store is not None and store.keeps(so_far):
            with store.alone(so_far) if ranks.leads else nullcontext():
                with ranks.leader_first():
                    selection, restored = store.restore(so_far, cfg, policy, folder)
                if not restored:
                    selection = train(inputs)
                    if ranks.leads:
                        store.keep(so_far, policy, folder, selection)
        else:
            selection = train(inputs)
            if done.keeps(so_far) and ranks.leads:
                note(inputs)
                done.keep(so_far, policy, folder, selection)
        if ranks.leads and phase.kind.trains:
            # The end of a phase that trains no weights is in its last checkpoint.
            inputs.checkpoints.clear()
        name = phase.name
        # Whole weights are saved again, so that the run's last folder is complete; an adapter there would not be.
        if ranks.leads and phase.kind.data != "sequences" and (phase.kind.trains or policy.lora is None):
            weights = folder.model_path if phase is phases[-1] else folder.checkpoints_path / name
            with about(policy.folder_of(name, folder.adapters_path, weights)):
                policy.save_phase(name, folder.adapters_path, weights)
        result = protocols.record(name, ranker, rankings)
        log.info("%s: %s", name, folder.metrics()["stages"][name])
        measures = protocols.main.measures_faithfulness and not inference.draws
        if measures and phase.kind.data != "sequences":
            protocols.record_faithfulness(
                name, lambda shown: protocols.main.ranker(policy, answers, engine, shown), rankings
            )
        if selection is not None:
            with policy.with_weights(selection.other):
                protocols.record_selection(name, selection, ranker if selection.other else None, rankings)
        # The whole job's curves are drawn at its end; a picture takes half a second, so not after phases of seconds.
        if ranks.leads and phase is not phases[-1] and monotonic() - drawn > 20:
            draw_curves(folder.log_path, folder.curves_path)
            drawn = monotonic()
    return result


def trained_phases(cfg: DictConfig, from_scratch: bool) -> list[Phase]:
    """The phases that a run trains: those of its method, without the warm-up if the backbone has none."""
    return [
        phase
        for phase in phases_of(cfg)
        if phase.kind.data != "sequences" or (from_scratch and cfg[phase.kind.name])
    ]


def training_prompts(cfg: DictConfig, phases: Sequence[Phase], prepared: Prepared) -> dict[str, Examples]:
    """Every set of training prompts: the common one, and a separate one for each phase that has other prompts."""
    used: dict[str, Examples] = {}
    for phase in phases:
        if phase.kind.data not in ("samples", "prompts"):
            continue
        used.setdefault("training", prepared.train)
        examples = examples_of(phase.config(cfg), prepared, phase)
        if examples is not prepared.train:
            used[phase.name] = examples
    return used


def check_prompts(run: NewRun, phases: Sequence[Phase], policy: Policy, answers: AnswerTokens) -> None:
    """Refuse a run with prompts that the policy cannot hold, or with limits that cut off the reasoning that it learns.

    Raises:
        UserError: some are too long; it says how many, and how long the longest is.
    """
    cfg, prepared = run.cfg, run.prepared
    check_learnt_reasoning(cfg, phases, prepared, policy)
    drawn = [innermost(phase.config(cfg).rollout) for phase in phases if phase.kind.rolls_out]
    longest = [_longest_completion(rollout, policy, answers) for rollout in drawn]
    check_lengths(policy, answers, training_prompts(cfg, phases, prepared), max(longest, default=0))
    if any(phase.kind.data == "questions" for phase in phases):
        check_question_lengths(policy, prepared.questions, {"training": prepared.train})
    for place in run.protocols:
        other = "" if place.protocol is run.protocols.main else " among other negatives"
        place.protocol.check_lengths(policy, answers, f"evaluation{other}")
    if run.held_out is not None:
        run.held_out.check_lengths(policy, answers, "held-out")


def _longest_completion(rollout: Mapping[str, Any], policy: Policy, answers: AnswerTokens) -> int:
    """The most tokens of a rollout; 0 if it ends with the answer."""
    if budget := rollout.get("max_reasoning_tokens"):
        return int(policy.reasoning_tokens().around + budget + answers.longest)
    return int(rollout.get("max_new_tokens") or 0)


def warn_of_new_tokens(run: NewRun) -> None:
    """Say that answers cannot find cold items if each item's id is a token that only training can teach."""
    if "cold_items" in run.prepared.summary and run.cfg.eval.ranking != "pointwise":
        log.warning(
            "split=cold_items: an answer begins with the item's id, which is a token of its own, and training never shows "
            "those of cold items; expect rankings at chance. method=pointwise judges titles and captions instead, and "
            "method=sasrec_text reads them (experiments/cold_items.md)"
        )


def check_rewards(run: NewRun, phases: Sequence[Phase]) -> None:
    """Refuse a run with a reward that cannot work with these items.

    Raises:
        UserError: one of the rewards says so.
    """
    items = described_items(run.cfg, run.prepared)
    for phase in phases:
        if "reward" in phase.kind.parts:
            instantiate(phase.config(run.cfg).reward).meet_items(items)


def check_servers(run: NewRun, phases: Sequence[Phase], policy: Policy) -> None:
    """Refuse a run whose rollouts are to be drawn by a server that cannot.

    Raises:
        UserError: in one sentence, why not.
    """
    rank = 0  # of all adapters so far
    for phase in phases:
        seen = phase.config(run.cfg)
        if phase.kind.trains and phase.kind.data != "sequences":
            changed = seen[phase.kind.name].get("lora") or {}
            rank += changed.get("rank") or (seen.backbone.get("lora") or {}).get("rank") or 0
        if "generator" in phase.kind.parts and seen.get("generator") is not None:
            from mllmrec.step.server_check import check_server  # needs an optional package

            rollout = innermost(seen.rollout)
            check_server(
                instantiate(seen.generator),
                policy,
                run.folder.served_path,
                rank=rank,
                temperature=rollout["temperature"],
                top_p=rollout.get("top_p", 1.0),
            )


def prompt_sets(run: NewRun, phases: Sequence[Phase]) -> list[PromptSet]:
    """The prompts of every phase and every evaluation, for people to read."""
    prepared = run.prepared
    used = training_prompts(run.cfg, phases, prepared)
    everyone = range(len(prepared.train))
    sets = [
        PromptSet(
            stage_title(phase.name),
            used.get(phase.name, prepared.train),
            everyone,
            prepared.questions if phase.kind.data == "questions" else None,
        )
        for phase in phases
        if phase.kind.data != "sequences"
    ]
    for place in run.protocols:
        protocol = place.protocol
        described = protocol.describe()
        title = f"Evaluation ({described['split']}, {described['negatives']} negatives)"
        questions = prepared.questions if described["ranking"] == "pointwise" else None
        sets.append(PromptSet(title, protocol.examples, protocol.positions, questions))
    return sets
