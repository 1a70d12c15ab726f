from __future__ import annotations

import io
import json
import shutil
import subprocess

import pytest
from rich.console import Console

from mllmrec.reporting.notes import notes
from mllmrec.reporting.tables import (
    Cell,
    Table,
    comparisons,
    costs,
    latex,
    markdown,
    marks,
    on_screen,
    results,
    tex,
)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.2, 0.5, 0.3], ["", "best", "second"]),
        # Values that look the same get the same mark; second is the next value that looks different.
        ([0.56649, 0.56651, 0.5], ["second", "best", ""]),
        ([0.5661, 0.5659, 0.5, 0.4], ["best", "best", "second", ""]),
        ([0.5, 0.4, 0.4], ["best", "second", "second"]),
        # As numbers, not as text.
        ([2.0, 10.0], ["second", "best"]),
        ([0.5], [""]),
        ([0.5, 0.5], ["", ""]),
    ],
)
def test_best_and_second_by_hand(values, expected):
    assert marks(values) == expected


@pytest.fixture
def study(tmp_path, write_run, experiment):
    # HR@1: sft 2 of 4 and 1 of 4; grpo 3 of 4 and 3 of 4.
    for seed, (low, high) in enumerate([([1, 1, 9, 9], [1, 1, 1, 9]), ([1, 9, 9, 9], [1, 9, 1, 1])]):
        write_run(tmp_path / f"a{seed}", low, seed=seed, typed=["method=sft"])
        write_run(
            tmp_path / f"b{seed}",
            {"sft": low, "grpo": high},
            seed=seed,
            method="mllmrec_r1",
            typed=["method=mllmrec_r1"],
            settings={"cot_policy.leak": "target"},
        )
    return experiment(tmp_path)


def test_the_table_holds_means_spread_marks_and_its_protocol(study):
    table = results(study)
    # With ten candidates every target is within 10, so HR@10 says nothing.
    assert table.header == [
        "method",
        "phase",
        "seeds",
        "HR@1",
        "HR@3",
        "NDCG@3",
        "HR@5",
        "NDCG@5",
        "NDCG@10",
        "MRR",
    ]
    chance, sft, grpo = table.rows
    assert [cell.text for cell in chance[:5]] == ["chance", "", "", "0.100", "0.300"]
    assert [cell.text for cell in sft[:4]] == ["sft", "SFT", "2", "0.375"]
    assert [cell.text for cell in grpo[:4]] == ["mllmrec_r1 †", "GRPO", "2", "0.750"]
    # .5 and .25 lie .125 from their mean: .125 * sqrt(2).
    assert (sft[3].spread, grpo[3].spread) == ("± 0.177", "± 0.000")
    assert (sft[3].mark, grpo[3].mark) == ("second", "best")
    for words in (
        "toy, test split, n = 4 users, 10 candidates (uniform negatives), likelihood ranking.",
        "seeds 0, 1",
        "Intervals and tests are over users for the seeds at hand, not over seeds.",
        "† reasoning was written knowing the target",
    ):
        assert words in table.caption


def test_the_tests_table_names_baseline_correction_and_how_it_was_chosen(study):
    table = comparisons(study)
    assert table is not None
    assert table.title == "NDCG@3 against mllmrec_r1 †"
    assert [cell.text for cell in table.rows[0][:2]] == ["sft", "-0.375"]
    assert "1 comparison of this table" in table.caption
    assert "The baseline is the row that is best on these very users" in table.caption


def test_a_named_baseline_is_not_called_best_and_leaking_rows_keep_their_dagger(tmp_path, study, experiment):
    table = comparisons(experiment(tmp_path, baseline="method=sft"))
    assert table is not None
    assert "very users" not in table.caption
    assert table.rows[0][0].text == "mllmrec_r1 †"
    assert "† reasoning was written knowing the target" in table.caption


def test_reasoning_from_a_file_that_does_not_say_has_a_mark_of_its_own(tmp_path, write_run, experiment):
    for name, leak, ranks in (
        ("a", "none", [1, 9, 9]),
        ("b", "unknown", [1, 1, 9]),
        ("c", "target", [1, 1, 1]),
    ):
        write_run(tmp_path / name, ranks, method=name, typed=[f"method={name}"], protocol={"leak": leak})
    found = experiment(tmp_path)
    assert [row[0].text for row in results(found).rows] == ["chance", "a", "b ‡", "c †"]
    table = comparisons(found)
    assert [row[0].text for row in table.rows] == ["a", "b ‡"]
    for caption in (results(found).caption, table.caption):
        assert "‡ reasoning from a file that does not say whether its writer knew the target" in caption
    assert "† reasoning was written knowing the target" in results(found).caption
    assert [row["leak"] for row in found.as_json()["rows"]] == ["none", "unknown", "target"]
    assert tex("‡") == r"\textsuperscript{\textdaggerdbl}"


def test_a_single_row_is_compared_with_nothing_and_marked_nowhere(tmp_path, write_run, experiment):
    write_run(tmp_path / "a", [1, 2], seed=5)
    single = experiment(tmp_path)
    table = results(single)
    assert comparisons(single) is None
    assert {cell.mark for row in table.rows for cell in row} == {""}
    assert "seed 5" in table.caption
    assert "Best in bold" not in table.caption
    assert "±" not in table.caption
    assert "†" not in table.caption


