"""``python -m mllmrec.recommend run=DIR user=ID``: a ranked list with titles for one user or one history."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mllmrec.stopping import stoppable

if TYPE_CHECKING:
    from omegaconf import DictConfig


def recommend(cfg: DictConfig) -> None:
    """Print the list."""
    from mllmrec.jobs.finished_run import open_run
    from mllmrec.jobs.recommendation import history_of, rank_items, score_name
    from mllmrec.screen.console import make_console, rows_table

    run = open_run(cfg.run, cfg.stage)
    history, excluded, who = history_of(run.prepared, cfg.user, cfg.history)
    trained = run.prepared.trained_list
    shortlist = trained if cfg.shortlist is None else cfg.shortlist
    ranked = rank_items(run, history, excluded, candidates=cfg.candidates, shortlist=shortlist)
    builder = run.prepared.builder
    shown = history[-run.prepared.history_length :]
    console = make_console()
    console.print(
        rows_table(
            f"History of {who}", ("item", "title"), [(builder.ids[i], builder.titles[i]) for i in shown]
        )
    )
    rows = [
        (place, builder.ids[item], builder.titles[item], score)
        for place, (item, score) in enumerate(ranked[: cfg.top], 1)
    ]
    two_prompts = 2 <= shortlist < min(cfg.top, len(ranked)) and len(ranked) > trained
    note = f"ranks 1 to {shortlist} come from a prompt that lists them; the others from one without a list"
    columns = ("rank", "item", "title", score_name(run))
    console.print(rows_table("Recommended", columns, rows, note if two_prompts else None))


def main() -> None:
    """Entry point."""
    with stoppable("mllmrec.recommend"):
        from mllmrec.cli import run_app

        run_app(recommend, "recommend")


if __name__ == "__main__":
    main()
