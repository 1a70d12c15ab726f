from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from mllmrec.reporting.charts import learning as learning_chart
from mllmrec.reporting.charts import parts as parts_chart
from mllmrec.reporting.pictures import (
    cost_against_quality,
    draw_pictures,
    inflation,
    learning_curves,
    sensitivity,
)
from mllmrec.reporting.series import Logs
from mllmrec.reporting.slice_figure import families, slice_figure

LOG = """stage,step,reward,val/NDCG@3,reward_with_cot
sft,0,,0.10,
sft,10,,0.20,
grpo,0,-1.0,0.20,
grpo,10,0.0,,0.5
grpo,20,1.0,{last},1.0
"""


def lines(axis):
    """Drawn lines with data, as lists of (x, y)."""
    return [list(zip(*line.get_data(), strict=True)) for line in axis.lines if len(line.get_xdata())]


@pytest.fixture
def study(tmp_path, write_run, experiment):
    for seed, last in enumerate([0.3, 0.5]):
        log = LOG.format(last=last) + ("grpo,30,,0.9,\n" if seed else "")
        ranks = {"sft": [1, 2, 9], "grpo": [1, 1, 9]}
        write_run(
            tmp_path / f"a{seed}",
            ranks,
            seed=seed,
            method="r1",
            typed=["method=r1"],
            log=log,
        )
    write_run(tmp_path / "b", [1, 9, 9], method="bprmf", typed=["method=bprmf"], seconds=40)
    return experiment(tmp_path)


def test_a_series_is_the_mean_of_the_steps_that_every_seed_logged(study):
    logs = Logs(study.rows)
    series = logs.series(study.rows[0], "grpo", "val/NDCG@3")
    assert series.steps.tolist() == [0, 20]
    assert series.mean.tolist() == pytest.approx([0.2, 0.4])
    assert (series.low[1], series.high[1]) == (0.3, 0.5)
    assert logs.series(study.rows[1], "grpo", "val/NDCG@3") is None
    assert logs.series(study.rows[0], "sft", "reward") is None
    assert logs.stages("val/NDCG@3") == ["sft", "grpo"]


def test_learning_curves_have_a_panel_a_stage(study):
    figure, _, caption = learning_curves(study, Logs(study.rows))
    assert [axis.get_title() for axis in figure.axes] == ["SFT", "GRPO"]
    assert lines(figure.axes[0])[0] == [(0, 0.1), (10, 0.2)]
    assert np.array(lines(figure.axes[1])[0]).ravel().tolist() == pytest.approx([0, 0.2, 20, 0.4])
    # The band from .3 to .5 at the last step.
    assert figure.axes[1].collections[0].get_paths()[0].vertices[:, 1].max() == 0.5
    assert "smallest and largest seed" in caption


def test_inflation_sets_the_scaled_reward_beside_the_held_out_metric(study):
    figure, _, _ = inflation(study, Logs(study.rows))
    left, right = figure.axes
    reward, with_cot = lines(left)
    # From -1 to 1 onto 0 to 1; for prompts with reasoning this gives 0.5 and 1.
    assert [value for _, value in reward] == pytest.approx([0, 0.5, 1])
    assert with_cot == [(10, 0.75), (20, 1.0)]
    assert [value for _, value in lines(right)[0]] == pytest.approx([0.2, 0.4])
    assert left.get_title() == "r1"


def test_cost_is_the_mean_over_seeds_of_the_seconds_of_all_stages(study):
    figure, _, _ = cost_against_quality(study, Logs(study.rows))
    axis = figure.axes[0]
    points = [tuple(map(float, np.ravel(container.lines[0].get_data()))) for container in axis.containers]
    # Two phases of 10 s, one of 40; NDCG@3 2/3 and 1/3.
    assert points == [(20, pytest.approx(2 / 3)), (40, pytest.approx(1 / 3))]
    assert [text.get_text() for text in axis.texts] == ["bprmf", "r1"]
    assert sensitivity(study, Logs(study.rows)) is None


def test_sensitivity_draws_the_metric_over_the_key_for_each_choice_of_the_others(
    tmp_path, write_run, experiment
):
    ranks = {0.0: [1, 9, 9, 9], 0.5: [1, 1, 9, 9], 0.1: [1, 1, 1, 9]}
    for policy in ("a", "b"):
        for ratio, values in ranks.items():
            typed = [f"cot_policy={policy}", f"mix_ratio={ratio}"]
            write_run(
                tmp_path / f"{policy}{ratio}",
                values if policy == "a" else [1, 1, 1, 1],
                settings={"mix_ratio": ratio},
                chosen={"cot_policy": policy},
                typed=typed,
            )
    study = experiment(tmp_path)
    figure, title, _ = sensitivity(study, Logs(study.rows))
    assert title == "Sensitivity to mix_ratio"
    first, second = lines(figure.axes[0])
    assert first == [(0.0, 0.25), (0.1, 0.75), (0.5, 0.5)]
    assert second == [(0.0, 1.0), (0.1, 1.0), (0.5, 1.0)]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["cot_policy=a", "cot_policy=b"]
    low, high = study.scores[0].intervals["NDCG@3"]
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    assert sorted(set(band[band[:, 0] == 0.0, 1])) == [low, high]


