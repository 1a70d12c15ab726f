"""Writes a run's policy as a folder that transformers or peft loads, checks it, and sends it if asked to."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mllmrec.cache import atomic_folder, library_version, write_json
from mllmrec.config.phases import phases_of
from mllmrec.errors import UserError, choices
from mllmrec.exporting import description
from mllmrec.exporting.card import base_name, is_local, model_card
from mllmrec.exporting.weights import merged, one_adapter
from mllmrec.jobs.finished_run import FinishedRun, open_policy, settings_of_run
from mllmrec.run.folder import RunFolder
from mllmrec.screen.transformers_output import without_bars

log = logging.getLogger(__name__)

DTYPES = ("float32", "bfloat16", "float16")
SCRIPT = Path(__file__).with_name("rank.py")
_EXACT = 1e-3  # largest difference that float32 arithmetic in another order explains, with room


@dataclass(frozen=True)
class Form:
    """How a policy is exported.

    Args:
        merge: whether the adapters are merged into the model; else one adapter stands for all of them.
        dtype: of the weights: one of `DTYPES`; None: the run's own.
        check: whether to load the folder again and compare log-probabilities.
    """

    merge: bool = True
    dtype: str | None = None
    check: bool = True


@dataclass(frozen=True)
class Exported:
    """What was written.

    Args:
        path: the folder.
        stage: the phase whose policy it holds.
        difference: the largest difference of a log-probability to the run's own policy; None: not compared.
    """

    path: Path
    stage: str
    difference: float | None


def export_run(
    run: str,
    out: str | Path,
    stage: str | None = None,
    form: Form = Form(),
    overwrite: bool = False,
    trust: Sequence[str] = (),
) -> Exported:
    """Write the policy of a finished run into a folder of its own, which appears whole or not at all.

    Args:
        run: the run's folder.
        out: the folder to write.
        stage: the phase; None: the last.
        form: how.
        overwrite: whether an earlier export in ``out`` is replaced.
        trust: packages and servers that the run's settings may name.

    Raises:
        UserError: the run has no language model, or one that plain transformers cannot load; ``out`` is taken; the form does
            not fit the run.
    """
    target = Path(out).absolute()
    refuse_taken(target, description.NAME, overwrite)
    if form.dtype is not None and form.dtype not in DTYPES:
        raise UserError(f"dtype={form.dtype}: must be {choices(DTYPES)}, or null for the run's own")
    cfg = settings_of_run(run, trust)
    refuse_foreign(run, cfg, form)
    opened = open_policy(run, stage, trust=trust)
    if not form.merge and not opened.policy.phases:
        raise UserError(
            f"merge=false: {run} changed no weights up to {opened.stage}, so there is no adapter: set merge=true"
        )
    with atomic_folder(target) as folder:
        about = description.described(opened)
        usable = description.ranks_directly(opened) and about["chat"]["before"] is not None
        about = {**about, **_write_weights(opened, form, folder)}
        opened.policy.tokenizer.save_pretrained(folder)
        _generation(opened).save_pretrained(folder)
        if usable:
            shutil.copyfile(SCRIPT, folder / SCRIPT.name)
        model_card(opened, RunFolder(run), about, usable).save(folder / "README.md")
        write_json(folder / description.NAME, about)
        compares = form.check and _is_loaded_plainly(about)
        difference = _compared(folder, about) if compares else None
    return Exported(target, opened.stage, difference)


def refuse_taken(target: Path, mark: str, overwrite: bool) -> None:
    """Refuse a folder that holds something else, or an earlier export that is to stay.

    Args:
        target: the folder.
        mark: the file by which an export is known.
        overwrite: whether an earlier one may be replaced.

    Raises:
        UserError: it is taken.
    """
    if not target.exists():
        return
    if not (target / mark).is_file():
        raise UserError(f"out={target} exists and is no earlier export: choose another folder")
    if not overwrite:
        raise UserError(
            f"out={target} holds an export: choose another folder, or replace it with overwrite=true"
        )


def refuse_foreign(path: str, cfg: Any, form: Form) -> None:
    """Refuse runs without a language model, and models that only this package can run.

    Args:
        path: the run's folder.
        cfg: its settings.
        form: how it is to be exported.

    Raises:
        UserError: in one sentence, why not.
    """
    if cfg.method.recommender is not None:
        raise UserError(
            f"{path} is a run of method={cfg.method.name}, which has no language model to export: name a run that trained one"
        )
    if cfg.prompt.get("item_tokens", "none") != "none":
        raise UserError(
            f"{path} has prompt.item_tokens={cfg.prompt.item_tokens}: its prompts hold tokens that no plain model of "
            "transformers reads, so it cannot be exported; rank with mllmrec.recommend"
        )
    if form.merge and cfg.backbone.get("quantization"):
        raise UserError(
            f"{path} has backbone.quantization={cfg.backbone.quantization}, and its adapters do not fit merged into such weights: "
            "set merge=false"
        )
    if not form.merge and not (cfg.backbone.get("lora") or {}).get("rank"):
        raise UserError(f"merge=false: {path} trained all weights and has no adapters: set merge=true")


def _write_weights(run: FinishedRun, form: Form, folder: Path) -> dict[str, Any]:
    """Write the weights; return what ``mllmrec.json`` says of them."""
    policy, backbone = run.policy, run.cfg.backbone
    own = next(policy.model.parameters()).dtype
    named = [phase.name for phase in phases_of(run.cfg)]
    trained = list(policy.phases) or named[: named.index(run.stage) + 1]
    wanted = None if form.dtype is None else getattr(torch, form.dtype)
    base = None
    with without_bars(folder):
        if form.merge:
            model = merged(policy, wanted or own)
            model.save_pretrained(folder)
        else:
            model, name = one_adapter(policy, wanted)
            config = model.peft_config[name]
            config.base_model_name_or_path = _base_path(backbone)
            config.revision = backbone.get("revision")
            model.save_pretrained(folder, selected_adapters=[name])
            _move_up(folder / name, folder)
            base = {
                "path": _base_path(backbone),
                "revision": backbone.get("revision"),
                "dtype": str(backbone.dtype),
                "quantization": backbone.get("quantization"),
                "gguf_file": backbone.get("gguf_file"),
            }
    dtype = form.dtype or str(own).removeprefix("torch.")
    return {
        "base": base,
        "weights": {"merged": form.merge, "dtype": dtype, "phases": trained, "stage": run.stage},
        "written_by": f"mllmrec {library_version('mllmrec')}",
    }


def _base_path(backbone: Mapping[str, Any]) -> str:
    path = str(base_name(backbone))
    local = Path(path).expanduser()
    return str(local.absolute()) if local.exists() else path


def _move_up(inner: Path, folder: Path) -> None:
    """Adapters of other names than peft's own are saved one folder below."""
    if inner.is_dir():
        for file in inner.iterdir():
            shutil.move(file, folder / file.name)
        inner.rmdir()


