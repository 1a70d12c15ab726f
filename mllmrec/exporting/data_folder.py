"""The frozen candidates and the reasoning of a run as a dataset that others load without mllmrec and compare on."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mllmrec.cache import atomic_folder, library_version, write_json
from mllmrec.config.trust import trusted
from mllmrec.data.candidate_sets import combine_digests, row_digest
from mllmrec.errors import UserError
from mllmrec.evaluation.protocol import Protocol
from mllmrec.evaluation.protocols import beside_protocol, main_protocol
from mllmrec.exporting.data_card import data_card
from mllmrec.exporting.folder import refuse_taken
from mllmrec.jobs.finished_run import settings_of_run
from mllmrec.jobs.judge import open_judge
from mllmrec.run.folder import RunFolder
from mllmrec.samples.prepare import prepare
from mllmrec.samples.prepared import FULL, Prepared

log = logging.getLogger(__name__)

NAME = "protocol.json"
_ROWS = 10_000  # rows in memory at a time
_TEXTS = pa.list_(pa.string())
CANDIDATES = pa.schema(
    {
        "sample_id": pa.string(),
        "user_id": pa.string(),
        "history": _TEXTS,
        "candidates": _TEXTS,
        "target": pa.string(),
    }
)
REASONING = pa.schema(
    {
        "sample_id": pa.string(),
        "user_id": pa.string(),
        "history": _TEXTS,
        "target": pa.string(),
        "text": pa.string(),
    }
)


@dataclass(frozen=True)
class ExportedData:
    """What was written."""

    path: Path
    rows: dict[str, int]  # by file


def export_data(
    run: str,
    out: str | Path,
    overwrite: bool = False,
    trust: Sequence[str] = (),
    reasoning: bool = True,
) -> ExportedData:
    """Write items, candidate sets and reasoning into a folder of its own, which appears whole or not at all.

    Args:
        run: the run's folder.
        out: the folder to write.
        overwrite: whether an earlier export in ``out`` is replaced.
        trust: packages and servers that the run's settings may name.
        reasoning: whether to write the reasoning of training samples too.

    Raises:
        UserError: ``out`` is taken; the run ranked the whole catalogue, which needs no candidate sets; or its data have
            changed since, so that the candidates are not those that it ranked; or its reasoning is gone from the cache.
    """
    target, folder = Path(out).absolute(), RunFolder.of_finished_run(run)
    refuse_taken(target, NAME, overwrite)
    cfg = settings_of_run(run, trust)
    if cfg.eval.num_negatives == FULL:
        raise UserError(
            f"{run} has eval.num_negatives=full: it ranked every item, so there are no candidate sets to share"
        )
    prepared = prepare(
        cfg, reasoning and cfg.method.recommender is None, partial(open_judge, trust=trusted(trust))
    )
    judged = (cfg.eval, cfg.candidates.weighting, cfg.protocol_seed, prepared)
    written = sum(stage.get("written", 0) for stage in prepared.summary["cot"]["stages"].values())
    if written:
        raise UserError(
            f"{written:,} texts of the reasoning of {run} are no longer in cache_dir={cfg.cache_dir}, and new ones are not those that "
            "it learnt from: put its cache back, or leave them out with reasoning=false"
        )
    protocols = [one for one in (main_protocol(*judged), beside_protocol(*judged)) if one is not None]
    ranked = folder.metrics()["protocol"]
    if ranked["candidates_hash"] != protocols[0].candidates_hash:
        raise UserError(
            f"the candidates of {run} cannot be drawn again: its dataset has changed since. Put the files back that it read"
        )
    with atomic_folder(target) as inside:
        rows = {"items.parquet": _write_items(prepared, inside / "items.parquet")}
        sets: dict[str, dict[str, Any]] = {}
        for protocol in protocols:
            file = f"candidates/{protocol.settings.split}-{protocol.settings.weighting}.parquet"
            rows[file] = _write(inside / file, CANDIDATES, _candidates(protocol))
            sets[file] = {**protocol.describe(), "rows_hash": _hash(protocol)}
        written = _write(inside / "reasoning.parquet", REASONING, _reasoning(prepared))
        if written:
            rows["reasoning.parquet"] = written
        else:
            (inside / "reasoning.parquet").unlink()
        about = {"sets": sets, "rows": rows, "written_by": f"mllmrec {library_version('mllmrec')}"}
        write_json(inside / NAME, about)
        data_card(cfg, folder, about).save(inside / "README.md")
    return ExportedData(target, rows)


def _write_items(prepared: Prepared, path: Path) -> int:
    builder = prepared.builder
    count = len(builder.ids)
    table = pa.table(
        {
            "item_id": pa.array(builder.ids, pa.string()),
            "title": pa.array([builder.titles[item] for item in range(count)], pa.string()),
            "details": pa.array([builder.details(item) for item in range(count)], pa.string()),
            "caption": pa.array([builder.caption(item) for item in range(count)], pa.string()),
            "offered": pa.array(prepared.items.offered.tolist(), pa.bool_()),
        }
    )
    pq.write_table(table, path)
    return count


def _candidates(protocol: Protocol) -> Iterator[dict[str, Any]]:
    """The ranked users, in the order of the split."""
    examples, ids = protocol.examples, protocol.prepared.builder.ids
    for position in protocol.positions:
        candidates, column = examples.candidates_of(position)
        yield {
            "sample_id": examples.samples.sample_id(position),
            "user_id": examples.samples.user_id(position),
            "history": [ids[item] for item in examples.samples.history(position).tolist()],
            "candidates": [ids[item] for item in candidates.tolist()],
            "target": ids[candidates[column]],
        }


def _hash(protocol: Protocol) -> str:
    """Of the rows of a file: ``candidates_hash`` is of the whole split, of which ``eval.max_users`` ranks a part."""
    rows = _candidates(protocol)
    return combine_digests([row_digest(row["user_id"], row["target"], row["candidates"]) for row in rows])


def _reasoning(prepared: Prepared) -> Iterator[dict[str, Any]]:
    """The training samples that carry reasoning, with the history that it speaks of."""
    train = prepared.train
    for position in range(len(train)):
        text = train.reasoning(position)
        if text is not None:
            key = train.cot_key(position)
            yield {
                "sample_id": key.sample_id,
                "user_id": key.user_id,
                "history": list(key.history_ids),
                "target": key.target_id,
                "text": text,
            }


def _write(path: Path, schema: pa.Schema, rows: Iterator[dict[str, Any]]) -> int:
    """Write rows, a part in memory at a time; return how many there were."""
    path.parent.mkdir(exist_ok=True)
    count, held = 0, []
    with pq.ParquetWriter(path, schema) as writer:
        for row in rows:
            held.append(row)
            count += 1
            if len(held) == _ROWS:
                writer.write_table(pa.Table.from_pylist(held, schema))
                held = []
        writer.write_table(pa.Table.from_pylist(held, schema))
    return count
