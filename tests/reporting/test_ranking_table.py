from __future__ import annotations

from mllmrec.reporting.ranking_table import ranking_costs


def test_rankings_cost_seconds_and_tokens_for_each(write_run, experiment, tmp_path):
    cost = {"seconds": 3.0, "generated_tokens": 120, "peak_memory_mb": 1.0, "rankings": 40}
    write_run(tmp_path / "a", [1, 2], typed=["method=sft"], cost=cost)
    write_run(tmp_path / "b", [1, 2], method="popularity", typed=["method=popularity"])
    table = ranking_costs(experiment(tmp_path))
    found = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
    assert found == {"sft": ["75.0", "3.0"], "popularity": ["–", "–"]}


def test_training_runs_have_no_such_table(write_run, experiment, tmp_path):
    write_run(tmp_path / "a", [1, 2], cost={"seconds": 3.0, "generated_tokens": 120})
    assert ranking_costs(experiment(tmp_path)) is None