def test_jobs_that_take_no_part_are_named(tmp_path, write_run, experiment):
    write_run(tmp_path / "good", [1, 2])
    write_run(tmp_path / "open", [1, 2], finished=False)
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "failed.json").write_text(json.dumps({"error": f"UserError: {name} is wrong"}))
    failed, unended = notes(experiment(tmp_path))
    assert failed.startswith("2 jobs failed: ")
    assert "x (UserError: x is wrong); " in failed
    assert unended == f"1 job not finished: {tmp_path / 'open'}"


def test_a_resumed_run_is_named_in_one_line_with_where_it_went_on(tmp_path, write_run, experiment):
    for name in ("whole", "resumed"):
        write_run(tmp_path / name, [1, 2], typed=[f"method={name}"], method=name)
    begun = (
        "2026-01-31 12:00:00,000 INFO mllmrec.run.job_folder: goes on from an earlier attempt in this folder"
    )
    (tmp_path / "whole" / "run.log").write_text("2026-01-31 12:00:00,000 INFO mllmrec: ranks users\n")
    (tmp_path / "resumed" / "run.log").write_text(
        f"{begun}\n2026-01-31 12:00:01,000 INFO mllmrec.run.progress: sft: goes on at step 40\n"
        "2026-01-31 12:00:02,000 WARNING mllmrec.run.attempt: resumed: goes on, but the code of mllmrec or a library has "
        f"changed since the run began, so its phases come from two versions\n{begun}\n"
    )
    assert notes(experiment(tmp_path)) == [
        f"1 run interrupted and resumed: {tmp_path / 'resumed'} (SFT after step 40, between phases, with other code)"
    ]


TABLE = Table(
    "T",
    ["", "HR@1"],
    [
        [Cell("mix_ratio=0.1 a|b †"), Cell("0.5", "[0.4, 0.6]", "± 0.1", "best")],
        [Cell("b"), Cell("0.4", mark="second")],
    ],
    "95 % of R&D, $x_1$",
)


def test_markdown_marks_and_escapes():
    assert markdown(TABLE) == (
        "|  | HR@1 |\n| :-- | --: |\n"
        "| mix\\_ratio=0.1 a\\|b † | **0.5** [0.4, 0.6] ± 0.1 |\n"
        "| b | <ins>0.4</ins> |\n\n"
        "95 % of R&D, $x\\_1$\n"
    )


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles_and_a_wide_table_fits_the_text(tmp_path):
    wide = Table(
        "wide", ["", *(f"metric_{n}" for n in range(20))], [[Cell("a_b", "[1, 2]")] * 21], "100 % & more"
    )
    document = (
        r"\documentclass{article}\usepackage[utf8]{inputenc}\usepackage{textcomp,booktabs,graphicx}"
        r"\begin{document}" + latex(TABLE, "toy") + latex(wide, "wide") + r"\end{document}"
    )
    (tmp_path / "paper.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=100)
    said = done.stdout.decode(errors="replace")
    assert done.returncode == 0, said
    assert "Overfull" not in said


def test_latex_marks_escapes_and_puts_intervals_below():
    lines = latex(TABLE, "toy").splitlines()
    assert r"\caption{95 \% of R\&D, \$x\_1\$}" in lines
    assert r"mix\_ratio=0.1 a|b \textsuperscript{\textdagger} & \textbf{0.5} \\" in lines
    assert r" & \scriptsize [0.4, 0.6] $\pm$ 0.1 \\" in lines
    assert r"b & \underline{0.4} \\" in lines
    assert [line for line in lines if "rule" in line] == [r"\toprule", r"\midrule", r"\bottomrule"]
    assert tex("a_b^c~d\\e{f}#") == r"a\_b\textasciicircum{}c\textasciitilde{}d\textbackslash{}e\{f\}\#"


def test_the_screen_shows_every_mean_in_a_pipe_and_intervals_where_asked(study):
    out = io.StringIO()
    Console(file=out, width=120).print(on_screen(results(study), ["HR@1"]))
    text = out.getvalue()
    for words in ("0.375", "0.750", "± 0.177", "method", "mllmrec_r1 †", "chance"):
        assert words in text
    assert "…" not in text
    # HR@1 of the first and of the second row has one each.
    assert text.count("±") == 2 + 1  # and the caption


def test_costs_are_means_over_seeds_of_what_every_seed_measured(write_run, experiment, tmp_path):
    measured = {"seconds_per_step": 1.0, "tokens_per_prompt": 1200.4}
    for seed in (0, 1):
        cost = {**measured, "seconds_per_step": 1.0 + seed, **({"peak_memory_mb": 700.0} if seed else {})}
        write_run(tmp_path / f"a{seed}", [1, 2], seed=seed, typed=["method=sft"], cost=cost)
    write_run(tmp_path / "b", [1, 2], method="popularity", typed=["method=popularity"])
    table = costs(experiment(tmp_path))
    found = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
    assert found == {
        "sft": ["SFT", "1,200", "1.500", "–"],
        "popularity": ["SFT", "–", "–", "–"],
    }


def test_without_measured_steps_there_is_no_table_of_costs(study):
    assert costs(study) is None
