"""The main job: prepare the data, train what the method trains, then write tables and files."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from mllmrec.cache import fingerprint
from mllmrec.config.trust import named_in
from mllmrec.config.typed import typed
from mllmrec.evaluation.protocol import Protocol
from mllmrec.evaluation.protocols import Protocols, beside_protocol, main_protocol
from mllmrec.jobs.judge import open_judge
from mllmrec.jobs.new_run import NewRun
from mllmrec.jobs.results_tables import print_results, print_rollouts
from mllmrec.ranks import the_ranks
from mllmrec.run.attempt import Attempt
from mllmrec.run.folder import RunFolder
from mllmrec.run.input_files import InputFiles
from mllmrec.run.job_folder import JobFolder, alone_in, refuse_finished
from mllmrec.run.loggers import Labels, RunLoggers
from mllmrec.run.one_process import warn_of_copies
from mllmrec.run.processes import FollowersFolder, NoLoggers, dismiss, following, follows, together
from mllmrec.run.rollouts import read_rollouts
from mllmrec.run.settings import of_results
from mllmrec.samples.prepare import prepare
from mllmrec.samples.prepared import Prepared
from mllmrec.screen.console import make_console, print_closing, relative, rows_table

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> float:
    """Run the job in Hydra's output folder; return the last phase's NDCG at the second cut-off (or the only one).

    Raises:
        UserError: the folder holds a finished run that must not be replaced, another job works in it, or the data has
            faults.
    """
    if follows(cfg.trainer):
        return _follow(cfg)
    folder = RunFolder(HydraConfig.get().runtime.output_dir)
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    computed = of_results(plain)
    config = fingerprint(computed)
    # A job of a killed sweep may still be running: let it end first, and use its result.
    with alone_in(folder, wait=cfg.skip_finished):
        if folder.is_finished:
            folder.forget_attempts()  # a kill may have met the run between its end and this
        inputs = InputFiles(plain, written=[folder.path, Path(cfg.cache_dir)])
        if cfg.skip_finished and (objective := folder.finished(config, inputs)) is not None:
            make_console().print(f"finished before: {relative(folder.path)}", highlight=False)
            dismiss(cfg.trainer)
            return objective
        refuse_finished(folder, cfg.overwrite)
        # Before the job reads any of them, so that an edit during the job counts as an edit.
        attempt = Attempt(folder, computed, inputs, inputs.record())
        goes_on = cfg.resume == "auto" and attempt.goes_on(overwrite=cfg.overwrite)
        job = JobFolder(folder, cfg, attempt, goes_on)
        with job.working(), together(cfg.trainer):
            if not the_ranks().several:
                warn_of_copies()
            told = (folder.path, goes_on)
            the_ranks().of_leader(lambda: told)
            loggers: RunLoggers = instantiate(cfg.logger)
            try:
                loggers.start(folder, labels(folder, attempt.earlier_name() if goes_on else None), plain)
                attempt.logged_as = loggers.known
                objective = _run(cfg, job, loggers)
            except BaseException:
                loggers.close(failed=True)
                raise
            loggers.close()
        folder.finish(config, objective, attempt.record)
        folder.forget_attempts()
    return objective


def _follow(cfg: DictConfig) -> float:
    """What a process beside the first does: the same job, whose files nobody reads."""
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    computed = of_results(plain)
    with following() as scratch, together(cfg.trainer):
        told: tuple[Path, bool] | None = the_ranks().of_leader(lambda: None)
        if told is None:
            return 0.0  # the first process has nothing to do
        path, goes_on = told
        folder = FollowersFolder(scratch, RunFolder(path).resume_path)
        attempt = Attempt(folder, computed, InputFiles(plain, written=[path, Path(cfg.cache_dir)]), {})
        return _run(cfg, JobFolder(folder, cfg, attempt, goes_on), NoLoggers())


def _run(cfg: DictConfig, job: JobFolder, loggers: RunLoggers) -> float:
    folder = job.folder
    console = make_console()
    classical = cfg.method.recommender is not None
    # Whoever typed the settings trusts what they name.
    judge = partial(open_judge, trust=named_in(OmegaConf.to_container(cfg, resolve=True)))
    with the_ranks().leader_first():  # the others find what it has downloaded and written
        prepared = prepare(cfg, not classical, judge)  # a classical recommender reads no prompt
    judged = (cfg.eval, cfg.candidates.weighting, cfg.protocol_seed, prepared)
    protocols = Protocols(main_protocol(*judged), beside_protocol(*judged), folder, resumable=True)
    new = NewRun(cfg, prepared, protocols, held_out_protocol(cfg, prepared), job, loggers)
    log.info("data: %s", prepared.summary["used"])
    console.print(rows_table("Data", ("what", "count"), data_rows(prepared)))
    # Only the one that is needed: the libraries of a language model take seconds to import.
    if classical:
        from mllmrec.jobs.baseline import run_baseline as train
    else:
        from mllmrec.jobs.language_model import run_language_model as train
    result = train(new)
    if folder.log_path.exists():
        from mllmrec.run.curves import draw_curves

        draw_curves(folder.log_path, folder.curves_path)
    loggers.log_results(folder)
    if folder.rollouts_path.exists():
        print_rollouts(read_rollouts(folder.rollouts_path)[-4:], console)
    for place in protocols:
        print_results(place.folder.metrics(), console)
    print_closing(*next_steps(folder, prepared, cfg.eval.ranking), console)
    return protocols.main.objective(result.means(protocols.main.ks))


def labels(folder: RunFolder, known: str | None = None) -> Labels:
    """The names of this run in services that show many: the sweep, the folder, the choices of the main groups.

    Args:
        folder: the run's folder.
        known: the service's own name for the run that an earlier attempt at the job began.
    """
    hydra = HydraConfig.get()
    chosen = hydra.runtime.choices
    group = None
    if hydra.mode == RunMode.MULTIRUN:
        group = chosen.get("experiment") or Path(hydra.sweep.dir).name
    groups = ("dataset", "method", "variant", "backbone", "cot_policy")
    tags = [f"{name}={chosen[name]}" for name in groups if chosen.get(name) not in (None, "null")]
    return Labels(group, folder.path.name, tags, known)


def data_rows(prepared: Prepared) -> list[tuple[str, object]]:
    """The main counts of the data summary, for the screen."""
    summary = prepared.summary
    rows: list[tuple[str, object]] = [(f"{name} in all", count) for name, count in summary["whole"].items()]
    rows += [
        (f"{name} used", count)
        for name, count in summary["used"].items()
        if count != summary["whole"].get(name)
    ]
    rows += [(f"{name} samples", part["samples"]) for name, part in summary["samples"].items()]
    rows += [
        (f"{name} targets in no training sequence", count)
        for name, part in summary["samples"].items()
        if (count := part["targets_unseen_in_training"])
    ]
    rows += [("items kept out of training", summary["cold_items"])] if "cold_items" in summary else []
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


def held_out_protocol(cfg: DictConfig, prepared: Prepared) -> Protocol | None:
    """The protocol that ranks a fixed sample of validation users during training, or None if there is no sample.

    Generated answers are slow, and a policy early in its training names few items. So if results are ranked by generated
    answers, held-out users are ranked by the likelihood of every answer. Ranked lists cannot be measured in this way,
    since no item is a whole answer: they are generated for held-out users, too.
    """
    if not cfg.heldout.users:
        return None
    if len(prepared.samples["validation"]) == 0:
        log.warning(
            "heldout.users=%d, but the split has no validation users: nothing is ranked while phases train, and each "
            "phase ends with its last weights",
            cfg.heldout.users,
        )
        return None
    single = cfg.prompt.get("places", 1) == 1
    ranking = "likelihood" if cfg.eval.ranking == "generate" and single else cfg.eval.ranking
    # No reasoning is written for held-out users. Their prompts ask for reasoning if the results' prompts do.
    cot = False if cfg.eval.cot is True else cfg.eval.cot
    settings = OmegaConf.merge(
        cfg.eval,
        {"split": "validation", "max_users": cfg.heldout.users, "cot": cot, "ranking": ranking},
    )
    assert isinstance(settings, DictConfig)
    return main_protocol(settings, cfg.candidates.weighting, cfg.protocol_seed, prepared)


def next_steps(
    folder: RunFolder, prepared: Prepared, ranking: str
) -> tuple[list[tuple[str, Path]], list[tuple[str, str]]]:
    """The files and commands to look at after a run."""
    user = prepared.interactions.user_ids[0]
    shown = relative(folder.path)
    # Generated answers need a list of all candidates, which would be longer than any training list.
    # A constrained score is renormalised in its list, and a hundred candidates take several.
    scored = " eval.ranking=likelihood" if ranking in ("generate", "constrained") else ""
    listed = ""
    if prepared.builder.naming.by_place and ranking != "pointwise":  # such names need a list
        some = prepared.items.ids[prepared.items.offered][: prepared.trained_list]
        listed = f" {typed('candidates', some.tolist())}"
    # A share of the items may hold fewer than a hundred, and no list holds all of them.
    other = "eval.split=validation" if prepared.only_cold else f"eval.num_negatives=99{scored}"
    return (
        [
            ("all numbers", folder.metrics_path),
            ("rankings per user", folder.per_user_path),
            ("among other negatives", folder.beside_path),
            ("curves", folder.curves_path),
            ("some prompts", folder.prompts_path),
            ("sampled rollouts", folder.rollouts_path),
            ("the data", folder.data_path),
            ("the log", folder.run_log_path),
        ],
        [
            ("recommend", f"python -m mllmrec.recommend {typed('run', shown)} {typed('user', user)}{listed}"),
            (
                "another protocol",
                f"python -m mllmrec.evaluate {typed('run', shown)} {other}",
            ),
        ],
    )
