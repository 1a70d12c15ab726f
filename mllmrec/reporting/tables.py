"""The tables of a report: first as cells, then as Markdown, as LaTeX and on the screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table as RichTable
from rich.text import Text

from mllmrec.config.kinds import stage_title
from mllmrec.reasoners.told import TARGET, UNKNOWN
from mllmrec.reporting.comparison import Scores
from mllmrec.reporting.experiment import Experiment
from mllmrec.reporting.runs import KEPT

BEST, SECOND = "best", "second"
DAGGER, DOUBLE_DAGGER = "†", "‡"
LEAK_MARKS = {TARGET: f" {DAGGER}", UNKNOWN: f" {DOUBLE_DAGGER}"}
LEAK_NOTES = {
    TARGET: f"{DAGGER} reasoning was written knowing the target",
    UNKNOWN: f"{DOUBLE_DAGGER} reasoning from a file that does not say whether its writer knew the target",
}


@dataclass(frozen=True)
class Cell:
    """One entry: the number, and its details in smaller print."""

    text: str
    detail: str = ""  # interval
    spread: str = ""  # over seeds
    mark: str = ""  # best or second

    @property
    def sorted_by(self) -> str:
        """What a reader sorts by: the number without its sign for thousands; empty if there is none, so that it comes last."""
        number = self.text.replace(",", "").replace("−", "-")
        try:
            return str(float(number))
        except ValueError:
            return "" if self.text == "–" else self.text


@dataclass(frozen=True)
class Table:
    """Cells with their caption; the first column is text, the others are numbers."""

    title: str
    header: list[str]
    rows: list[list[Cell]]
    caption: str
    muted: set[int] = field(default_factory=set)  # reference rows, such as chance


def marks(values: Sequence[float]) -> list[str]:
    """Which of a column's values are best and second; larger is better.

    Values that look the same get the same mark, so no reader wonders why only one of two 0.566 is bold. A column with
    one value has no best.
    """
    shown = [f"{value:.3f}" for value in values]
    ranked = sorted(set(shown), key=float, reverse=True)
    if len(ranked) < 2:
        return ["" for _ in shown]
    return [BEST if text == ranked[0] else SECOND if text == ranked[1] else "" for text in shown]


def results(experiment: Experiment) -> Table:
    """One row per setting, one column per metric: mean, interval, spread over seeds."""
    scores, metrics = experiment.scores, experiment.metrics
    stages_differ = len({entry.stage for entry in scores}) > 1
    columns = {name: marks([entry.mean(name) for entry in scores]) for name in metrics}
    fillers = [Cell("")] * (2 if stages_differ else 1)
    rows = []
    if all(name in experiment.chance for name in metrics):
        rows.append([Cell("chance"), *fillers, *(Cell(f"{experiment.chance[name]:.3f}") for name in metrics)])
    for name, known in experiment.baselines.items():
        cells = [_known_cell(known, metric) for metric in metrics]
        rows.append([Cell(name), *fillers, *cells])
    muted = set(range(len(rows)))
    for place, entry in enumerate(scores):
        row = [Cell(label_of(entry))]
        if stages_differ:
            row.append(Cell(stages_shown(entry.stage)))
        row.append(Cell(str(len(entry.row.seeds))))
        rows.append(row + [_cell(entry, name, columns[name][place]) for name in metrics])
    header = [experiment.axis, *(["phase"] if stages_differ else []), "seeds", *metrics]
    return Table("Ranking quality", header, rows, _results_caption(experiment, stages_differ), muted)


def comparisons(experiment: Experiment) -> Table | None:
    """Every row against the baseline; None if there is only one row."""
    if not experiment.comparisons:
        return None
    leaks = {row.label: row.leak for row in experiment.rows}
    rows = []
    for entry in experiment.comparisons:
        low, high = entry.interval
        rows.append(
            [
                Cell(entry.label + LEAK_MARKS.get(leaks[entry.label], "")),
                Cell(f"{entry.difference:+.3f}", detail=f"[{low:+.3f}, {high:+.3f}]"),
                Cell(_p(entry.p)),
                Cell(_p(entry.p_holm)),
                Cell("–" if entry.effect is None else f"{entry.effect:+.2f}"),
            ]
        )
    caption = (
        f"{experiment.metric}, each row minus {label_of(experiment.baseline)}, paired by user (n = "
        f"{experiment.comparisons[0].users:,}) on values averaged over seeds, with the 95 % bootstrap interval over "
        "users. p: two-sided sign-flip permutation test; p (Holm): adjusted for the "
        f"{len(rows)} comparison{'s' if len(rows) > 1 else ''} of this table; d: Cohen's d of the paired differences."
    )
    if experiment.chosen_as_best:
        caption += " The baseline is the row that is best on these very users, which favours it."
    caption += "".join(f" {note}." for note in _leak_notes(experiment))
    title = f"{experiment.metric} against {label_of(experiment.baseline)}"
    return Table(title, [experiment.axis, "difference", "p", "p (Holm)", "d"], rows, caption)


def costs(experiment: Experiment) -> Table | None:
    """The cost of a step in each row's phase; None if it was never measured."""
    if not any("seconds_per_step" in entry.cost for entry in experiment.scores):
        return None
    columns = {"tokens_per_prompt": "{:,.0f}", "seconds_per_step": "{:.3f}", "peak_memory_mb": "{:,.0f}"}
    rows = [
        [
            Cell(label_of(entry)),
            Cell(stages_shown(entry.stage)),
            *(
                Cell(form.format(entry.cost[key]) if key in entry.cost else "–")
                for key, form in columns.items()
            ),
        ]
        for entry in experiment.scores
    ]
    header = [experiment.axis, "phase", "tokens per prompt", "seconds per step", "peak memory, MB"]
    caption = (
        "Cost of the phase: mean tokens of the prompts it read, median seconds of its steps, and peak memory, each averaged "
        "over seeds. Compare seconds and memory only between runs on the same machine; without a GPU, memory is that of the "
        "whole process."
    )
    return Table("Cost of a step", header, rows, caption)


