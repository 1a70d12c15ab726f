from __future__ import annotations

import json

from mllmrec.reporting.training_table import training

HEADER = "stage,step,frac_reward_zero_std,clip_ratio/region_mean,entropy,kl,effective_sample_size,tokens_per_learnt\n"


def test_numbers_of_training_are_means_over_steps_and_seeds(write_run, experiment, tmp_path):
    ranks = {"sft": [1, 2], "grpo": [1, 1]}
    for seed, share in enumerate((0.25, 0.75)):
        log = f"{HEADER}grpo,0,0.5,0,1,,1,4\ngrpo,1,{share},0.5,3,,0.5,3\nsft,0,1,1,9,9,9,9\n"
        write_run(tmp_path / f"a{seed}", ranks, seed=seed, method="r1", typed=["method=r1"], log=log)
        write_run(tmp_path / f"b{seed}", [1, 9], seed=seed, typed=["method=sft"])
    found = experiment(tmp_path)
    table = training(found)
    assert table.header == [
        "method",
        "phase",
        "equal groups",
        "clipped tokens",
        "entropy",
        "effective share",
        "drawn per learnt",
    ]
    # (0.5 + 0.25) / 2 and (0.5 + 0.75) / 2; the tokens are those at the end.
    shown = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
    assert shown["r1"] == ["GRPO", "0.500", "0.250", "2.000", "0.750", "3.00"]
    assert shown["sft"] == ["SFT", *["–"] * 5]
    rows = {
        row["label"]: row["training"] for row in json.loads(json.dumps(found.as_json(), default=str))["rows"]
    }
    assert (rows["r1"]["entropy"], rows["sft"]) == (2.0, {})


def test_without_rollouts_there_is_no_table_of_training(write_run, experiment, tmp_path):
    write_run(tmp_path / "a", [1, 2], log="stage,step,loss\nsft,0,1\n")
    assert training(experiment(tmp_path)) is None
