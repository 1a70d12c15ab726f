"""Rankings kept for other jobs: the same weights asked the same questions give the same ranking, so it is made once.

The jobs of a sweep rank what they share, such as the policy before training, after the warm-up and after SFT, each time anew.
The key of a ranking is all that it is computed from: the hash of the weights themselves, of what turns prompts into their
input, of the rendered prompts with their candidates, the settings of ``eval``, engine and trainer, and the code. Each is one file,
`per_user.parquet`'s columns with the rest in the file's metadata; it is complete or absent.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import DictConfig, OmegaConf

from mllmrec.cache import atomic_path, fingerprint
from mllmrec.errors import UserError
from mllmrec.errors.disk import about, disk_fault, refusing_damage
from mllmrec.evaluation.evaluate import Evaluation
from mllmrec.evaluation.protocol import Protocol
from mllmrec.evaluation.reasoned import Shown
from mllmrec.evaluation.records import stage_table, write_stage_table
from mllmrec.evaluation.slices import names_by_user
from mllmrec.models.policy import Policy
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.store.fingerprints import (
    code_fingerprint,
    measure_fingerprint,
    model_fingerprint,
    named_files,
    reader_fingerprint,
    sequences_fingerprint,
)

log = logging.getLogger(__name__)

# Sections that a ranking by scores reads besides ``eval``, whose examples are hashed.
READ = ("engine", "backbone", "trainer", "prompt", "peft", "cot")
# Values of eval.ranking with scores of all candidates. What is drawn for them is drawn by ``protocol_seed``.
SCORED = ("likelihood", "constrained", "reasoned")
_RANKS = "mllmrec.evaluation.protocol"  # the module that ranks
_META = b"mllmrec"


class RankingStore:
    """The folder of rankings by the policies of one run."""

    def __init__(
        self, folder: Path, cfg: DictConfig, policy: Policy, answers: AnswerTokens, num_items: int
    ) -> None:
        """Take the folder.

        Args:
            folder: the store's folder.
            cfg: the run's configuration.
            policy: ranks with the weights that it has when it is asked.
            answers: its answer tokens.
            num_items: items of the catalogue.
        """
        self.folder, self.policy = folder, policy
        settings: Any = OmegaConf.to_container(cfg, resolve=True)
        read = {name: settings.get(name) for name in READ}
        self._common = {
            "settings": read,
            "files": named_files(read),
            "reader": reader_fingerprint(policy),
            "answers": sequences_fingerprint(np.array(answers.of(item)) for item in range(num_items)),
            "code": code_fingerprint(read, _RANKS),
        }
        self._asked: dict[int, Any] = {}  # by the identity of the protocol

    @staticmethod
    def can_keep(cfg: DictConfig) -> bool:
        """Whether rankings by ``eval.ranking`` depend on nothing but what the key holds: scores, by prompts of text.

        An inference part reads more of the configuration; the caller knows whether there is one.
        """
        return (
            cfg.eval.ranking in SCORED
            and cfg.prompt.item_tokens == "none"
            and cfg.cot.placement != "profile"  # whose text the policy writes
        )

    def place(self, protocol: Protocol, shown: Shown = "own") -> Path:
        """Where the ranking by the policy as it is now is kept, whether it is there or not.

        Args:
            protocol: what is ranked.
            shown: what stands before the answer if the policy reasons first.
        """
        if id(protocol) not in self._asked:
            settings = OmegaConf.to_container(protocol.settings, resolve=True)
            self._asked[id(protocol)] = {"measure": measure_fingerprint(protocol), "eval": settings}
        parts = {
            **self._common,
            **self._asked[id(protocol)],
            "weights": model_fingerprint(self.policy.model),
            "shown": shown,
        }
        return self.folder / f"{fingerprint(parts)}.parquet"

    def restore(
        self, name: str, protocol: Protocol, per_user: Path, shown: Shown = "own"
    ) -> Evaluation | None:
        """Add a kept ranking to a run's ``per_user.parquet``, as the phase ``name``.

        Args:
            name: of the phase.
            protocol: what is ranked.
            per_user: the file of the run.
            shown: what stands before the answer if the policy reasons first.

        Returns:
            The ranking; None if it is not kept. One that is damaged is named in the log.
        """
        place = self.place(protocol, shown)
        if not place.exists():
            return None
        try:
            with refusing_damage(place):
                table = pq.read_table(place)
            kept = json.loads(table.schema.metadata[_META])
            ranks = table["rank"].cast(pa.float64()).to_numpy()
            result = Evaluation(ranks, dict(kept["validity"]), int(kept["tokens"]))
        except (UserError, ValueError, KeyError, TypeError) as error:
            log.warning("a ranking that an earlier job kept is damaged, and is made again: %s", error)
            return None
        # Slices depend on the training data, which the ranking does not.
        names = names_by_user(protocol.slices, len(protocol.ordered))
        write_stage_table(per_user, name, table, names)
        log.info("%s, %s negatives: ranked before, by the same weights", name, protocol.settings.weighting)
        return result

    def keep(
        self, name: str, protocol: Protocol, result: Evaluation, per_user: Path, shown: Shown = "own"
    ) -> None:
        """Keep a ranking. If the disk cannot take it, a warning says so.

        Args:
            name: of the phase.
            protocol: what was ranked.
            result: by the policy as it is now.
            per_user: the file of the run, which holds the phase.
            shown: what stands before the answer if the policy reasons first.
        """
        kept = {
            "validity": {kind: float(share) for kind, share in result.validity.items()},
            "tokens": int(result.generated_tokens),
        }
        place = self.place(protocol, shown)
        table = stage_table(per_user, name).replace_schema_metadata({_META: json.dumps(kept)})
        try:
            with about(place):
                place.parent.mkdir(parents=True, exist_ok=True)
                with atomic_path(place) as temporary:
                    pq.write_table(table, temporary, compression="zstd")
        except OSError as error:
            fault = disk_fault(error)
            if fault is None:
                raise
            log.warning("%s: the ranking is not kept for other jobs: %s", name, fault)
