"""How everything in a run is ranked, and what is written beside the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from mllmrec.engine.base import Engine
from mllmrec.evaluation.evaluate import Evaluation, evaluate
from mllmrec.evaluation.groups import Groups
from mllmrec.evaluation.intervals import bootstrap_intervals, paired_differences
from mllmrec.evaluation.metrics import expected_at_random
from mllmrec.evaluation.pointwise import Pointwise
from mllmrec.evaluation.ranking import Generate, Likelihood, Ranker
from mllmrec.evaluation.records import write_stage
from mllmrec.models.policy import Policy
from mllmrec.prepare import FULL, Prepared
from mllmrec.progress import track
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.prompts.lists import SCORED, num_lists
from mllmrec.run_folder import RunFolder


class Protocol:
    """The frozen examples of ``eval.*``, and the words that travel with every number."""

    def __init__(self, settings: DictConfig, seed: int, prepared: Prepared) -> None:
        """Freeze what is ranked.

        Args:
            settings: the ``eval`` section.
            seed: of ties and intervals; runs that are compared share it.
            prepared: the data.

        Raises:
            UserError: the split is empty, or too few negatives exist.
        """
        self.settings, self.seed, self.prepared = settings, seed, prepared
        self.examples, self.positions, self.candidates_hash = prepared.evaluation(settings)
        self.ks = list(settings.ks)
        # Batches of similar lengths hold less padding; results are joined by user, so their order is free.
        lengths = self.examples.samples.history_lengths
        ordered = sorted(self.positions, key=lambda position: min(lengths[position], prepared.history_length))
        size = settings.batch_size
        self.batches = [ordered[start : start + size] for start in range(0, len(ordered), size)]
        self.num_candidates = len(self.examples.candidates_of(self.positions[0])[0])
        self.listing = prepared.listing(settings)

    def describe(self, ranking: str | None = None) -> dict[str, Any]:
        """The ``protocol`` of metrics.json; ``ranking`` where it is not that of the settings.

        ``listing`` is there only where it is not the plain one: all candidates in one prompt, or none of a whole
        catalogue.
        """
        full = self.settings.num_negatives == FULL
        plain = ranking is not None or self.listing == ("none" if full else "all")
        leak = getattr(self.prepared.cot, "leak", "none")
        return {
            "dataset": self.prepared.summary["dataset"],
            "split": self.settings.split,
            "users": len(self.positions),
            "ranking": ranking or self.settings.ranking,
            "num_candidates": int(self.prepared.items.offered.sum()) if full else self.num_candidates,
            "negatives": "whole catalogue" if full else self.settings.weighting,
            "candidates_hash": self.candidates_hash,
            "cot": self.settings.cot,
            "seed": self.seed,
            **({} if plain else {"listing": self._listing_words()}),
            **({} if leak == "none" else {"leak": leak}),
        }

    def _listing_words(self) -> str:
        return f"groups of {self.prepared.list_length}" if self.listing == "groups" else self.listing

    def unseen_listing(self) -> str | None:
        """What is to be said of prompts that list another number of candidates than in training; None where they do not."""
        listed, ranking = self.prepared.list_length, self.settings.ranking
        full = self.settings.num_negatives == FULL
        if ranking == "pointwise" or self.listing == "groups":
            return None
        if self.listing == "all" and self.num_candidates == listed:
            return None
        if self.listing == "all":
            shown = (
                f"eval.num_negatives={self.num_candidates - 1}: prompts list {self.num_candidates} candidates"
            )
        else:
            shown = f"eval.{'num_negatives=full' if full else 'listing=none'}: prompts list no candidates"
        way_out = f"set eval.num_negatives={listed - 1}"
        if ranking in SCORED:
            prompts = num_lists(self.num_candidates, listed)
            way_out = f"eval.listing=groups ranks them in lists of {listed}, in {prompts} prompts a user"
        return f"{shown}, those of training {listed}: the policy may rank far worse than it could; {way_out}"

    def chance(self) -> dict[str, float]:
        """What a random order of C candidates scores; with the whole catalogue, of the first user's C."""
        return expected_at_random(self.num_candidates, self.ks)

    def objective(self, means: Mapping[str, float]) -> float:
        """What sweepers maximise: NDCG at the second cut-off, or at the only one (NDCG@1 is HR@1)."""
        k = self.ks[min(1, len(self.ks) - 1)]
        return means.get(f"NDCG@{k}", means[f"HR@{k}"])

    def ranker(self, policy: Policy, answers: AnswerTokens, engine: Engine) -> Ranker:
        """The ranker that ``eval.ranking`` names, with a language model."""
        if self.settings.ranking == "generate":
            return Generate(policy, answers, engine, self.prepared.builder.ids, self.settings.max_new_tokens)
        if self.settings.ranking == "pointwise":
            return Pointwise(policy, answers, engine, self.prepared.questions, self.seed)
        constrained = self.settings.ranking == "constrained"
        if self.listing == "groups":
            size = self.settings.batch_size
            return Groups(policy, answers, engine, self.seed, constrained=constrained, batch_size=size)
        return Likelihood(policy, answers, engine, self.seed, constrained=constrained)

    def measure(self, ranker: Ranker) -> dict[str, float]:
        """The metrics' means, nothing written."""
        return evaluate(self.examples, ranker, self.batches).means(self.ks)

    def record(self, stage: str, ranker: Ranker, folder: RunFolder) -> Evaluation:
        """Rank every user and write what came out to per_user.parquet and metrics.json."""
        result = self.rank(stage, ranker, folder)
        folder.record_stage(stage, result.means(self.ks), self.intervals(result), result.validity)
        return result

    def rank(self, name: str, ranker: Ranker, folder: RunFolder) -> Evaluation:
        """Rank every user and write the rankings to per_user.parquet, as the stage ``name``."""
        with write_stage(folder.per_user_path, name, self.settings.keep_top) as writer:
            shown = f"evaluate {name.replace('_', ' ')}, {self.settings.weighting} negatives"
            tracked = track(self.batches, shown, len(self.positions), "users", weigh=len)
            return evaluate(self.examples, ranker, tracked, writer)

    def intervals(self, result: Evaluation) -> dict[str, list[float]]:
        """The 95 % interval of every metric's mean."""
        return bootstrap_intervals(result.per_user(self.ks), self.seed, self.settings.resamples)

    def difference(self, later: Evaluation, earlier: Evaluation) -> dict[str, Any]:
        """``later - earlier`` user by user; both ranked the same users in the same order."""
        return paired_differences(
            later.per_user(self.ks), earlier.per_user(self.ks), self.seed, self.settings.resamples
        )
