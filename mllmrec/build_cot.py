"""``python -m mllmrec.build_cot``: captions → drafts → refinements → assessment, without training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mllmrec.stopping import stoppable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from omegaconf import DictConfig

    from mllmrec.captions import Captioner


def build_cot(cfg: DictConfig) -> None:
    """Make the missing captions and reasoning, or say what they would cost."""
    from functools import partial
    from pathlib import Path

    import numpy as np
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from mllmrec.config.trust import named_in
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
    slow = slow_captioners(cfg) if cfg.dry_run else {}
    judge = partial(open_judge, trust=named_in(OmegaConf.to_container(cfg, resolve=True)))
    prepared = prepare(without_captioning(cfg, slow), open_judge=judge)
    if not isinstance(prepared.cot, Built):
        raise UserError("cot_policy: build_cot makes pseudo, refined, confident or leaky; choose one of them")
    # The samples that training would consider first.
    ids = [prepared.train.samples.sample_id(index) for index in range(len(prepared.train))]
    chosen = np.sort(select_cot(ids, 1.0, cfg.seed)[: cfg.max_samples])
    keys = [prepared.train.cot_key(int(index)) for index in chosen]
    if cfg.dry_run:
        estimates = prepared.cot.estimates(keys)
        counts = prepared.summary["captions"]
        costs = {place: captioner.estimate(pending(counts, place)) for place, captioner in slow.items()}
        estimates = {place: cost for place, cost in costs.items() if cost is not None} | estimates
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


def slow_captioners(cfg: DictConfig) -> dict[str, Captioner]:
    """The captioners whose captions cost money or a model's time, by their place in the settings."""
    from hydra.utils import instantiate

    from mllmrec.captions import Joined

    if cfg.caption._target_ is None:
        return {}
    captioner = instantiate(cfg.caption)
    places = {"caption": captioner}
    if isinstance(captioner, Joined):
        places = {f"caption.parts.{name}": part for name, part in captioner.parts.items()}
    return {place: part for place, part in places.items() if part.estimate(0) is not None}


def without_captioning(cfg: DictConfig, places: Iterable[str]) -> DictConfig:
    """The configuration with captioners that only count missing captions.

    Args:
        cfg: the configuration.
        places: where the captioners to be replaced stand in it.
    """
    from omegaconf import OmegaConf, open_dict

    changed = cfg.copy()
    with open_dict(changed):
        for place in places:
            stand_in = {
                "_target_": "mllmrec.captions.pending.Pending",
                "captioner": OmegaConf.select(cfg, place),
                "cache_dir": cfg.cache_dir,
            }
            OmegaConf.update(changed, place, stand_in, merge=False)
    return changed


def pending(counts: Mapping[str, int], place: str) -> int:
    """How many captions of the captioner at ``place`` are still to be made, from the counts of `caption_items`."""
    return counts.get("pending" if place == "caption" else f"{place.rpartition('.')[2]}: pending", 0)


def main() -> None:
    """Entry point."""
    with stoppable("mllmrec.build_cot"):
        from mllmrec.cli import run_app

        run_app(build_cot, "build_cot")


if __name__ == "__main__":
    main()
