"""The card of an exported dataset, written from the run's own files. It holds no path of the machine that wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from mllmrec.exporting.card import CITATION, data_counts
from mllmrec.jobs.results_tables import protocol_line
from mllmrec.run.folder import RunFolder

if TYPE_CHECKING:
    from huggingface_hub import DatasetCard

_COLUMNS = {
    "items": "`item_id`, `title`, `details` (empty unless prompts show them), `caption` (of its image; empty if there is none), `offered` (whether it may be recommended)",
    "candidates": "`sample_id`, `user_id`, `history` (item ids, oldest first), `candidates` (item ids; their order says nothing), `target` "
    "(one of them)",
    "reasoning": "`sample_id`, `user_id`, `history` (as the prompt showed it), `target`, `text`: a training sample and the reasoning that it "
    "carried",
}
_SCORE = """\
```python
from datasets import load_dataset
from math import log2


def ndcg_at_3(score, rows):
    # score(history, candidates) gives a number for each candidate. The result is the mean over users.
    total = 0.0
    for row in rows:
        scores = score(row["history"], row["candidates"])
        own = scores[row["candidates"].index(row["target"])]
        rank = 1 + sum(other > own for other in scores)  # mllmrec breaks ties at random
        total += 1 / log2(1 + rank) if rank <= 3 else 0.0
    return total / len(rows)


rows = load_dataset("FOLDER_OR_NAME", "CONFIG", split="SPLIT")
```"""


def data_card(cfg: DictConfig, folder: RunFolder, about: Mapping[str, Any]) -> DatasetCard:
    """The card: what the files hold, how to score on them, protocol and hashes, data, limits, citation.

    Args:
        cfg: the run's settings.
        folder: its folder.
        about: the content of ``protocol.json``.
    """
    from huggingface_hub import DatasetCard, DatasetCardData

    name = str(next(iter(about["sets"].values()))["dataset"])
    configs = [_config(file) for file in about["rows"]]
    data = DatasetCardData(
        pretty_name=f"{name}: frozen candidates",
        task_categories=["other"],
        tags=["recommendation", "sequential-recommendation", "mllmrec"],
        configs=configs,
    )
    first = next(config for config in configs if config["config_name"].startswith("candidates"))
    use = _SCORE.replace("CONFIG", first["config_name"]).replace("SPLIT", first["data_files"][0]["split"])
    parts = [
        f"# {name}: candidates for ranking the next item",
        "Every model that ranks these candidates for these users can be compared with every other. They were drawn once and are "
        "frozen; the hashes tell whether two sets are the same.",
        "## Files",
        "\n".join(f"- `{file}`, {count:,} rows: {_columns(file)}." for file, count in about["rows"].items()),
        "## Use",
        use,
        "## Protocol",
        "\n".join(
            f"- `{file}`: {protocol_line(protocol)}; hash of these rows `{protocol['rows_hash']}`, of the whole split `{protocol['candidates_hash']}`"
            for file, protocol in about["sets"].items()
        ),
        "## Data",
        data_counts(folder),
        "## Limits",
        _limits(cfg, name),
        "## Citation",
        f"The protocol is that of:\n\n```bibtex\n{CITATION}\n```",
    ]
    return DatasetCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n")


def _config(file: str) -> dict[str, Any]:
    """How ``datasets.load_dataset`` finds a file."""
    folder, _, name = file.removesuffix(".parquet").rpartition("/")
    split, _, kind = name.partition("-")
    if not folder:
        return {"config_name": name, "data_files": [{"split": "train", "path": file}]}
    return {"config_name": f"{folder}_{kind}", "data_files": [{"split": split, "path": file}]}


def _columns(file: str) -> str:
    return _COLUMNS[file.partition("/")[0].removesuffix(".parquet")]


def _limits(cfg: DictConfig, name: str) -> str:
    negatives = "Negatives are items that the user never met in these data, which is not the same as items that the user would not like."
    if name == "synthetic":
        return f"- {negatives}\n- Users and items are synthetic."
    return (
        f"- {negatives}\n- Titles, histories and captions come from the dataset `{name}`, whose licence holds for them; read it before you "
        "publish this folder."
    )
