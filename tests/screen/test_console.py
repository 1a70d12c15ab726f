from __future__ import annotations

import io

import torch
from lightning.pytorch import LightningModule, Trainer
from rich.console import Console

from mllmrec.jobs.results_tables import (
    difference_lines,
    print_results,
    print_rollouts,
    protocol_line,
    validity_lines,
)
from mllmrec.run.rollouts import Rollout
from mllmrec.screen.console import print_closing, rows_table
from mllmrec.screen.progress import StageProgress, track
from mllmrec.screen.training_callbacks import TrainingProgress

NAMES = ["HR@1", "HR@3", "HR@5", "HR@10", "NDCG@3", "NDCG@5", "NDCG@10", "MRR"]
METRICS = {
    "protocol": {
        "dataset": "amazon_beauty",
        "split": "test",
        "users": 22363,
        "ranking": "likelihood",
        "num_candidates": 10,
        "negatives": "uniform",
        "candidates_hash": "abc",
        "seed": 0,
    },
    "chance": dict.fromkeys(NAMES, 0.3),
    "stages": {stage: dict.fromkeys(NAMES, 0.703) for stage in ("zero_shot", "sft", "grpo")},
    "intervals": {stage: {name: [0.697, 0.709] for name in NAMES} for stage in ("zero_shot", "sft", "grpo")},
    "validity": {"grpo": {"invalid": 0.0, "duplicate": 0.0, "off_candidate": 0.0, "first_position": 0.125}},
    "differences": {
        "grpo - sft": {
            "NDCG@3": {"mean": 0.017, "interval": [0.01, 0.024], "p": 0.0002, "users": 22363},
            "HR@3": {"mean": -0.002, "interval": [-0.009, 0.005], "p": 0.55, "users": 22363},
        }
    },
}


def plain_console(width=100):
    return Console(file=io.StringIO(), width=width)


def test_the_main_table_is_whole_at_100_columns():
    console = plain_console(100)
    print_results(METRICS, console)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 100
    for name in NAMES:
        row = next(line for line in lines if f" {name} " in line and "[" in line and "GRPO" not in line)
        assert row.count("0.703 [0.697, 0.709]") == 3
        assert "0.300" in row
    header = next(line for line in lines if "zero-shot" in line)
    assert header.index("zero-shot") < header.index("SFT") < header.index("GRPO")


def test_the_protocol_travels_with_the_table():
    # Fault 28 of the release: results carry tag and K only.
    console = plain_console(120)
    print_results(METRICS, console)
    line = (
        "amazon_beauty, test split, n = 22,363 users, 10 candidates (uniform negatives), likelihood ranking, "
        "protocol seed 0"
    )
    assert protocol_line(METRICS["protocol"]) == line
    # The caption may wrap at the table's width.
    assert line in " ".join(console.file.getvalue().split())


def test_numbers_of_leaking_reasoning_say_so():
    line = protocol_line({**METRICS["protocol"], "leak": "target"})
    assert line.endswith("protocol seed 0, ABLATION: reasoning was written knowing the target")
    line = protocol_line({**METRICS["protocol"], "leak": "unknown"})
    assert line.endswith(
        "protocol seed 0, reasoning is from a file that does not say whether its writer knew the target"
    )
    assert protocol_line({**METRICS["protocol"], "leak": "none"}) == protocol_line(METRICS["protocol"])


def test_the_table_says_what_was_listed_where_that_was_not_every_candidate():
    assert protocol_line({**METRICS["protocol"], "listed": "all"}) == protocol_line(METRICS["protocol"])
    line = protocol_line({**METRICS["protocol"], "listed": "all, though training prompts list 4"})
    assert "likelihood ranking, candidates listed: all, though training prompts list 4, protocol" in line


def test_the_chance_of_the_first_place_is_that_of_the_list():
    def line(**protocol):
        (found,) = validity_lines({**METRICS, "protocol": {**METRICS["protocol"], **protocol}})
        return found

    assert "GRPO 0.125 of users; 0.100 by chance" in line()
    assert "GRPO 0.125 of users; 0.250 by chance" in line(num_listed=4)
    assert "shown first" not in line(num_listed=0)


