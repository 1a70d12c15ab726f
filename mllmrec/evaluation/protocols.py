"""The protocols of one run: every measurement is made under each of them, on the same users."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mllmrec.errors import UserError
from mllmrec.evaluation.evaluate import Evaluation
from mllmrec.evaluation.protocol import Protocol
from mllmrec.evaluation.ranked_before import KeptRankings, RankedBefore
from mllmrec.evaluation.ranking import Ranker
from mllmrec.evaluation.reasoned import CHANGES, Shown
from mllmrec.models.selection import Selection
from mllmrec.ranks import the_ranks
from mllmrec.run.folder import RunFolder
from mllmrec.samples.prepared import FULL, Prepared

log = logging.getLogger(__name__)

BOTH = "both"
WEIGHTINGS = ("uniform", "popularity")


@dataclass(frozen=True)
class Place:
    """A protocol and the folder for its numbers; the first write creates the folder."""

    protocol: Protocol
    path: Path
    before: RankedBefore | None = None  # what an earlier attempt at the job ranked

    @property
    def folder(self) -> RunFolder:
        """The folder."""
        return RunFolder(self.path)

    def rank(
        self,
        name: str,
        ranker_of: Callable[[], Ranker],
        kept: KeptRankings | None = None,
        shown: Shown = "own",
    ) -> Evaluation:
        """Rank every user and write the rankings to per_user.parquet, as the phase ``name``, unless that is done.

        Args:
            name: of the phase.
            ranker_of: makes the ranker.
            kept: rankings of other jobs, which may have this one.
            shown: what stands before the answer if the policy reasons first.
        """
        before = self.before
        known = None if before is None else the_ranks().of_leader(lambda: before.read(name))
        if known is not None:
            log.info("evaluate %s, %s: an earlier attempt did", name, self.protocol.settings.weighting)
            return known
        protocol, per_user, result = self.protocol, self.folder.per_user_path, None
        if kept is not None:
            result = the_ranks().of_leader(lambda: kept.restore(name, protocol, per_user, shown))
        if result is None:
            result = protocol.rank(name, ranker_of(), self.folder)
            if kept is not None and the_ranks().leads:
                kept.keep(name, protocol, result, per_user, shown)
        if before is not None and the_ranks().leads:
            before.keep(name, result)
        return result

    def record(
        self, stage: str, ranker_of: Callable[[], Ranker], kept: KeptRankings | None = None
    ) -> Evaluation:
        """Rank every user and write the results to per_user.parquet and metrics.json; the arguments are those of `rank`."""
        protocol, result = self.protocol, self.rank(stage, ranker_of, kept)
        self.folder.record_stage(
            stage, result.means(protocol.ks), protocol.intervals(result), result.validity
        )
        self.folder.record_slices(stage, protocol.sliced(result))
        return result


class Protocols:
    """The main protocol and, where ``eval.weighting=both``, a second one with the other kind of negatives.

    Uniform negatives are mostly unpopular items, so popularity alone may find the target among them. With
    popularity-weighted negatives it cannot. The main protocol writes its numbers to the run's folder; the second one writes
    to a folder of the same form inside it.
    """

    def __init__(
        self, main: Protocol, beside: Protocol | None, folder: RunFolder, *, resumable: bool = False
    ) -> None:
        """Fix where numbers go.

        Args:
            main: its numbers decide how the run is chosen and compared.
            beside: the same users with the other kind of negatives, if any.
            folder: the run's folder.
            resumable: whether results are kept for another attempt at the job, and taken from an earlier one.
        """
        self.main = main
        self.places = []
        for protocol, path in ((main, folder.path), (beside, folder.beside_path)):
            if protocol is not None:
                kept = folder.resume_path / f"ranked-{protocol.settings.weighting}"
                before = RankedBefore(kept, path / "per_user.parquet") if resumable else None
                self.places.append(Place(protocol, path, before))
        self.results: dict[str, list[Evaluation]] = {}  # by phase, in the order of `places`

    def describe(self, ranking: str | None = None, further: Mapping[str, Any] | None = None) -> None:
        """Write how the coming numbers are computed.

        Args:
            ranking: where it differs from the settings.
            further: entries beside those of each protocol.
        """
        listing = self.main.listing
        if listing.untrained and "listed" in self.main.describe(ranking):
            log.warning(
                "eval.listing=all: evaluation prompts list %s candidates, training prompts only %s. No phase was trained on "
                "lists of that length, and policies rank them badly. Set eval.listing=trained to list %s at a time",
                *(listing.candidates, listing.trained, listing.trained),
            )
        for place in self.places:
            described = {**place.protocol.describe(ranking), **(further or {})}
            place.folder.record_protocol(described, place.protocol.chance())

    def record(
        self, stage: str, ranker_of: Callable[[Protocol], Ranker], kept: KeptRankings | None = None
    ) -> Evaluation:
        """Rank every user and compare with the phase before; return the main protocol's result.

        Args:
            stage: its name.
            ranker_of: makes the ranker of a protocol.
            kept: rankings of other jobs, which may have this one.
        """
        earlier = next(reversed(self.results), None)
        found = [place.record(stage, partial(ranker_of, place.protocol), kept) for place in self.places]
        if earlier is not None:
            for place, later, before in zip(self.places, found, self.results[earlier], strict=True):
                place.folder.record_difference(stage, earlier, place.protocol.difference(later, before))
        self.results[stage] = found
        return found[0]

    def record_selection(
        self,
        stage: str,
        selection: Selection,
        ranker_of: Callable[[Protocol], Ranker] | None,
        kept: KeptRankings | None = None,
    ) -> None:
        """Report a phase's best weights on held-out users and its last weights separately.

        Args:
            stage: a phase whose kept weights are already recorded.
            selection: which weights the phase kept.
            ranker_of: makes a ranker with the weights that were not kept; None where best and last are the same.
            kept: rankings of other jobs, which may have this one.
        """
        steps = {"best": selection.best_step, "last": selection.last_step}
        for place, own in zip(self.places, self.results[stage], strict=True):
            protocol = place.protocol
            results = {"best": own, "last": own}
            compared: dict[str, Any] = {"kept": selection.kept}
            if ranker_of is not None:
                name = f"{stage}_{selection.not_kept}"
                results[selection.not_kept] = place.rank(name, partial(ranker_of, protocol), kept)
                compared["difference"] = protocol.difference(results["best"], results["last"])
            for which, result in results.items():
                compared[which] = {
                    "step": steps[which],
                    "metrics": result.means(protocol.ks),
                    "intervals": protocol.intervals(result),
                }
            place.folder.record_weights(stage, compared)

    def record_faithfulness(
        self, stage: str, ranker_of: Callable[[Shown], Ranker], kept: KeptRankings | None = None
    ) -> None:
        """Rank under the main protocol with the reasoning left out, taken from another user, and with its words shuffled.

        Args:
            stage: a phase that is already recorded.
            ranker_of: makes a ranker that changes the reasoning in this way.
            kept: rankings of other jobs, which may have these.
        """
        protocol, place, own = self.main, self.places[0], self.results[stage][0]
        compared: dict[str, Any] = {}
        for shown in CHANGES:
            result = place.rank(f"{stage}_reasoning_{shown}", partial(ranker_of, shown), kept, shown)
            compared[shown] = {
                "metrics": result.means(protocol.ks),
                "intervals": protocol.intervals(result),
                "difference": protocol.difference(own, result),
            }
        place.folder.record_faithfulness(stage, compared)

    def __iter__(self) -> Iterator[Place]:
        return iter(self.places)


def main_protocol(settings: DictConfig, trained: str, seed: int, prepared: Prepared) -> Protocol:
    """The protocol of ``eval``; where it names both kinds of negatives, the kind that training prompts list.

    Args:
        settings: the ``eval`` section.
        trained: how training negatives are weighted.
        seed: the seed of protocols.
        prepared: the data.
    """
    return Protocol(with_weighting(settings, trained), seed, prepared)


def beside_protocol(settings: DictConfig, trained: str, seed: int, prepared: Prepared) -> Protocol | None:
    """The protocol with the other kind of negatives; None if ``eval`` names one kind or the data has too few items."""
    if settings.weighting != BOTH or settings.num_negatives == FULL:
        return None
    (other,) = (weighting for weighting in WEIGHTINGS if weighting != trained)
    try:
        return Protocol(with_weighting(settings, other), seed, prepared)
    except UserError as error:
        log.warning("no ranking among %s negatives: %s", other, error)
        return None


def with_weighting(settings: DictConfig, weighting: str) -> DictConfig:
    """The ``eval`` section with one kind of negatives: its own, or ``weighting`` where it names both."""
    merged = OmegaConf.merge(settings, {"weighting": weighting} if settings.weighting == BOTH else {})
    assert isinstance(merged, DictConfig)
    return merged
