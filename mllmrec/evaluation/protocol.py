"""How a run ranks, and the description that it writes beside the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from omegaconf import DictConfig

from mllmrec.data.splits import training_counts
from mllmrec.engine.base import Engine
from mllmrec.evaluation.calibration import calibrated, calibration
from mllmrec.evaluation.evaluate import Evaluation, evaluate
from mllmrec.evaluation.intervals import bootstrap_intervals, paired_differences
from mllmrec.evaluation.metrics import expected_at_random, objective_name
from mllmrec.evaluation.pointwise import Pointwise
from mllmrec.evaluation.ranking import ConstrainedList, Generate, InLists, Likelihood, Ranker, ScoringRanker
from mllmrec.evaluation.reasoned import AfterReasoning, Shown
from mllmrec.evaluation.records import write_stage
from mllmrec.evaluation.slices import (
    Slice,
    history_slices,
    image_slices,
    names_by_user,
    popularity_slices,
    sliced,
)
from mllmrec.models.policy import Policy
from mllmrec.models.prompt_lengths import check_lengths, check_question_lengths
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.prompts.listing import Listing
from mllmrec.run.folder import RunFolder
from mllmrec.samples.prepared import FULL, Prepared
from mllmrec.screen.progress import track
from mllmrec.step.names import Names

ASKED = "asked"  # value of a protocol's ``cot`` where prompts ask for reasoning; true: they show some


class Protocol:
    """The frozen examples of ``eval.*``, and the description that goes with every number."""

    def __init__(self, settings: DictConfig, seed: int, prepared: Prepared) -> None:
        """Freeze the examples to rank.

        Args:
            settings: the ``eval`` section.
            seed: for ties and intervals; runs that are compared share it.
            prepared: the data.

        Raises:
            UserError: the split is empty, or too few negatives exist.
        """
        self.settings, self.seed, self.prepared = settings, seed, prepared
        self.examples, self.positions, self.candidates_hash = prepared.evaluation(settings)
        self.listing = Listing.of(settings, prepared.trained_list)
        self.ks = list(settings.ks)
        # Batches of similar lengths need less padding; results are joined by user, so any order will do.
        lengths = self.examples.samples.history_lengths
        positions = np.array(self.positions, dtype=np.int64)
        shown = np.minimum(lengths[positions], prepared.history_length)
        self.ordered = positions[np.argsort(shown, kind="stable")]
        size = settings.batch_size
        self.batches = [self.ordered[start : start + size] for start in range(0, len(self.ordered), size)]
        self.num_candidates = len(self.examples.candidates_of(self.positions[0])[0])
        carrying = sum(self.examples.reasoning(position) is not None for position in self.positions)
        self.cot_share = carrying / len(self.positions)  # share of prompts that carry reasoning

    @cached_property
    def slices(self) -> list[Slice]:
        """Parts of the ranked users, who are in the order of the batches."""
        samples, items = self.examples.samples, self.prepared.items
        targets = samples.targets[self.ordered]
        counts = training_counts(self.prepared.samples["train"], len(items))
        shown = np.minimum(samples.history_lengths[self.ordered], self.prepared.history_length)
        pictured = np.array([target in items.images for target in items.ids[targets].tolist()])
        return [*popularity_slices(counts, targets), *history_slices(shown), *image_slices(pictured)]

    def describe(self, ranking: str | None = None) -> dict[str, Any]:
        """The ``protocol`` of metrics.json; give ``ranking`` where it differs from the settings."""
        full, shown = self.settings.num_negatives == FULL, self.settings.cot is True
        cot, ranking = self.prepared.cot, ranking or self.settings.ranking
        lists = ranking in ("likelihood", "constrained", "generate", "reasoned")
        return {
            "dataset": self.prepared.summary["dataset"],
            "split": self.settings.split,
            "users": len(self.positions),
            "ranking": ranking,
            **self._reasoning(ranking),
            **(calibration(self.settings) if ranking in ("likelihood", "constrained") else {}),
            "num_candidates": self.prepared.num_offered if full else self.num_candidates,
            "negatives": self._negatives(full),
            **(self.listing.describe() if lists else {}),
            "candidates_hash": self.candidates_hash,
            "cot": ASKED if self.examples.cot.asks else shown,
            **({"cot_share": self.cot_share} if shown else {}),
            "seed": self.seed,
            **({} if cot is None else {"leak": cot.told}),
        }

    def _negatives(self, full: bool) -> str:
        if self.prepared.only_cold:
            return "all cold items" if full else f"{self.settings.weighting} cold"
        return "whole catalogue" if full else self.settings.weighting

    def _reasoning(self, ranking: str) -> dict[str, Any]:
        if ranking != "reasoned":
            return {}
        return {
            "reasoning_samples": self._budget["samples"],
            "max_reasoning_tokens": self._budget["max_tokens"],
        }

    @property
    def _budget(self) -> dict[str, int]:
        """How much is reasoned for each user; runs of earlier versions do not say."""
        settings = self.settings
        return {
            "samples": settings.get("reasoning_samples", 1),
            "max_tokens": settings.get("max_reasoning_tokens", 64),
        }

    @property
    def measures_faithfulness(self) -> bool:
        """Whether users are ranked after changed reasoning, too."""
        return self.settings.ranking == "reasoned" and bool(self.settings.get("faithfulness", False))

    def chance(self) -> dict[str, float]:
        """The expected metrics of a random order of C candidates; with the whole catalogue, C is the first user's."""
        return expected_at_random(self.num_candidates, self.ks)

    def check_lengths(self, policy: Policy, answers: AnswerTokens, name: str) -> None:
        """Refuse prompts or questions that the policy's backbone cannot hold.

        Args:
            policy: the policy that will rank.
            answers: the policy's answer tokens.
            name: what the prompts are for.

        Raises:
            UserError: some are too long; it says how many, and how long the longest is.
        """
        parts = {name: self.examples}
        if self.settings.ranking == "pointwise":
            check_question_lengths(policy, self.prepared.questions, parts)
        else:
            generated = self.settings.max_new_tokens if self.settings.ranking == "generate" else 0
            if self.settings.ranking == "reasoned":
                around = policy.reasoning_tokens().around
                generated = around + self._budget["max_tokens"] + answers.longest
            if self.prepared.builder.places > 1:
                generated = max(generated, answers.longest_list)
            check_lengths(policy, answers, parts, generated)

    def objective(self, means: Mapping[str, float]) -> float:
        """What sweepers maximise (`objective_name`)."""
        return means[objective_name(self.ks)]

    def ranker(self, policy: Policy, answers: AnswerTokens, engine: Engine, shown: Shown = "own") -> Ranker:
        """The ranker that ``eval.ranking`` names, for a language model.

        Args:
            policy: the policy that will rank.
            answers: the policy's answer tokens.
            engine: runs its model.
            shown: what stands before the answer if the policy reasons first.
        """
        if self.settings.ranking == "generate":
            names = Names.of(self.prepared.builder)
            return Generate(policy, answers, engine, names, self.settings.max_new_tokens)
        if self.settings.ranking == "reasoned":
            return self._listed(
                AfterReasoning(
                    policy,
                    answers,
                    engine,
                    self.seed,
                    **self._budget,
                    shown=shown,
                )
            )
        if self.settings.ranking == "pointwise":
            return Pointwise(policy, answers, engine, self.prepared.questions, self.seed)
        constrained = self.settings.ranking == "constrained"
        if constrained and self.prepared.builder.places > 1:
            return ConstrainedList(policy, answers, engine)
        likelihood = Likelihood(policy, answers, engine, self.seed, constrained=constrained)
        return self._listed(calibrated(likelihood, self.examples, self.settings))

    def _listed(self, ranker: ScoringRanker) -> Ranker:
        return InLists(ranker, self.examples) if self.examples.list_size else ranker

    def measure(self, ranker: Ranker) -> dict[str, float]:
        """The mean of each metric, without writing anything."""
        return evaluate(self.examples, ranker, self.batches).means(self.ks)

    def rank(self, name: str, ranker: Ranker, folder: RunFolder) -> Evaluation:
        """Rank every user and write the rankings to per_user.parquet, as the phase ``name``."""
        with write_stage(folder.per_user_path, name, self.settings.keep_top) as writer:
            shown = f"evaluate {name.replace('_', ' ')}, {self.settings.weighting} negatives"
            tracked = track(self.batches, shown, len(self.positions), "users", weigh=len)
            names = names_by_user(self.slices, len(self.ordered))
            return evaluate(self.examples, ranker, tracked, writer, names)

    def intervals(self, result: Evaluation) -> dict[str, list[float]]:
        """The 95 % interval of every metric's mean."""
        return bootstrap_intervals(result.per_user(self.ks), self.seed, self.settings.resamples)

    def sliced(self, result: Evaluation) -> dict[str, dict[str, Any]]:
        """The results of each slice of the users."""
        return sliced(result.per_user(self.ks), self.slices, self.seed, self.settings.resamples)

    def difference(self, later: Evaluation, earlier: Evaluation) -> dict[str, Any]:
        """``later - earlier`` user by user; both must have ranked the same users in the same order."""
        return paired_differences(
            later.per_user(self.ks), earlier.per_user(self.ks), self.seed, self.settings.resamples
        )
