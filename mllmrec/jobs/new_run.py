"""A run that has not begun: what both kinds of training, of language models and of recommenders, start from."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import DictConfig, OmegaConf

from mllmrec.cache import atomic_path, write_json
from mllmrec.evaluation.protocol import Protocol
from mllmrec.evaluation.protocols import Protocols
from mllmrec.ranks import the_ranks
from mllmrec.run.environment import environment
from mllmrec.run.folder import RunFolder
from mllmrec.run.job_folder import JobFolder
from mllmrec.run.loggers import RunLoggers
from mllmrec.samples.prepared import FULL, Prepared


@dataclass(frozen=True)
class NewRun:
    """A run's configuration and data, how its results are measured, and where they go."""

    cfg: DictConfig
    prepared: Prepared
    protocols: Protocols  # of the results
    held_out: Protocol | None  # ranks validation users during training; None: no such ranking
    job: JobFolder
    loggers: RunLoggers

    @property
    def folder(self) -> RunFolder:
        """The run's folder."""
        return self.job.folder

    def begin(self) -> None:
        """Empty the folder, then write the configuration, data.json and environment.json.

        Call it when nothing is left that could refuse the run, and before anything else is written.
        """
        self.job.begin()
        with atomic_path(self.folder.resolved_config_path) as temporary:
            OmegaConf.save(self.cfg, temporary, resolve=True)
        write_json(self.folder.environment_path, environment())
        write_json(self.folder.data_path, {**self.prepared.summary, "candidates": self._candidates()})
        the_ranks().wait()  # for the first process, which has now removed what nobody should go on from

    def _candidates(self) -> dict[str, object]:
        """The candidates of every protocol, for data.json."""
        main = self.protocols.main
        described = main.describe()
        candidates = {
            "num_candidates": FULL if main.settings.num_negatives == FULL else described["num_candidates"],
            "negatives": described["negatives"],
            "hash": {described["split"]: described["candidates_hash"]},
        }
        beside = [place.protocol.describe() for place in self.protocols.places[1:]]
        if beside:
            candidates["beside"] = {
                other["negatives"]: {other["split"]: other["candidates_hash"]} for other in beside
            }
        return candidates
