"""``python -m mllmrec.export run=DIR out=DIR``: a run's model as a folder that transformers and peft load by themselves.

``merge=true`` (the default) adds the adapters of all phases to the base: a plain model. ``merge=false`` writes one adapter
for the plain base. If several phases stand on each other, it holds their matrices side by side, which is the same function;
the last phase's adapter alone is not. DoRA adapters on each other have no such form and are refused; merged they are exact.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mllmrec.stopping import stoppable

if TYPE_CHECKING:
    from omegaconf import DictConfig


def export(cfg: DictConfig) -> None:
    """Write the folder, send it if asked to, and print where it is."""
    from mllmrec.config.trust import trusted
    from mllmrec.exporting.folder import Form, export_run, refuse_local_base
    from mllmrec.exporting.hub import push, refuse_name
    from mllmrec.screen.console import make_console, relative

    form, trust = Form(cfg.merge, cfg.dtype, cfg.check), trusted(cfg.trust)
    if cfg.push is not None:
        refuse_name(cfg.push)
        refuse_local_base(cfg.run, form, trust)
    done = export_run(cfg.run, cfg.out, cfg.stage, form, cfg.overwrite, trust)
    console = make_console()
    console.print(
        f"the policy after {done.stage}: {relative(done.path)}", highlight=False, markup=False, soft_wrap=True
    )
    if done.difference is not None:
        console.print(
            f"loaded again without mllmrec: log-probabilities differ from the run's by at most {done.difference:.1e}",
            highlight=False,
        )
    if cfg.push is not None:
        console.print(
            f"sent: {push(done.path, cfg.push, cfg.private)}", highlight=False, markup=False, soft_wrap=True
        )


def main() -> None:
    """Entry point."""
    with stoppable("mllmrec.export"):
        from mllmrec.cli import run_app

        run_app(export, "export")


if __name__ == "__main__":
    main()
