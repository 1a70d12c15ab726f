"""The main job: data, policy, the method's stages in order, an evaluation before the first and after each."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from mllmrec.cache import atomic_path, write_json
from mllmrec.console import (
    make_console,
    print_closing,
    print_results,
    print_rollouts,
    relative,
    rows_table,
)
from mllmrec.cost import CostMeter
from mllmrec.curves import draw_curves
from mllmrec.engine.base import Engine
from mllmrec.errors import UserError
from mllmrec.evaluation.evaluate import Evaluation
from mllmrec.evaluation.protocol import Protocol
from mllmrec.loggers import RunLoggers
from mllmrec.models.backbones import Backbone
from mllmrec.models.policy import Policy
from mllmrec.prepare import FULL, Prepared, prepare
from mllmrec.progress import track
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.prompts.examples import Examples
from mllmrec.run_folder import RunFolder, read_rollouts
from mllmrec.stages.run import GRPO_DRAW, StageInputs, train_stage

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> float:
    """Run the job in Hydra's output folder; returns the last stage's NDCG at the second cut-off (or the only one)."""
    folder = RunFolder(HydraConfig.get().runtime.output_dir)
    folder.start_afresh()
    with folder.logging_to_file():
        loggers: RunLoggers = instantiate(cfg.logger)
        try:
            return _run(cfg, folder, loggers)
        finally:
            loggers.close()


def _run(cfg: DictConfig, folder: RunFolder, loggers: RunLoggers) -> float:
    with atomic_path(folder.resolved_config_path) as temporary:
        OmegaConf.save(cfg, temporary, resolve=True)
    console = make_console()
    prepared = prepare(cfg)
    engine: Engine = instantiate(cfg.engine)
    protocol = Protocol(cfg.eval, cfg.seed, prepared, engine)
    describe_data(folder, prepared, protocol)
    log.info("data: %s", prepared.summary["used"])
    console.print(rows_table("Data", ("what", "count"), data_rows(prepared)))

    backbone: Backbone = instantiate(cfg.backbone)
    labels = [prepared.builder.label(item) for item in range(len(prepared.items))]
    policy = backbone.build(prepared.corpus(), labels, cfg.seed)
    answers = AnswerTokens(prepared.builder, policy.encode_answers, policy.end_token)
    stages = [
        name for name in cfg.method.stages if name != "warmup" or (backbone.from_scratch and cfg.warmup)
    ]
    longest = cfg.rollout.get("max_new_tokens", 0) if "grpo" in stages else 0
    check_lengths(policy, answers, prompts_used(cfg, stages, prepared, protocol), longest)
    place = torch.device("cuda" if cfg.trainer.accelerator != "cpu" and torch.cuda.is_available() else "cpu")
    policy.model.to(place)
    folder.record_protocol(protocol.describe(), protocol.chance())

    measure = held_out_measure(cfg, prepared, policy, answers, engine)
    results: dict[str, Evaluation] = {"zero_shot": protocol.record("zero_shot", policy, answers, folder)}
    inputs = StageInputs(cfg, prepared, policy, answers, engine, folder)
    for stage in stages:
        with CostMeter() as meter:
            meter.generated_tokens = train_stage(stage, inputs, loggers.for_stage(folder, stage), measure)
        folder.record_cost(stage, meter.cost())
        policy.model.to(place)
        log.info("%s: %s", stage, meter.cost())
        if stage == "warmup":
            continue
        weights = folder.model_path if stage == stages[-1] else folder.checkpoints_path / stage
        policy.save_stage(stage, folder.adapters_path, weights)
        results[stage] = protocol.record(stage, policy, answers, folder)
        earlier = list(results)[-2]
        protocol.record_difference(folder, (stage, results[stage]), (earlier, results[earlier]))
        log.info("%s: %s", stage, folder.metrics()["stages"][stage])
        draw_curves(folder.log_path, folder.curves_path)
    metrics = folder.metrics()
    loggers.log_results(metrics["stages"])
    if "grpo" in stages:
        print_rollouts(read_rollouts(folder.rollouts_path)[-4:], console)
    print_results(metrics, console)
    print_closing(*next_steps(folder, prepared), console)
    return protocol.objective(results[list(results)[-1]])


def describe_data(folder: RunFolder, prepared: Prepared, protocol: Protocol) -> None:
    """Write data.json."""
    summary = dict(prepared.summary)
    described = protocol.describe()
    summary["candidates"] = {
        "num_candidates": FULL if protocol.settings.num_negatives == FULL else described["num_candidates"],
        "negatives": described["negatives"],
        "hash": {described["split"]: described["candidates_hash"]},
    }
    write_json(folder.data_path, summary)


def data_rows(prepared: Prepared) -> list[tuple[str, object]]:
    """The summary's main counts, for the screen."""
    summary = prepared.summary
    rows: list[tuple[str, object]] = [(f"{name} in all", count) for name, count in summary["whole"].items()]
    rows += [
        (f"{name} used", count)
        for name, count in summary["used"].items()
        if count != summary["whole"].get(name)
    ]
    rows += [(f"{name} samples", part["samples"]) for name, part in summary["samples"].items()]
    rows += [("items with image", summary["catalogue"]["with_image"])]
    rows += [(f"captions: {name}", count) for name, count in summary["captions"].items()]
    rows += [("training samples chosen for CoT", summary["cot"]["training_samples_chosen"])]
    rows += [(f"CoT: {name}", count) for name, count in summary["cot"]["coverage"].items()]
    rows += [
        (f"left out: {reason}", count) for reason, count in summary["skipped_at_reading"].items() if count
    ]
    for step, dropped in summary["filters"].get("dropped", {}).items():
        rows += [(f"dropped by {step}: {name}", count) for name, count in dropped.items() if count]
    return rows