def test_values_too_close_for_their_labels_stand_evenly_spaced(tmp_path, write_run, experiment):
    # 0.01 is 2 % of the way from 0 to 0.5.
    for beta, values in {0.0: [1, 9], 0.01: [1, 1], 0.5: [9, 9]}.items():
        write_run(
            tmp_path / str(beta), values, settings={"grpo": {"beta": beta}}, typed=[f"grpo.beta={beta}"]
        )
    study = experiment(tmp_path)
    figure, _, caption = sensitivity(study, Logs(study.rows))
    assert lines(figure.axes[0]) == [[(0, 0.5), (1, 1.0), (2, 0.0)]]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["0", "0.01", "0.5"]
    assert "evenly spaced" in caption


def test_many_rows_are_all_drawn(tmp_path, write_run, experiment):
    for number in range(9):
        method = f"method_{number}"
        write_run(
            tmp_path / str(number),
            {"grpo": [1, number + 1]},
            method=method,
            typed=[f"method={method}"],
            log=LOG.format(last=0.3).replace("grpo,20,1.0", f"grpo,20,{number / 8}"),
            seconds=number + 1,
        )
    study = experiment(tmp_path)
    drawn = draw_pictures(study, tmp_path / "out")
    assert [picture.name for picture in drawn] == ["learning", "inflation", "cost"]
    assert all(picture.path.read_bytes().startswith(b"\x89PNG") for picture in drawn)
    figure, _, _ = inflation(study, Logs(study.rows))
    assert sum(axis.get_title().startswith("method_") for axis in figure.axes) == 9
    # Rewards of all panels lie between -1 and 1, so the last ones, 0 to 1 in eighths, are drawn at 1/2 to 1.
    last = [lines(axis)[0][-1][1] for axis in figure.axes if axis.get_title().startswith("method_")]
    assert sorted(last) == pytest.approx([(1 + number / 8) / 2 for number in range(9)], abs=1e-6)
    figure, _, _ = cost_against_quality(study, Logs(study.rows))
    heights = sorted(text.xyann[1] for text in figure.axes[0].texts)
    assert min(np.diff(heights)) > 0.05
    assert heights[0] >= 0
    assert heights[-1] <= 1
    assert isinstance(figure, Figure)


def test_runs_that_logged_nothing_have_no_curves(tmp_path, write_run, experiment):
    write_run(tmp_path / "a", [1, 2])
    study = experiment(tmp_path)
    assert draw_pictures(study, tmp_path / "out") == []


def test_labels_with_signs_of_formulas_are_drawn_as_they_are(tmp_path, write_run, experiment):
    for number, name in enumerate(["$\\frac$", "100$ & $x_1$"]):
        write_run(
            tmp_path / str(number),
            {"grpo": [1, 2, 9]},
            method=name,
            typed=["method"],
            log=LOG.format(last=0.5),
            seconds=10.0 * 30**number,
        )
    drawn = draw_pictures(experiment(tmp_path), tmp_path / "out")
    assert [picture.name for picture in drawn] == ["learning", "inflation", "cost"]
    figure, _, _ = cost_against_quality(experiment(tmp_path), Logs([]))
    assert figure.axes[0].get_xscale() == "log"
    assert figure.axes[0].xaxis.get_major_formatter()(100.0) == "100"


@pytest.mark.filterwarnings("error::UserWarning")
def test_slices_have_a_panel_a_division_and_a_point_a_row(tmp_path, write_run, experiment):
    parts = [["cold", "short"], ["head", "long"], ["head", "short"]]
    write_run(tmp_path / "a", [1, 2, 9], slices=parts)
    study = experiment(tmp_path)
    figure, _, caption = slice_figure(study)
    assert [axis.get_title() for axis in figure.axes] == [
        "by the target's count in training",
        "by the history shown",
    ]
    assert "Too few users to say much: cold, head, short, long." in caption
    figure.draw_without_rendering()  # a warning if there is no room for the panels
    ends = [axis.get_tightbbox() for axis in figure.axes]
    assert all(one.y0 >= 0 and one.x0 >= 0 and one.x1 <= figure.bbox.width for one in ends)
    first, second = parts_chart(study, families(study)).views[0].panels
    # NDCG@3 of ranks 1, 2 and 9.
    assert [line.y for line in first.lines] == [pytest.approx([1.0, (1 / np.log2(3)) / 2])]
    assert [line.y for line in second.lines] == [pytest.approx([0.5, 1 / np.log2(3)])]
    assert first.x_names == ["cold (n = 1)", "head (n = 2)"]


def test_a_chart_has_a_line_a_seed_and_one_of_their_mean(study):
    chart = learning_chart(study, Logs(study.rows))
    assert [view.y_label for view in chart.views] == ["held-out NDCG@3", "reward (running mean)"]
    _, grpo = chart.views[0].panels
    assert [(line.name, line.x, line.y, line.faint) for line in grpo.lines] == [
        ("r1, seed 0, run a0", [0, 20], [0.2, 0.3], True),
        ("r1, seed 1, run a1", [0, 20, 30], [0.2, 0.5, 0.9], True),
        ("r1, mean of 2 seeds", [0, 20], pytest.approx([0.2, 0.4]), False),
    ]
