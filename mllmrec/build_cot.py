"""``python -m mllmrec.build_cot``: captions → drafts → refinements → assessment, without training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mllmrec.stopping import stoppable

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from mllmrec.captions import Captioner


def build_cot(cfg: DictConfig) -> None:
    """Make the missing captions and reasoning, or say what they would cost."""
    from pathlib import Path

    import numpy as np
    from hydra.core.hydra_config import HydraConfig

    from mllmrec.cot.built import Built
    from mllmrec.cot.confident import Confident
    from mllmrec.cot.funnel import funnel_rows
    from mllmrec.cot.mixing import select_cot
    from mllmrec.cot.output import asked_now, calibration_rows, estimate_rows, write_outputs
    from mllmrec.cot.released import line_indices
    from mllmrec.errors import UserError
    from mllmrec.jobs.judge import open_judge
    from mllmrec.samples.prepare import prepare
    from mllmrec.screen.console import make_console, rows_table

    console = make_console()
    captioner = slow_captioner(cfg) if cfg.dry_run else None
    prepared = prepare(cfg if captioner is None else without_captioning(cfg), open_judge=open_judge)
    if not isinstance(prepared.cot, Built):
        raise UserError("cot_policy: build_cot makes pseudo, refined, confident or leaky; choose one of them")
    # The samples that training would consider first.
    ids = [prepared.train.samples.sample_id(index) for index in range(len(prepared.train))]
    chosen = np.sort(select_cot(ids, 1.0, cfg.seed)[: cfg.max_samples])
    keys = [prepared.train.cot_key(int(index)) for index in chosen]
    if cfg.dry_run:
        estimates = prepared.cot.estimates(keys)
        pending = prepared.summary["captions"].get("pending", 0)
        if captioner is not None and (missing := captioner.estimate(pending)) is not None:
            estimates = {"caption": missing, **estimates}
        header = ("stage", "requests", "prompt tokens", "completion tokens at most", "cost")
        console.print(rows_table("Still to be asked for", header, estimate_rows(estimates)))
        return
    prepared.cot.make(keys)
    folder = Path(HydraConfig.get().runtime.output_dir)
    lines = line_indices(cfg.dataset.get("root"))
    stages = write_outputs(folder, prepared.cot, keys, prepared.summary, lines, cfg.samples_shown, cfg.seed)
    steps = ("stage", "of", "in", "kept", "dropped", "reasons")
    console.print(rows_table("CoT", steps, funnel_rows(stages), asked_now(prepared.cot)))
    if isinstance(prepared.cot, Confident) and prepared.cot.reference is not None:
        columns = ("confidence from", "kept", "of them help", "95 %", "mean lift (nats)")
        console.print(rows_table("Does what is kept help?", columns, calibration_rows(prepared.cot, keys)))
    console.print(f"written to {folder}; to read: {folder / 'samples.html'}", highlight=False)


def slow_captioner(cfg: DictConfig) -> Captioner | None:
    """The captioner, if captions cost money or a model's time."""
    from hydra.utils import instantiate

    captioner = None if cfg.caption._target_ is None else instantiate(cfg.caption)
    return captioner if captioner is not None and captioner.estimate(0) is not None else None


def without_captioning(cfg: DictConfig) -> DictConfig:
    """The configuration with a captioner that only counts missing captions."""
    from omegaconf import open_dict

    changed = cfg.copy()
    with open_dict(changed):
        changed.caption = {
            "_target_": "mllmrec.captions.pending.Pending",
            "captioner": cfg.caption,
            "cache_dir": cfg.cache_dir,
        }
    return changed


def main() -> None:
    """Entry point."""
    with stoppable("mllmrec.build_cot"):
        from mllmrec.cli import run_app

        run_app(build_cot, "build_cot")


if __name__ == "__main__":
    main()