def prompts_used(
    cfg: DictConfig, stages: list[str], prepared: Prepared, protocol: Protocol
) -> dict[str, Examples]:
    """Every set of prompts that the run will show to the policy, by what it is for."""
    used = {"training": prepared.train, "evaluation": protocol.examples}
    if "grpo" in stages and cfg.grpo.new_negatives:
        used["GRPO"] = prepared.redraw(GRPO_DRAW)
    return used


def check_lengths(
    policy: Policy, answers: AnswerTokens, parts: dict[str, Examples], longest_completion: int
) -> None:
    """Refuse prompts that the backbone cannot hold, before anything is trained.

    Raises:
        UserError: saying how many prompts are too long, and the longest.
    """
    limit = policy.max_length - max(longest_completion, answers.longest)
    for name, examples in parts.items():
        too_long, longest, sample = 0, 0, ""
        for index in track(range(len(examples)), f"check {name} prompts", len(examples), "prompts"):
            example = examples[index]
            # A token covers at least one byte of the rendered text, so most prompts need no tokenizer.
            if len((policy.render(example.prompt) + example.reasoned_answer).encode()) <= limit:
                continue
            length = len(policy.encode_prompts([example.prompt])[0])
            if example.reasoned_answer:
                length += len(policy.encode_answers([example.reasoned_answer])[0])
            too_long += length > limit
            if length > longest:
                longest, sample = length, examples.samples.sample_id(index)
        if too_long:
            raise UserError(
                f"{too_long} of {len(examples)} {name} prompts are longer than the backbone holds beside an answer "
                f"({limit} of {policy.max_length} tokens); the longest has {longest} (sample {sample}): lower "
                "prompt.history_length, prompt.max_title_words, prompt.max_caption_words or "
                "candidates.num_negatives, or raise backbone.max_length"
            )


def held_out_measure(
    cfg: DictConfig, prepared: Prepared, policy: Policy, answers: AnswerTokens, engine: Engine
) -> Callable[[], dict[str, float]] | None:
    """The ranking of a fixed sample of validation users, or None where there is none to be had."""
    if not cfg.heldout.users or len(prepared.samples["validation"]) == 0 or cfg.eval.ranking == "generate":
        return None
    settings = OmegaConf.merge(
        cfg.eval, {"split": "validation", "max_users": cfg.heldout.users, "cot": False}
    )
    assert isinstance(settings, DictConfig)
    protocol = Protocol(settings, cfg.seed, prepared, engine)
    return lambda: protocol.measure(policy, answers)


def next_steps(folder: RunFolder, prepared: Prepared) -> tuple[list[tuple[str, Path]], list[tuple[str, str]]]:
    """The files and commands to look at after a run."""
    user = prepared.interactions.user_ids[0]
    shown = relative(folder.path)
    return (
        [
            ("all numbers", folder.metrics_path),
            ("rankings per user", folder.per_user_path),
            ("curves", folder.curves_path),
            ("sampled rollouts", folder.rollouts_path),
            ("the data", folder.data_path),
            ("the log", folder.run_log_path),
        ],
        [
            ("recommend", f"python -m mllmrec.recommend run={shown} user={user}"),
            ("another protocol", f"python -m mllmrec.evaluate run={shown} eval.num_negatives=99"),
        ],
    )
