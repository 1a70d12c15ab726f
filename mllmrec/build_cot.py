"""``python -m mllmrec.build_cot``: captions → drafts → refinements → assessment, without training."""

from __future__ import annotations

from omegaconf import DictConfig

from mllmrec.cli import run_app


def build_cot(cfg: DictConfig) -> None:
    """Make what is missing, or say what it would cost."""
    from pathlib import Path

    import numpy as np
    from hydra.core.hydra_config import HydraConfig

    from mllmrec.console import make_console, rows_table
    from mllmrec.cot.built import Built, Confident
    from mllmrec.cot.output import calibration_rows, estimate_rows, stage_rows, write_outputs
    from mllmrec.errors import UserError
    from mllmrec.prepare import prepare
    from mllmrec.randomness import numpy_generator

    console = make_console()
    prepared = prepare(cfg)
    if not isinstance(prepared.cot, Built):
        raise UserError("cot_policy: build_cot makes pseudo, refined, confident or leaky; choose one of them")
    count = len(prepared.train)
    chosen = np.arange(count)
    if cfg.max_samples is not None and cfg.max_samples < count:
        chosen = np.sort(numpy_generator(cfg.seed, "cot samples").permutation(count)[: cfg.max_samples])
    keys = [prepared.train.cot_key(int(index)) for index in chosen]
    if cfg.dry_run:
        estimates = prepared.cot.pipeline.estimates(keys, leak=prepared.cot.leak == "target")
        columns = ("stage", "requests", "prompt tokens", "completion tokens at most", "cost")
        console.print(rows_table("Still to be asked for", columns, estimate_rows(estimates)))
        return
    prepared.cot.make(keys)
    folder = Path(HydraConfig.get().runtime.output_dir)
    titles = dict(zip(prepared.builder.ids, prepared.items.titles.tolist(), strict=True))
    write_outputs(folder, prepared.cot, keys, titles, prepared.summary)
    console.print(
        rows_table(
            "CoT", ("stage", "what", "samples or tokens"), stage_rows(prepared.cot, keys, prepared.summary)
        )
    )
    if isinstance(prepared.cot, Confident) and prepared.cot.reference is not None:
        columns = ("confidence from", "kept", "of them help", "95 %", "mean lift (nats)")
        console.print(rows_table("Does what is kept help?", columns, calibration_rows(prepared.cot, keys)))
    console.print(f"written to {folder}", highlight=False)


def main() -> None:
    """Entry point."""
    run_app(build_cot, "build_cot")


if __name__ == "__main__":
    main()
