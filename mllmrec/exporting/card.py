"""The model card of an export, written from the run's own files. It holds no path of the machine that wrote it."""

from __future__ import annotations

import json
import platform
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from omegaconf import OmegaConf

from mllmrec.cache import library_version
from mllmrec.config.kinds import KINDS, stage_title
from mllmrec.config.phases import phases_of
from mllmrec.jobs.finished_run import FinishedRun
from mllmrec.jobs.results_tables import protocol_line
from mllmrec.run.folder import RunFolder
from mllmrec.run.settings import read_settings

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

_LIBRARIES = ("mllmrec", "torch", "transformers", "peft", "tokenizers", "safetensors")
_LOCAL = ("cache_dir", "logger")  # settings that say where, not what
# A path from the root of a file system: the part before its last name.
_FOLDERS = re.compile(
    r"(?<![\w.:/-])(?:~|[A-Za-z]:)?[/\\](?:[^\s,'\"\[\]{}=/\\]+[/\\])*(?=[^\s,'\"\[\]{}=/\\])"
)
_ONE_PATH = re.compile(r"['\"]?(?:~|/|[A-Za-z]:\\)[^,\[]*$")
_SEPARATORS, _QUOTES = re.compile(r"[/\\]"), "'\"/"
CITATION = """\
@article{wang2026mllmrec,
  title   = {MLLMRec-R1: Incentivizing Reasoning Capability in Large Language Models for Multimodal Sequential Recommendation},
  author  = {Wang, Yu and Yang, Yonghui and Wu, Le and Wu, Jiancan and Xu, Hefei and Lin, Hui},
  journal = {arXiv preprint arXiv:2603.06243},
  year    = {2026}
}"""


def model_card(run: FinishedRun, folder: RunFolder, about: Mapping[str, Any], usable: bool) -> ModelCard:
    """The card: what the model is, how to use it, results, data, settings, versions, limits, citation.

    Args:
        run: the opened run.
        folder: its folder.
        about: the content of ``mllmrec.json``.
        usable: whether ``rank.py`` stands beside it.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    metrics = folder.metrics()
    protocol, own = metrics["protocol"], metrics["stages"][run.stage]
    name = f"{protocol['dataset']}-{run.cfg.method.name}-{run.stage}"
    base = base_name(run.cfg.backbone)
    data = ModelCardData(
        model_name=name,
        library_name="transformers" if about["weights"]["merged"] else "peft",
        pipeline_tag="text-generation",
        base_model=base if base and not is_local(base) else None,
        tags=["recommendation", "sequential-recommendation", "mllmrec", "grpo"],
        eval_results=[
            EvalResult(
                task_type="recommendation",
                task_name="Sequential recommendation",
                dataset_type=str(protocol["dataset"]),
                dataset_name=str(protocol["dataset"]),
                dataset_split=str(protocol["split"]),
                metric_type=metric,
                metric_value=value,
            )
            for metric, value in own.items()
        ],
    )
    parts = [
        f"# {name}",
        _what(run, about, base),
        "## Use",
        _use(about, usable),
        "## Results",
        f"{protocol_line(protocol)}.\n\n{_results(metrics, run.stage)}",
        "## Data",
        data_counts(folder),
        "## Training",
        _training(run, folder),
        "## Limits",
        "\n".join(f"- {limit}" for limit in _limits(run, metrics)),
        "## Citation",
        f"The method is that of:\n\n```bibtex\n{CITATION}\n```",
    ]
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n")


def base_name(backbone: Mapping[str, Any]) -> str | None:
    """The pretrained model behind a run, as its settings name it; None for a model from scratch."""
    path = backbone.get("path")
    return None if path is None else str(path)


def is_local(base: str) -> bool:
    """Whether a base model is a folder of this machine."""
    return Path(base).expanduser().exists() or without_folders(base) != base


def without_folders(text: str) -> str:
    """A setting's value, or ``key=value``, whose absolute paths keep only their last name.

    >>> without_folders("dataset.root=/home/me/my data/movies")
    'dataset.root=…/movies'
    """
    key, equals, value = text.partition("=") if re.match(r"[\w.+~@/-]+=", text) else ("", "", text)
    if _ONE_PATH.match(value):
        return f"{key}{equals}…/{_SEPARATORS.split(value.strip(_QUOTES))[-1]}"
    return key + equals + _FOLDERS.sub("…/", value)


def _what(run: FinishedRun, about: Mapping[str, Any], base: str | None) -> str:
    told = without_folders(Path(base).name if base and is_local(base) else base or "")
    start = f"from `{told}`" if told else "from scratch"
    phases = ", then ".join(map(stage_title, about["weights"]["phases"])) or "no phase that changes weights"
    form = "Adapters of all phases are merged into the weights."
    if not about["weights"]["merged"]:
        form = f"One LoRA adapter holds what all phases changed. It belongs on `{told}` as it was published."
    elif run.policy.lora is None:
        form = "All weights were trained."
    return (
        f"A language model that recommends the next item, trained {start} by {phases}. It reads a user's history and a list of "
        f"candidates and answers with one candidate. {form} Exported from a run of mllmrec."
    )


def _use(about: Mapping[str, Any], usable: bool) -> str:
    prompts = (
        "`mllmrec.json` has the wording of prompts, the text that the chat template puts around them, the item table, and an "
        "example with the log-probability of each answer, to check other software by."
    )
    if not usable:
        return (
            "The model's rankings need more than the log-probability of each answer "
            f"(`eval.ranking={about['evaluation']['ranking']}`), so no script is enclosed. {prompts}"
        )
    some = about["example"]
    history, candidates = " ".join(some["history"]), " ".join(some["candidates"])
    needs = "torch and transformers" if about["weights"]["merged"] else "torch, transformers and peft"
    return (
        f"`rank.py` ranks with {needs} alone:\n\n```bash\npython rank.py --history {history} --candidates {candidates}\n```\n\n"
        f"{prompts} Prompts of another form are new to the model, so it ranks badly with them."
    )


def _results(metrics: Mapping[str, Any], stage: str) -> str:
    stages = list(metrics["stages"])
    stages = stages[: stages.index(stage) + 1]
    known = metrics["baselines"]
    columns: list[tuple[str, Mapping[str, Any], Mapping[str, Any]]] = [("chance", metrics["chance"], {})]
    columns += [(name, entry["metrics"], entry.get("intervals", {})) for name, entry in known.items()]
    columns += [
        (stage_title(name), metrics["stages"][name], metrics["intervals"].get(name, {})) for name in stages
    ]
    lines = [
        "| | " + " | ".join(name for name, _, _ in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for metric in metrics["stages"][stage]:
        cells = [_cell(values.get(metric), intervals.get(metric)) for _, values, intervals in columns]
        lines.append(f"| {metric} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", "In brackets: 95 % bootstrap intervals over users."])


def _cell(value: float | None, interval: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def data_counts(folder: RunFolder) -> str:
    """The counts of the run's data, as a list."""
    if not folder.data_path.is_file():
        return "The run has no counts."
    summary = json.loads(folder.data_path.read_text(encoding="utf-8"))
    lines = [
        f"- {part}: " + ", ".join(f"{count:,} {name}" for name, count in summary[key].items())
        for part, key in (("in all", "whole"), ("used", "used"))
        if key in summary
    ]
    lines += [f"- {name}: {part['samples']:,} samples" for name, part in summary.get("samples", {}).items()]
    for step, dropped in summary.get("filters", {}).get("dropped", {}).items():
        counts = ", ".join(f"{count:,} {name}" for name, count in dropped.items() if count)
        lines += [f"- dropped by {step}: {counts}"] if counts else []
    return "\n".join([f"Dataset `{summary.get('dataset')}`:", "", *lines])


