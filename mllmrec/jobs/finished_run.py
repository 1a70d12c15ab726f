"""Opens a finished run again: its configuration, its data and its trained model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mllmrec.baselines.base import Recommender
from mllmrec.baselines.ranking import RecommenderRanker
from mllmrec.config import check_config
from mllmrec.config.phases import phases_of
from mllmrec.config.trust import refuse_strangers, trusted
from mllmrec.engine.base import Engine
from mllmrec.errors import ConfigError, UserError, choices
from mllmrec.evaluation.calibration import calibrated, calibration
from mllmrec.evaluation.pointwise import yes_scores
from mllmrec.evaluation.protocol import Protocol
from mllmrec.evaluation.ranking import Likelihood, Ranker, ScoringRanker, candidate_scores
from mllmrec.evaluation.reasoned import AfterReasoning, Shown
from mllmrec.experience.library import Library
from mllmrec.inference.base import Inference, InferenceInputs
from mllmrec.jobs.judge import open_judge
from mllmrec.models.backbones import Backbone
from mllmrec.models.policy import Policy
from mllmrec.models.prompt_lengths import keep_to_engine
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.prompts.examples import Example, Examples
from mllmrec.prompts.profiles import SecondPrompt
from mllmrec.run.folder import RunFolder
from mllmrec.run.job_folder import rankings_alone, unfinished
from mllmrec.run.settings import read_settings
from mllmrec.samples.prepare import prepare
from mllmrec.samples.prepared import Prepared

log = logging.getLogger(__name__)

# Evaluated, but not saved as policies of their own.
NOT_SAVED = ("zero_shot", "warmup")


@dataclass(frozen=True)
class Query:
    """Items that are to be scored behind one history."""

    history: Sequence[int]  # item codes, oldest first
    items: Sequence[int]  # C item codes
    listed: bool  # whether the prompt lists them


@dataclass(frozen=True)
class Scored:
    """What a run says about the items of a query."""

    scores: np.ndarray  # (C,) float64, greater is better
    reasoning: tuple[str, ...] = ()  # the pieces of reasoning behind the scores; empty if the run writes none


@dataclass(frozen=True)
class FinishedRun:
    """A finished run of a language model."""

    cfg: DictConfig
    stage: str
    prepared: Prepared
    policy: Policy
    answers: AnswerTokens
    engine: Engine
    ranking = None  # None: as its settings say

    def ranker(self, protocol: Protocol, shown: Shown = "own", inference: Inference | None = None) -> Ranker:
        """The ranker for a protocol, whose prompts must fit the backbone.

        Args:
            protocol: what is ranked.
            shown: what stands before the answer if the policy reasons first.
            inference: how a ranking comes from answers; None: as ``eval.ranking`` says.
        """
        protocol.check_lengths(self.policy, self.answers, "evaluation")
        if inference is not None:
            return inference.ranker(
                InferenceInputs(self.cfg, protocol, self.policy, self.answers, self.engine)
            )
        return protocol.ranker(self.policy, self.answers, self.engine, shown)

    @property
    def reasons(self) -> bool:
        """Whether the policy writes reasoning or a profile before it ranks."""
        return self.cfg.eval.ranking == "reasoned" and self.prepared.asks_under(self.cfg.eval)

    def scores(self, history: Sequence[int], items: Sequence[int], listed: bool) -> np.ndarray:
        """`scored` of one query: (C,)."""
        return self.scored([Query(history, items, listed)])[0].scores

    def scored(self, queries: Sequence[Query]) -> list[Scored]:
        """How well items follow histories: log-probabilities; of being named first if answers are lists.

        They are corrected as the run's evaluations were (``eval.calibrate``, ``eval.normalise``).

        Args:
            queries: scored together, in one pass for those whose prompts list items and one for the others.
        """
        found: dict[int, Scored] = {}
        for listed in (True, False):
            places = [place for place, query in enumerate(queries) if query.listed == listed]
            if places:
                examples = [self._example(queries[place]) for place in places]
                found.update(zip(places, self._scored(examples, listed), strict=True))
        return [found[place] for place in range(len(queries))]

    def _example(self, query: Query) -> Example:
        shown = list(query.history)[-self.prepared.history_length :]
        items = np.array(query.items)
        builder, second = self.prepared.builder, None
        if self.prepared.use_of_cot(self.cfg.eval).placement == "profile":
            prompt = builder.describing_prompt(shown)
            second = SecondPrompt(builder, items, query.listed)
        else:
            asks = self.prepared.asks_under(self.cfg.eval)
            prompt = builder.prompt(shown, query.items if query.listed else None, think=asks)
        return Example(
            "recommend",
            "recommend",
            prompt,
            query.items[0],
            items,
            0,
            False,
            history=np.array(query.history),
            second=second,
        )

    def _scored(self, examples: Sequence[Example], listed: bool) -> list[Scored]:
        with torch.no_grad():
            if self.cfg.eval.ranking == "pointwise":
                rows = yes_scores(self.policy, self.engine, self.prepared.questions, examples)
            elif self.reasons:
                rows, said = self._after_reasoning().explained(examples)
                return [Scored(row, texts) for row, texts in zip(rows, said, strict=True)]
            elif calibration(self.cfg.eval):
                rows = self._calibrated(listed).scores(examples)
            else:
                single = self.prepared.builder.places == 1
                table = candidate_scores(
                    self.policy,
                    self.answers if single else self.answers.openings,
                    examples,
                    constrained=False,
                    engine=self.engine,
                )
                rows = [row[: len(example.candidates)] for row, example in zip(table, examples, strict=True)]
        return [Scored(row) for row in rows]

    def _calibrated(self, listed: bool) -> ScoringRanker:
        train = self.prepared.train
        examples = Examples(
            train.samples,
            self.prepared.builder,
            train.candidates_of,
            history_length=self.prepared.history_length,
            list_size=None if listed else 0,
            cot=self.prepared.use_of_cot(self.cfg.eval),
        )
        settings = dict(self.cfg.eval)
        if not listed and settings["calibrate"] == "permute":  # without a list there are no orders
            settings["calibrate"] = "none"
        likelihood = Likelihood(self.policy, self.answers, self.engine, self.prepared.seed)
        return calibrated(likelihood, examples, settings)

    def _after_reasoning(self) -> AfterReasoning:
        settings = self.cfg.eval
        return AfterReasoning(
            self.policy,
            self.answers,
            self.engine,
            self.prepared.seed,
            samples=settings.reasoning_samples,
            max_tokens=settings.max_reasoning_tokens,
        )


@dataclass(frozen=True)
class FinishedBaseline:
    """A finished run of a classical recommender."""

    cfg: DictConfig
    stage: str
    prepared: Prepared
    recommender: Recommender
    ranking = RecommenderRanker.name
    reasons = False

    def ranker(self, protocol: Protocol) -> Ranker:
        """The ranker for a protocol."""
        return RecommenderRanker(self.recommender, protocol.seed)

    def scores(self, history: Sequence[int], items: Sequence[int], listed: bool) -> np.ndarray:
        """`scored` of one query: (C,)."""
        return self.scored([Query(history, items, listed)])[0].scores

    def scored(self, queries: Sequence[Query]) -> list[Scored]:
        """How well items follow histories; ``listed`` plays no part."""
        rows = self.recommender.scores(
            [np.array(query.history) for query in queries], [np.array(query.items) for query in queries]
        )
        return [Scored(row) for row in rows]


def open_run(
    path: str,
    stage: str | None,
    training: bool = False,
    trust: Sequence[str] = (),
    prepared: Prepared | None = None,
) -> FinishedRun | FinishedBaseline:
    """Open a run after ``stage``; None means its last one. It logs a warning if the run did not finish.

    Args:
        path: the run's folder.
        stage: a phase that the run trained.
        training: whether its training samples should carry reasoning; missing reasoning is written anew.
        trust: see `settings_of_run`.
        prepared: the run's data, if another phase of it is open; None: it is read.

    Raises:
        UserError: the run or phase does not exist, nothing was trained, or the settings name what nobody trusts.
    """
    folder, cfg = RunFolder.of_finished_run(path), settings_of_run(path, trust)
    try:
        judge = partial(open_judge, trust=trust)
        return _opened(folder, cfg, stage, lambda: prepared or prepare(cfg, training, judge))
    except (OmegaConfBaseException, InstantiationException) as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from error
        first = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{folder.resolved_config_path} holds settings that this version cannot use: {first}"
        ) from error


def _opened(
    folder: RunFolder, cfg: DictConfig, stage: str | None, data: Callable[[], Prepared]
) -> FinishedRun | FinishedBaseline:
    path = folder.path
    trained = [name for name in folder.metrics()["stages"] if name not in NOT_SAVED]
    state = unfinished(folder)
    why = "" if state is None else f" ({state})"
    if not trained:
        raise UserError(f"{path} holds no trained phase{why}")
    if stage is not None and stage not in trained:
        raise UserError(f"{path} has no phase {stage}; it has {choices(trained)}{why}")
    stage = stage or trained[-1]
    if state is not None:
        log.warning(
            "%s did not finish (%s): it has weights of %s; the weights after %s are used",
            path,
            state,
            ", ".join(trained),
            stage,
        )
    if cfg.method.recommender is not None:
        recommender: Recommender = instantiate(cfg.method.recommender)
        prepared = data()
        recommender.load(folder.model_path, len(prepared.items))
        return FinishedBaseline(cfg, stage, prepared, recommender)
    so_far = trained[: trained.index(stage) + 1]
    policy = load_policy(cfg, folder, so_far)
    prepared = data()
    prepared.builder.experience = learnt_experience(cfg, folder, so_far)
    policy.asks = prepared.builder.asks_for_reasoning
    policy.meet_items(prepared.items)
    answers = AnswerTokens(prepared.builder, policy.encode_answers, policy.end_token)
    engine: Engine = instantiate(cfg.engine)
    keep_to_engine(policy, engine)
    return FinishedRun(cfg, stage, prepared, policy, answers, engine)


def settings_of_run(path: str, trust: Sequence[str] = (), evaluated: bool = False) -> DictConfig:
    """The settings of a run, checked like those of a command line, since the folder may come from someone else.

    Args:
        path: the run's folder.
        trust: packages outside of mllmrec whose classes the settings may name, and servers that they may ask; those in the
            environment variable MLLMREC_TRUST come in addition.
        evaluated: whether a folder of mllmrec.evaluate will do, too: it has settings, but no weights.

    Raises:
        UserError: there is no such run, the settings cannot be read, name what nobody trusts, or this version refuses them.
    """
    folder = RunFolder.of_finished_run(path)
    file = folder.resolved_config_path
    apart = rankings_alone(folder)
    if apart is not None and evaluated:
        file = folder.evaluated_config_path
    elif not file.is_file():
        raise UserError(f"{path} has no {file.name}: {apart or 'it was not written by mllmrec.train'}")
    cfg = read_settings(file)
    if not isinstance(cfg, DictConfig) or "method" not in cfg:
        raise UserError(f"{file} does not hold the settings of a run: put a copy in its place, or run again")
    refuse_strangers(OmegaConf.to_container(cfg), file, trusted(trust))
    if apart is not None:
        cfg.pop("stage", None)  # which phase mllmrec.evaluate ranked with
    try:
        # The run may come from another machine.
        check_config(OmegaConf.merge(cfg, {"trainer": {"accelerator": "auto"}}))  # type: ignore[arg-type]
    except ConfigError as error:
        raise UserError(f"{file} holds settings that this version refuses: {error}") from error
    return cfg


def open_policy(
    path: str, stage: str | None, training: bool = False, trust: Sequence[str] = ()
) -> FinishedRun:
    """Open a run of a language model, as `open_run` does.

    Raises:
        UserError: as in `open_run`, or the run is of a classical recommender.
    """
    run = open_run(path, stage, training, trust)
    if isinstance(run, FinishedBaseline):
        raise UserError(
            f"{path} is a run of method={run.cfg.method.name}: name one that trained a language model"
        )
    return run


def load_policy(cfg: DictConfig, folder: RunFolder, stages: Sequence[str]) -> Policy:
    """The policy of a run after the last of ``stages``, in evaluation mode.

    Args:
        cfg: the run's configuration.
        folder: the run's folder.
        stages: the phases trained so far, in order.
    """
    backbone: Backbone = instantiate(cfg.backbone)
    earlier = folder.checkpoints_path / stages[-1]
    weights = earlier if earlier.is_dir() else folder.model_path
    if not weights.is_dir():
        # Phases that change no weights have no adapter.
        frozen = _without_weights(cfg)
        stages = [stage for stage in stages if stage not in frozen]
    if stages and not weights.is_dir() and not folder.adapters_path.is_dir():
        raise UserError(
            f"{folder.path} has neither {weights.name}/ nor {folder.adapters_path.name}/: it has no weights"
        )
    policy = backbone.load(folder.adapters_path, stages, weights)
    policy.system = cfg.prompt.get("system")
    if stages and cfg.prompt.get("item_tokens", "none") == "vector":
        policy.load_items(policy.folder_of(stages[-1], folder.adapters_path, weights))
    policy.model.eval()
    return policy


def learnt_experience(cfg: DictConfig, folder: RunFolder, stages: Sequence[str]) -> tuple[str, ...]:
    """The experience that prompts show after the last of ``stages``, oldest phase first; empty if none was learnt.

    Raises:
        UserError: the file of a phase is missing or damaged.
    """
    learnt = [stage for stage in stages if stage in _without_weights(cfg)]
    return Library.read(folder.experience_path / f"{learnt[-1]}.json").texts if learnt else ()


def _without_weights(cfg: DictConfig) -> list[str]:
    """The phases that change no weights."""
    return [phase.name for phase in phases_of(cfg) if not phase.kind.trains]