def test_differences_are_shown_whatever_their_sign():
    assert difference_lines(METRICS) == [
        "GRPO − SFT HR@3 -0.002 [-0.009, +0.005] p=0.5500 (paired, n = 22,363)",
        "GRPO − SFT NDCG@3 +0.017 [+0.010, +0.024] p=0.0002 (paired, n = 22,363)",
    ]


def part(value, users=300, few=False):
    intervals = {} if users == 1 else {"NDCG@3": [value - 0.1, value + 0.1]}
    return {"holds": "", "users": users, "few": few, "metrics": {"NDCG@3": value}, "intervals": intervals}


def test_slices_stand_beside_counting_and_sft():
    slices = {
        "popularity": {"cold": part(0.1, 12, True), "head": part(0.2)},
        "item_knn": {"cold": part(0.21, 12, True), "head": part(0.7)},
        "zero_shot": {"cold": part(0.22, 12, True), "head": part(0.23)},
        "sft": {"cold": part(0.4, 12, True), "head": part(0.5)},
        "grpo": {"cold": part(0.5, 12, True), "head": part(0.6)},
    }
    console = plain_console(100)
    print_results({**METRICS, "slices": slices}, console)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 100
    start = next(place for place, line in enumerate(lines) if "NDCG@3 in parts of the users" in line)
    header, _, *rows = lines[start + 2 : start + 6]
    words = ["users with", "users", "item_knn", "SFT", "GRPO"]
    assert [cell.strip() for cell in header.strip("┃").split("┃")] == words
    assert [[cell.strip() for cell in row.strip("│").split("│")] for row in rows] == [
        ["cold target", "12 (few)", "0.210 [0.110, 0.310]", "0.400 [0.300, 0.500]", "0.500 [0.400, 0.600]"],
        ["head target", "300", "0.700 [0.600, 0.800]", "0.500 [0.400, 0.600]", "0.600 [0.500, 0.700]"],
    ]
    assert "(few): too few users to say much" in " ".join(" ".join(lines[start:]).split())


def test_slices_of_a_baselines_own_run_are_its_own():
    slices = {name: {"head": part(0.7, users=1)} for name in ("popularity", "item_knn", "sasrec")}
    metrics = {
        "protocol": METRICS["protocol"],
        "stages": {"sasrec": dict.fromkeys(NAMES, 0.7)},
        "slices": slices,
    }
    text = shown(metrics)
    assert "NDCG@3 in parts of the users" in text
    assert "SFT" not in text
    assert text.count("0.700") >= 2


def shown(metrics):
    console = plain_console(200)
    print_results(metrics, console)
    return " ".join(console.file.getvalue().split())


def test_no_table_of_validity_where_every_candidate_is_scored():
    text = shown(METRICS)
    assert "Validity of answers" not in text
    assert (
        "likelihood ranking: no answer can be invalid; the candidate shown first is ranked first for GRPO 0.125 "
        in text
    )
    assert "of users; 0.100 by chance" in text


def generated(**rates):
    kept = {"invalid": 0.0, "duplicate": 0.0, "off_candidate": 0.0, "short": 1.0, "first_position": 0.1}
    return {
        **METRICS,
        "protocol": {**METRICS["protocol"], "ranking": "generate"},
        "validity": {"zero_shot": {**kept, **rates}, "sft": kept},
    }


def test_generated_answers_that_hardly_ever_count_are_explained():
    text = shown(generated(invalid=0.953, off_candidate=0.906))
    assert "Validity of answers" in text
    assert "Most generated answers name no listed candidate (invalid: zero-shot 0.953; " in text
    assert "does not list: zero-shot 0.906)" in text
    assert "eval.ranking=constrained" in text
    # Half of the answers is not enough for the remark.
    calm = shown(generated(invalid=0.5, off_candidate=0.5))
    assert "Validity of answers" in calm
    assert "Most generated answers" not in calm


def test_a_stage_without_intervals_or_with_other_metrics_still_prints():
    console = plain_console()
    protocol = METRICS["protocol"]
    print_results(
        {"protocol": protocol, "stages": {"popularity": {"HR@1": 0.26}, "sft": {"MRR": 0.5}}}, console
    )
    text = console.file.getvalue()
    assert "popularity" in text
    assert "0.260" in text
    assert "–" in text