def slices(experiment: Experiment) -> Table | None:
    """One row per setting, one column per slice of the users; None if the runs recorded no slices."""
    parts, metric = experiment.slices, experiment.metric
    if not parts:
        return None
    known = experiment.rows[0].runs[0].metrics["slices"]
    rows = []
    for name in experiment.baselines:
        own = [known.get(name, {}).get(part.name) for part in parts]
        rows.append([Cell(name), *(Cell("–") if one is None else _known_cell(one, metric) for one in own)])
    muted = set(range(len(rows)))
    columns = [marks(part.means) for part in parts]
    for place, entry in enumerate(experiment.scores):
        cells = [
            _interval_cell(part.means[place], part.intervals[place], column[place])
            for part, column in zip(parts, columns, strict=True)
        ]
        rows.append([Cell(label_of(entry)), *cells])
    header = [experiment.axis, *(f"{part.name} (n = {part.users:,})" for part in parts)]
    few = ", ".join(part.name for part in parts if part.few)
    caption = (
        f"{metric} by the target's count in training (cold: none; tail and head: a fifth of the training interactions "
        "each), by the items of history shown, and by whether the target has an image; 95 % bootstrap intervals over users."
        + (f" Too few users to say much: {few}." if few else "")
    )
    return Table(f"{metric} in parts of the users", header, rows, caption, muted)


def label_of(entry: Scores) -> str:
    """A row's label, marked if the writer of its reasoning knew the target or may have known it."""
    return entry.row.label + LEAK_MARKS.get(entry.row.leak, "")


def _leak_notes(experiment: Experiment) -> list[str]:
    marked = {row.leak for row in experiment.rows}
    return [note for leak, note in LEAK_NOTES.items() if leak in marked]


def stages_shown(stages: str) -> str:
    """``sft/grpo`` as ``SFT/GRPO``."""
    return "/".join(stage_title(stage) for stage in stages.split("/"))


def protocol_words(experiment: Experiment) -> str:
    """Dataset, split, n, candidates and ranking."""
    protocol = experiment.protocol
    words = [str(protocol["dataset"]), f"{protocol['split']} split", f"n = {protocol['users']:,} users"]
    if protocol.get("num_candidates") is not None:
        words.append(
            f"{protocol['num_candidates']:,} candidates ({protocol.get('negatives', '?')} negatives)"
        )
    words.append(f"{protocol['ranking']} ranking")
    if protocol.get("inference"):
        words.append(f"by {protocol['inference']}")
    if protocol.get("listed", "all") != "all":
        words.append(f"candidates listed: {protocol['listed']}")
    if protocol.get("cot"):
        asked = protocol["cot"] == "asked"
        words.append(f"evaluation prompts {'that ask for' if asked else 'with'} reasoning")
    return ", ".join(words)


def markdown(table: Table) -> str:
    """The table with its caption."""
    aligned = [":--", *("--:" for _ in table.header[1:])]
    lines = [_pipes(table.header), _pipes(aligned)]
    for row in table.rows:
        lines.append(_pipes([_markdown_cell(cell) for cell in row]))
    return "\n".join([*lines, "", _escaped(table.caption)]) + "\n"