def _training(run: FinishedRun, folder: RunFolder) -> str:
    typed: list[str] = []
    overrides = folder.hydra_path / "overrides.yaml"
    if overrides.is_file():
        typed = [str(text) for text in read_settings(overrides) or []]
    known = [without_folders(text) for text in typed if not text.lstrip("+~").startswith(("hydra", *_LOCAL))]
    command = shlex.join(["python", "-m", "mllmrec.train", *known])
    libraries = ", ".join(f"{name} {library_version(name)}" for name in _LIBRARIES)
    settings: Any = OmegaConf.to_container(run.cfg)
    used = {phase.kind.name for phase in phases_of(run.cfg)}
    kept = {
        key: value for key, value in settings.items() if key not in _LOCAL and key not in set(KINDS) - used
    }
    listing = yaml.safe_dump(_without_places(kept), sort_keys=False, allow_unicode=True)
    return (
        f"```bash\n{command}\n```\n\nExported with Python {platform.python_version()}, {libraries}.\n\n"
        f"<details><summary>All settings</summary>\n\n```yaml\n{listing}```\n\n</details>"
    )


def _without_places(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_places(inner) for key, inner in value.items() if key not in _LOCAL}
    if isinstance(value, list):
        return [_without_places(inner) for inner in value]
    return without_folders(value) if isinstance(value, str) else value


def _limits(run: FinishedRun, metrics: Mapping[str, Any]) -> list[str]:
    protocol, own = metrics["protocol"], metrics["stages"][run.stage]
    ranked = f"{protocol.get('num_candidates')} candidates"
    limits = [
        f"This is one run with seed {run.cfg.get('seed', protocol['seed'])}. The intervals are over users; other seeds give other numbers.",
        f"It was measured by ranking {ranked} ({protocol.get('negatives', 'all')} negatives). Numbers among other candidates differ, "
        "and do not compare with these.",
        f"Training prompts list at most {run.prepared.trained_list} candidates and {run.prepared.history_length} items of history. "
        "Longer lists are new to the model.",
        f"It knows the {len(run.prepared.items):,} items of `mllmrec.json` and users like those of `{protocol['dataset']}`. "
        "Nothing was measured on other items, groups of users or languages.",
    ]
    for name, entry in metrics["baselines"].items():
        ahead = [metric for metric, value in own.items() if entry["metrics"].get(metric, -1.0) > value]
        if ahead:
            limits.append(
                f"The baseline {name}, which needs no language model, is ahead of it in {', '.join(ahead)}."
            )
    if protocol["dataset"] == "synthetic":
        limits.append(
            "Users and items are synthetic: it shows how the method works, and recommends nothing real."
        )
    if base_name(run.cfg.backbone) is not None:
        limits.append("The licence and the limits of the base model hold for it, too.")
    limits.append("Likes of past users are all that it learnt from, so it repeats their biases.")
    return limits