def _generation(run: FinishedRun) -> Any:
    """Settings with which ``generate`` writes the model's most likely answer and stops after it."""
    from transformers import GenerationConfig

    settings, answers = run.cfg.eval, run.answers
    longest = answers.longest if run.prepared.builder.places == 1 else answers.longest_list
    if run.prepared.asks_under(settings):
        longest += settings.max_reasoning_tokens
    return GenerationConfig(
        do_sample=False,
        max_new_tokens=int(longest),
        eos_token_id=run.policy.end_token,
        pad_token_id=run.policy.padding_token,
        bos_token_id=run.policy.tokenizer.bos_token_id,
    )


def _is_loaded_plainly(about: Mapping[str, Any]) -> bool:
    base = about["base"]
    return base is None or not (base["quantization"] or base["gguf_file"])


def _compared(folder: Path, about: dict[str, Any]) -> float:
    """Load the folder with plain libraries; return the largest difference of the example's log-probabilities.

    Raises:
        RuntimeError: in float32 it is larger than arithmetic explains, so that the folder is another policy.
    """
    from mllmrec.exporting.rank import load, log_probabilities

    with without_bars(folder):
        model, tokenizer = load(folder, about)
    example = about["example"]
    found = log_probabilities(model, tokenizer, about, example["text"], example["answers"])
    known = example["log_probabilities"]
    difference = max(abs(a - b) for a, b in zip(found, known, strict=True))
    types = {about["weights"]["dtype"], (about["base"] or about["weights"])["dtype"]}
    if types == {"float32"} and difference > _EXACT:
        raise RuntimeError(
            f"the exported model is not the run's policy: log-probabilities differ by {difference:.4f}"
        )
    return difference


def refuse_local_base(run: str, form: Form, trust: Sequence[str] = ()) -> None:
    """Refuse to send an adapter whose base nobody else has, before anything is loaded.

    Raises:
        UserError: the base is a folder of this machine.
    """
    base = base_name(settings_of_run(run, trust).backbone)
    if not form.merge and base is not None and is_local(base):
        raise UserError(
            "push with merge=false: the base model is a folder of this machine, which nobody else has: set merge=true"
        )