def latex(table: Table, label: str) -> str:
    """A booktabs table, at most as wide as the text; intervals have their own line below the numbers."""
    lines = [
        r"\begin{table*}[t]",
        r"\centering\small",
        rf"\caption{{{tex(table.caption)}}}",
        rf"\label{{tab:{label}}}",
        r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
        r"\toprule",
        " & ".join(map(tex, table.header)) + r" \\",
        r"\midrule",
    ]
    for row in table.rows:
        lines.append(" & ".join(_tex_marked(cell) for cell in row) + r" \\")
        if any(cell.detail for cell in row):
            small = [tex(" ".join(filter(None, (cell.detail, cell.spread)))) for cell in row]
            lines.append(" & ".join(rf"\scriptsize {text}" if text else "" for text in small) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}}", r"\end{table*}"]
    return "\n".join(lines) + "\n"


def on_screen(table: Table, detailed: Sequence[str] | None = None) -> RichTable:
    """The table for a terminal.

    Args:
        table: any table.
        detailed: columns that also show intervals and spread; None for all. The files show them in all columns.
    """
    shown = RichTable(title=table.title, caption=table.caption, title_justify="left", caption_justify="left")
    for place, name in enumerate(table.header):
        shown.add_column(name, justify="right" if place else "left", overflow="fold")
    for row in table.rows:
        cells = []
        for name, cell in zip(table.header, row, strict=True):
            text = Text(cell.text, style={BEST: "bold", SECOND: "underline"}.get(cell.mark, ""))
            if detailed is None or name in detailed:
                small = "\n".join(filter(None, (cell.detail, cell.spread)))
                text.append(f"\n{small}" if small else "", style="dim not bold not underline")
            cells.append(text)
        shown.add_row(*cells)
    return shown


_TEX = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    DAGGER: r"\textsuperscript{\textdagger}",
    DOUBLE_DAGGER: r"\textsuperscript{\textdaggerdbl}",
    "±": r"$\pm$",
    "–": "--",
    "−": "$-$",
    "<": "$<$",
    ">": "$>$",
}


def tex(text: str) -> str:
    """``text`` with LaTeX's special characters escaped."""
    return "".join(_TEX.get(sign, sign) for sign in text)


def _cell(entry: Scores, name: str, mark: str) -> Cell:
    low, high = entry.intervals[name]
    spread = entry.spread(name)
    return Cell(
        f"{entry.mean(name):.3f}",
        detail=f"[{low:.3f}, {high:.3f}]",
        spread="" if spread is None else f"± {spread:.3f}",
        mark=mark,
    )


def _known_cell(known: Mapping[str, Any], metric: str) -> Cell:
    if metric not in known["metrics"]:
        return Cell("–")
    return _interval_cell(known["metrics"][metric], known["intervals"].get(metric))


def _interval_cell(value: float, interval: Sequence[float] | None, mark: str = "") -> Cell:
    detail = "" if interval is None else f"[{interval[0]:.3f}, {interval[1]:.3f}]"
    return Cell(f"{value:.3f}", detail=detail, mark=mark)


def _results_caption(experiment: Experiment, stages_differ: bool) -> str:
    sets = {tuple(entry.row.seeds) for entry in experiment.scores}
    several = any(len(seeds) > 1 for seeds in sets)
    words = [f"{protocol_words(experiment)}."]
    if not stages_differ:
        words.append(f"Phase: {stages_shown(experiment.scores[0].stage)}.")
    if experiment.weights != KEPT:
        words.append(f"{experiment.weights.capitalize()} weights of each phase.")
    if len(sets) == 1:
        seeds = ", ".join(map(str, next(iter(sets))))
        words.append(
            f"Mean over users{' and seeds' if several else ', seed'} {seeds} [95 % bootstrap interval over users]."
        )
    else:
        words.append("Mean over users and each row's seeds [95 % bootstrap interval over users].")
    if several:
        words.append("±: standard deviation over seeds.")
    if len(experiment.scores) > 1:
        words.append("Best in bold, second underlined.")
    words.append("Intervals and tests are over users for the seeds at hand, not over seeds.")
    words += [f"{note}." for note in _leak_notes(experiment)]
    return " ".join(words)


def _p(value: float) -> str:
    return f"{value:.4f}" if value < 0.01 else f"{value:.3f}"


def _pipes(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _escaped(text: str) -> str:
    """``text`` escaped, so that Markdown shows it as it is."""
    for sign in "\\|*_<>[]`":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())


def _markdown_cell(cell: Cell) -> str:
    text = _escaped(cell.text)
    if cell.mark == BEST:
        text = f"**{text}**"
    elif cell.mark == SECOND:
        text = f"<ins>{text}</ins>"
    return " ".join(filter(None, (text, cell.detail, cell.spread)))


def _tex_marked(cell: Cell) -> str:
    text = tex(cell.text)
    return {BEST: rf"\textbf{{{text}}}", SECOND: rf"\underline{{{text}}}"}.get(cell.mark, text)
