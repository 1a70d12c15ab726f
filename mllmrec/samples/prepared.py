"""The data of one run, ready for training and evaluation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from mllmrec.cot.base import CotPolicy
from mllmrec.cot.mixing import Mixture
from mllmrec.data.base import Interactions, Items
from mllmrec.data.candidates import CandidateSampler, Catalogue
from mllmrec.data.splits import Samples
from mllmrec.errors import UserError
from mllmrec.prompts.builder import PromptBuilder
from mllmrec.prompts.examples import CandidatesOf, CotUse, Examples
from mllmrec.prompts.listing import Listing
from mllmrec.prompts.markup import without_item_marks
from mllmrec.prompts.questions import Questions
from mllmrec.randomness import numpy_generator

log = logging.getLogger(__name__)

FULL = "full"


@dataclass(frozen=True)
class Prepared:
    """One dataset under one protocol, ready for training and evaluation."""

    items: Items
    interactions: Interactions  # the sequences that the samples are made of
    samples: dict[str, Samples]
    builder: PromptBuilder
    questions: Questions  # about single candidates
    cot: CotPolicy | None
    train: Examples
    mixture: Mixture  # which training samples carry reasoning
    asks: bool  # whether training prompts of samples with reasoning ask for it, before the answer or as a profile
    redraw: Callable[[str], Examples]  # the training examples with the negatives of another, named draw
    summary: dict[str, Any]
    captions: dict[str, str]  # by item id
    seed: int  # for everything that compared runs must share: candidates, evaluated users, ties, intervals
    history_length: int
    trained_list: int  # candidates that a training prompt lists
    _cache: Path

    def evaluation(self, settings: DictConfig) -> tuple[Examples, list[int], str]:
        """The examples of ``settings.split`` with candidates as in the settings.

        If training prompts ask for reasoning, these ask for it in the same words, unless ``settings.cot`` is false.

        Returns:
            The examples, the positions to evaluate, and the hash of the candidates of the whole split.

        Raises:
            UserError: the split is empty, or too few negatives exist.
        """
        samples = self.samples[settings.split]
        if len(samples) == 0:
            raise UserError(
                f"eval.split={settings.split} has no samples: choose another split, or another eval.split"
            )
        candidates_of, candidates_hash = self._candidates(samples, settings)
        shown = settings.cot is True
        carriers = np.ones(len(samples), dtype=bool) if shown else None
        examples = Examples(
            samples,
            self.builder,
            candidates_of,
            history_length=self.history_length,
            list_size=Listing.of(settings, self.trained_list).list_size,
            cot=self.use_of_cot(settings, carriers),
            split=settings.split,
        )
        chosen = list(range(len(samples)))
        if settings.max_users is not None and settings.max_users < len(samples):
            chosen = seeded_subset(samples, settings.max_users, self.seed)
        if shown and self.cot is not None:
            keys = [examples.cot_key(index) for index in chosen]
            self.cot.make(keys)
            coverage = self.cot.coverage(keys)
            carrying = sum(examples.reasoning(index) is not None for index in chosen)
            if carrying < len(chosen):
                log.warning(
                    "eval.cot=true: %s of %s %s prompts carry reasoning; %s",
                    *(f"{carrying:,}", f"{len(chosen):,}", settings.split, counted(coverage)),
                )
        return examples, chosen, candidates_hash

    def use_of_cot(self, settings: DictConfig, carriers: np.ndarray | None = None) -> CotUse:
        """How prompts use reasoning under these ``eval`` settings.

        Args:
            settings: the settings.
            carriers: (S,) bool: the samples whose prompts show it; None: none does.
        """
        asks = self.asks_under(settings)
        return CotUse(self.cot, carriers, self.train.cot.placement if asks else "prompt", asks)

    def asks_under(self, settings: DictConfig) -> bool:
        """Whether prompts ask for reasoning before the answer under these ``eval`` settings."""
        return self.asks and settings.cot == "auto"

    @cached_property
    def code_of(self) -> dict[str, int]:
        """The code of each item id."""
        return {item_id: code for code, item_id in enumerate(self.builder.ids)}

    @cached_property
    def _catalogue(self) -> Catalogue:
        """The catalogue for drawing negatives in evaluation; the same for every number and weighting of negatives."""
        return Catalogue(self.interactions, self.items)

    @property
    def num_offered(self) -> int:
        """How many items may be candidates in evaluation."""
        return int(self._catalogue.offered.sum())

    @property
    def only_cold(self) -> bool:
        """Whether the candidates of evaluation are kept out of training (``split=cold_items``)."""
        return self._catalogue.only_cold

    def _candidates(self, samples: Samples, settings: DictConfig) -> tuple[CandidatesOf, str]:
        if settings.num_negatives == FULL:
            catalogue = self._catalogue

            def whole_catalogue(index: int) -> tuple[np.ndarray, int]:
                candidates = catalogue.full_candidates(samples, index)
                return candidates, int(np.searchsorted(candidates, samples.target(index)))

            return whole_catalogue, catalogue.full_hash(samples)
        sampler = CandidateSampler(settings.num_negatives, settings.weighting, self.seed)
        source = sampler.bind(self._catalogue, self.samples["train"])
        stored = source.stored(self._cache, samples, settings.split)
        rows = stored.rows_of(samples)

        def look_up(index: int) -> tuple[np.ndarray, int]:
            row = rows[index]
            return stored.items[row], int(stored.target_column[row])

        return look_up, stored.hash

    def corpus(self) -> Iterator[str]:
        """Texts as they appear in prompts, without marks: one line per item, and some whole prompts for the wording.

        Reasoning that is to be learnt follows its prompt, so that its words are tokens too.
        """
        for item in range(len(self.items)):
            yield without_item_marks(self.builder.prompt([item], None))
        step = max(1, len(self.train) // 500)
        for index in range(0, len(self.train), step):
            example = self.train[index]
            yield without_item_marks(example.prompt)
            if example.reasoning:
                yield example.reasoned_answer


def seeded_subset(samples: Samples, size: int, seed: int) -> list[int]:
    """Positions of a random subset, ascending."""
    chosen = numpy_generator(seed, "evaluated subset").permutation(len(samples))[:size]
    return sorted(chosen.tolist())


def counted(coverage: Mapping[str, int]) -> str:
    """Counts by reason, in words."""
    return ", ".join(f"{reason} {count:,}" for reason, count in coverage.items())
