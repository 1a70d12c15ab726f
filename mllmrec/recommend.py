"""``python -m mllmrec.recommend run=DIR user=ID``: a ranked list with titles for one user or one history."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mllmrec.stopping import stoppable

if TYPE_CHECKING:
    from omegaconf import DictConfig


def recommend(cfg: DictConfig) -> None:
    """Print the list."""
    from mllmrec.config.trust import trusted
    from mllmrec.jobs.recommendation import Recommender, history_of
    from mllmrec.screen.console import make_console, rows_table

    recommender = Recommender.load(cfg.run, cfg.stage, trusted(cfg.trust))
    run = recommender.run
    history, _, who = history_of(run.prepared, cfg.user, cfg.history)
    asked = {"candidates": cfg.candidates, "k": None, "shortlist": cfg.shortlist}
    if cfg.user is None:
        ranked = recommender.rank(cfg.history, **asked)
    else:
        ranked = recommender.rank_for(cfg.user, **asked)
    trained = run.prepared.trained_list
    shortlist = recommender.shortlist if cfg.shortlist is None else cfg.shortlist
    builder = run.prepared.builder
    shown = history[-run.prepared.history_length :]
    console = make_console()
    console.print(
        rows_table(
            f"History of {who}", ("item", "title"), [(builder.ids[i], builder.titles[i]) for i in shown]
        )
    )
    rows = [(place, *found) for place, found in enumerate(ranked[: cfg.top], 1)]
    two_prompts = 2 <= shortlist < min(cfg.top, len(ranked)) and len(ranked) > trained
    note = f"ranks 1 to {shortlist} come from a prompt that lists them; the others from one without a list"
    columns = ("rank", "item", "title", recommender.score_name)
    console.print(rows_table("Recommended", columns, rows, note if two_prompts else None))


def main() -> None:
    """Entry point."""
    with stoppable("mllmrec.recommend"):
        from mllmrec.cli import run_app

        run_app(recommend, "recommend")


if __name__ == "__main__":
    main()