def test_markup_in_data_is_text_and_not_style():
    console = plain_console()
    console.print(rows_table("Items", ["id", "title"], [[1, "[bold]x[/bold]"], [2, "[/red]"]]))
    rollout = Rollout(3, "[u1]", "[ITEM_7] Red Lamp [/b]", 1.0, {"hit": 1.0}, 0.5)
    other = Rollout(3, "u2", "nothing", 0.3, {"format": 0.3}, -0.5)
    print_rollouts([rollout, other], console)
    text = console.file.getvalue()
    for shown in (
        "[bold]x[/bold]",
        "[/red]",
        "[ITEM_7] Red Lamp [/b]",
        "[u1]",
        "+0.50",
        "-0.50",
        "hit",
        "format",
    ):
        assert shown in text


def test_the_closing_panel_names_existing_files_relative_to_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "curves.png").touch()
    console = plain_console()
    files = [("curves", tmp_path / "run" / "curves.png"), ("rollouts", tmp_path / "run" / "rollouts.parquet")]
    print_closing(files, [("recommend", "python -m mllmrec.recommend run=run user=U1")], console)
    text = console.file.getvalue()
    assert "run/curves.png" in text
    assert str(tmp_path) not in text
    assert "rollouts" not in text
    assert "python -m mllmrec.recommend run=run user=U1" in text


def test_plain_progress_prints_a_line_every_ten_seconds_and_at_the_end():
    now = 0.0
    console = plain_console()
    with StageProgress("captions", 100, "items", console, clock=lambda: now) as progress:
        for _ in range(25):
            now += 1.0
            progress.advance(2, "kept 1")
    # 2 items a second: 20 done after 10 s leaves 80 = 40 s; 40 after 20 s leaves 60 = 30 s; stopped at 50.
    assert console.file.getvalue().splitlines() == [
        "captions: 20/100, 2.0 items/s, 0:00:40 left, kept 1",
        "captions: 40/100, 2.0 items/s, 0:00:30 left, kept 1",
        "captions: 50/100, 2.0 items/s, 0:00:25 left, kept 1",
    ]


def test_a_line_at_the_very_end_is_not_said_twice():
    now = 0.0
    console = plain_console()
    with StageProgress("rank", 2, "users", console, clock=lambda: now) as progress:
        now = 10.0
        progress.advance(2)
    assert console.file.getvalue() == "rank: 2/2, 5.0 s/users, 0:00:10 elapsed\n"


def test_a_slow_stage_shows_seconds_per_unit_and_a_finished_one_its_time():
    now = 0.0
    console = plain_console()
    with StageProgress("GRPO", 2, "step", console, clock=lambda: now) as progress:
        now = 8.0
        progress.advance(2)
    assert console.file.getvalue() == "GRPO: 2/2, 4.0 s/step, 0:00:08 elapsed\n"


def test_track_yields_everything_and_weighs_batches():
    console = plain_console()
    assert list(track([[1, 2], [3]], "evaluate", 3, "users", weigh=len, console=console)) == [[1, 2], [3]]
    assert console.file.getvalue().startswith("evaluate: 3/3, ")


def test_a_bar_is_drawn_in_a_terminal():
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    with StageProgress("captions", 4, "items", console) as progress:
        progress.advance(4, "loss 0.5")
    text = console.file.getvalue()
    assert "captions" in text
    assert "4/4" in text
    assert "loss 0.5" in text


class Toy(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(2.0))

    def training_step(self, batch, index):
        loss = self.weight**2 / 2
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit_with(progress, **settings):
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        callbacks=[progress],
        enable_checkpointing=False,
        enable_model_summary=False,
        **settings,
    )
    trainer.fit(Toy(), torch.utils.data.DataLoader(torch.zeros(6, 1)))


def test_training_counts_optimiser_steps_and_shows_what_is_logged():
    console = plain_console()
    fit_with(TrainingProgress("SFT", ["loss", "absent"], console), accumulate_grad_batches=2)
    # 6 batches in twos are 3 optimiser steps; the weight stays 2, so the loss is 2² / 2.
    line = console.file.getvalue()
    assert line.startswith("SFT: 3/3, ")
    assert line.rstrip().endswith("loss 2")


def test_training_draws_a_bar_in_a_terminal():
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    fit_with(TrainingProgress("SFT", ["loss"], console))
    text = console.file.getvalue()
    assert "6/6" in text
    assert "loss 2" in text
