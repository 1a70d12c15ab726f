"""The tables that a job shows at its end: results, weights, validity of answers, rollouts. They compute nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mllmrec.config.kinds import stage_title
from mllmrec.evaluation.metrics import cutoffs_of, objective_name
from mllmrec.reasoners.told import TARGET, UNKNOWN
from mllmrec.run.rollouts import Rollout
from mllmrec.screen.console import MIN_PLAIN_WIDTH, make_console

_MOSTLY = 0.5  # share of invalid answers above which the table needs an explanation

_PARTS = {
    "cold": "cold target",
    "tail": "tail target",
    "middle": "middle target",
    "head": "head target",
    "short": "short history",
    "long": "long history",
}
_CHANGED = {"none": "without", "swapped": "another user's", "shuffled": "words shuffled"}


def protocol_line(protocol: Mapping[str, Any]) -> str:
    """The protocol in one line, for the bottom of every table of results."""
    candidates = protocol.get("num_candidates")
    negatives = protocol.get("negatives")
    parts = [str(protocol["dataset"]), f"{protocol['split']} split", f"n = {protocol['users']:,} users"]
    if candidates is not None:
        parts.append(f"{candidates:,} candidates" + (f" ({negatives} negatives)" if negatives else ""))
    parts.append(f"{protocol['ranking']} ranking")
    if "inference" in protocol:
        parts.append(f"by {protocol['inference']}")
    if protocol.get("listed", "all") != "all":
        parts.append(f"candidates listed: {protocol['listed']}")
    parts.append(f"protocol seed {protocol['seed']}")
    if protocol.get("leak") == TARGET:
        parts.append("ABLATION: reasoning was written knowing the target")
    if protocol.get("leak") == UNKNOWN:
        parts.append("reasoning is from a file that does not say whether its writer knew the target")
    return ", ".join(parts)


def _cell(value: float | None, interval: Sequence[float] | None, between: str = " ") -> str:
    if value is None:
        return "–"
    if interval is None:
        return f"{value:.3f}"
    return f"{value:.3f}{between}[{interval[0]:.3f}, {interval[1]:.3f}]"


def results_table(metrics: Mapping[str, Any], width: int = MIN_PLAIN_WIDTH) -> Table:
    """The main table: a row per metric, a column per phase, with 95 % intervals, chance, baselines and the protocol.

    Args:
        metrics: the content of `metrics.json` (`RunFolder.metrics`).
        width: the screen's width in characters; in a wider table, intervals stand below their numbers.
    """
    stages = metrics["stages"]
    chance = metrics.get("chance", {})
    baselines = metrics.get("baselines", {})
    wide = 12 + 9 * bool(chance) + sum(len(name) + 3 for name in baselines) + 23 * len(stages)
    between = " " if wide <= width else "\n"
    table = Table(
        title="Ranking quality, mean over users [95 % interval]",
        caption=protocol_line(metrics["protocol"]),
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("metric", no_wrap=True)
    if chance:
        table.add_column("chance", justify="right", no_wrap=True)
    for name in baselines:
        table.add_column(name, justify="right", no_wrap=True)
    for stage in stages:
        table.add_column(stage_title(stage), justify="right", no_wrap=True)
    names = dict.fromkeys(name for values in stages.values() for name in values)
    for name in names:
        cells = [_cell(chance.get(name), None)] if chance else []
        cells += [_cell(known["metrics"].get(name), None) for known in baselines.values()]
        for stage, values in stages.items():
            interval = metrics.get("intervals", {}).get(stage, {}).get(name)
            cells.append(_cell(values.get(name), interval, between))
        table.add_row(name, *cells)
    return table


def difference_lines(
    metrics: Mapping[str, Any], names: Sequence[str] = ("HR@1", "HR@3", "NDCG@3")
) -> list[str]:
    """One line for each paired comparison and computed metric, whatever its sign."""
    lines = []
    for pair, values in metrics.get("differences", {}).items():
        later, _, earlier = pair.partition(" - ")
        for name in names:
            if name not in values:
                continue
            low, high = values[name]["interval"]
            lines.append(
                f"{stage_title(later)} − {stage_title(earlier)} {name} {values[name]['mean']:+.3f} "
                f"[{low:+.3f}, {high:+.3f}] p={values[name]['p']:.4f} (paired, n = {values[name]['users']:,})"
            )
    return lines


def weights_table(metrics: Mapping[str, Any]) -> Table:
    """The results of each phase's best held-out weights and last weights on the same users; the kept ones are bold."""
    weights = metrics["weights"]
    metric = objective_name(cutoffs_of(next(iter(metrics["stages"].values()))))
    table = Table(
        title=f"Best held-out weights and last weights, {metric} [95 % interval]",
        caption="in bold: the weights that the phase ended with (heldout.keep)",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("phase")
    for name in ("best at step", "best", "last at step", "last", "best − last"):
        table.add_column(name, justify="right")
    for stage, compared in weights.items():
        cells = []
        for which in ("best", "last"):
            entry = compared[which]
            shown = _cell(entry["metrics"][metric], entry["intervals"].get(metric))
            cells += [
                Text(f"{entry['step']:,}"),
                Text(shown, style="bold" if compared["kept"] == which else ""),
            ]
        difference = compared.get("difference", {}).get(metric)
        if difference is None:
            cells.append(Text("the same"))
        else:
            low, high = difference["interval"]
            cells.append(Text(f"{difference['mean']:+.3f} [{low:+.3f}, {high:+.3f}]"))
        table.add_row(stage_title(stage), *cells)
    return table


def faithfulness_table(metrics: Mapping[str, Any]) -> Table:
    """What each phase's policy is worth with its own reasoning and with changed reasoning, on the same users."""
    metric = objective_name(cutoffs_of(next(iter(metrics["stages"].values()))))
    table = Table(
        title=f"What the reasoning is worth, {metric} [95 % interval]",
        caption="below: own reasoning minus the changed one, paired",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("phase")
    table.add_column("own", justify="right")
    for name in _CHANGED.values():
        table.add_column(name, justify="right")
    for stage, compared in metrics["faithfulness"].items():
        own = [_cell(metrics["stages"][stage][metric], metrics["intervals"][stage].get(metric))]
        table.add_row(
            stage_title(stage),
            *own,
            *(_cell(one["metrics"][metric], one["intervals"].get(metric)) for one in compared.values()),
        )
        cells = []
        for one in compared.values():
            low, high = one["difference"][metric]["interval"]
            cells.append(f"{one['difference'][metric]['mean']:+.3f} [{low:+.3f}, {high:+.3f}]")
        table.add_row("", "", *cells)
    return table


def slices_table(metrics: Mapping[str, Any], width: int = MIN_PLAIN_WIDTH) -> Table:
    """The last phase in parts of the users, beside counting co-occurrences and SFT.

    Args:
        metrics: the content of `metrics.json` (`RunFolder.metrics`).
        width: the screen's width in characters; in a wider table, intervals stand below their numbers.
    """
    slices, stages = metrics["slices"], metrics["stages"]
    last = next(reversed(stages))
    shown = list(dict.fromkeys(name for name in ("item_knn", "sft", last) if name in slices))
    metric = objective_name(cutoffs_of(stages[last]))
    named = {name: stage_title(name) if name in stages else name for name in shown}
    between = " " if 26 + 24 * len(shown) <= width else "\n"
    few = any(part["few"] for part in slices[last].values())
    table = Table(
        title=f"{metric} in parts of the users [95 % interval]",
        caption="by the target's count in training, items of history shown, image of the target"
        + ("; (few): too few users to say much" if few else ""),
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("users with", no_wrap=True)
    for name in ("users", *named.values()):
        table.add_column(name, justify="right", no_wrap=True)
    for part, whole in slices[last].items():
        found = [slices[name].get(part) for name in shown]
        table.add_row(
            _PARTS.get(part, part),
            f"{whole['users']:,}" + (" (few)" if whole["few"] else ""),
            *(
                "–"
                if one is None
                else _cell(one["metrics"].get(metric), one["intervals"].get(metric), between)
                for one in found
            ),
        )
    return table


def untrained_lines(metrics: Mapping[str, Any]) -> list[str]:
    """One line for each phase that ended with the weights it began with."""
    return [
        f"{stage_title(stage)}: no ranking of held-out users was better than the one before its first step, so it kept the "
        f"weights from before and changed nothing. Its last weights are in the table above; heldout.keep=last keeps them. "
        f"Try a lower {stage}.learning_rate, or more users in heldout.users."
        for stage, compared in metrics.get("weights", {}).items()
        if compared["kept"] == "best" and compared["best"]["step"] == 0
    ]


def validity_lines(metrics: Mapping[str, Any]) -> list[str]:
    """Remarks on answers, for rankings that score every candidate and for generated answers that are mostly invalid."""
    validity = {stage: rates for stage, rates in metrics.get("validity", {}).items() if rates}
    ranking = metrics["protocol"]["ranking"]
    if not validity:
        return []
    if ranking != "generate":
        chance = metrics["protocol"].get("num_listed", metrics["protocol"].get("num_candidates"))
        if chance == 0:
            return [f"{ranking} ranking: no answer can be invalid"]
        first = _rates_line(validity, "first_position")
        known = f"; {1 / chance:.3f} by chance" if chance else ""
        shown = f"; the candidate shown first is ranked first for {first} of users{known}" if first else ""
        return [f"{ranking} ranking: no answer can be invalid{shown}"]
    lost = {stage: rates for stage, rates in validity.items() if rates.get("invalid", 0.0) > _MOSTLY}
    if not lost:
        return []
    return [
        f"Most generated answers name no listed candidate (invalid: {_rates_line(lost, 'invalid')}; they name an item that "
        f"the prompt does not list: {_rates_line(lost, 'off_candidate')}), and such users count as misses. The numbers say "
        "how often the policy keeps to the form and the list, not how well it orders candidates. To measure that, set "
        "eval.ranking=constrained (it can answer only candidates) or likelihood (it scores all of them). SFT teaches which "
        "of all items comes next; GRPO with rollout=free rewards only answers from the list."
    ]


def _rates_line(validity: Mapping[str, Mapping[str, float]], name: str) -> str:
    return ", ".join(
        f"{stage_title(stage)} {rates[name]:.3f}" for stage, rates in validity.items() if name in rates
    )


def validity_table(metrics: Mapping[str, Any]) -> Table:
    """Shares of answers that were no proper ranking, and of users with the first shown candidate ranked first."""
    validity = {stage: rates for stage, rates in metrics.get("validity", {}).items() if rates}
    candidates = metrics["protocol"].get("num_candidates")
    caption = f"first_position is {1 / candidates:.3f} by chance" if candidates else None
    table = Table(
        title="Validity of answers, share of users",
        caption=caption,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("phase")
    for name in dict.fromkeys(name for rates in validity.values() for name in rates):
        table.add_column(name, justify="right")
    for stage, rates in validity.items():
        table.add_row(
            stage_title(stage),
            *(
                f"{rates[column.header]:.3f}" if column.header in rates else "–"
                for column in table.columns[1:]
            ),
        )
    return table


def ranking_cost_line(cost: Mapping[str, float | int]) -> str:
    """What ranking cost, in all and for each user."""
    rankings, seconds, tokens = cost["rankings"], cost["seconds"], cost["generated_tokens"]
    return (
        f"cost: {seconds:.1f} s and {tokens:,} generated tokens for {rankings:,} rankings, "
        f"{1000 * seconds / rankings:.1f} ms and {tokens / rankings:.1f} tokens for each"
    )


def print_results(metrics: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the main table, the paired comparisons, and the validity of answers if it was measured."""
    console = console or make_console()
    console.print(results_table(metrics, console.width))
    for line in difference_lines(metrics):
        console.print(Text(line))
    if metrics.get("slices"):
        console.print(slices_table(metrics, console.width))
    if metrics.get("weights"):
        console.print(weights_table(metrics))
    if metrics.get("faithfulness"):
        console.print(faithfulness_table(metrics))
    for line in untrained_lines(metrics):
        console.print(Text(line, style="yellow"))
    if metrics["protocol"]["ranking"] == "generate" and any(metrics.get("validity", {}).values()):
        console.print(validity_table(metrics))
    for line in validity_lines(metrics):
        console.print(Text(line, style="yellow" if metrics["protocol"]["ranking"] == "generate" else ""))


def rollouts_table(rollouts: Sequence[Rollout], title: str = "Sampled rollouts") -> Table:
    """Sampled completions with each part of their reward and their advantage."""
    table = Table(title=title, title_justify="left", show_lines=False)
    table.add_column("step", justify="right")
    table.add_column("prompt")
    table.add_column("completion", overflow="fold", ratio=1)
    part_names = list(dict.fromkeys(name for rollout in rollouts for name in rollout.parts))
    for name in ["reward", *part_names, "advantage"]:
        table.add_column(name, justify="right", no_wrap=True)
    for rollout in rollouts:
        table.add_row(
            str(rollout.step),
            Text(rollout.prompt_id),
            Text(rollout.completion),
            f"{rollout.reward:.2f}",
            *(f"{rollout.parts[name]:.2f}" if name in rollout.parts else "–" for name in part_names),
            f"{rollout.advantage:+.2f}",
        )
    return table


def print_rollouts(
    rollouts: Sequence[Rollout], console: Console | None = None, title: str = "Sampled rollouts"
) -> None:
    """Print `rollouts_table`."""
    (console or make_console()).print(rollouts_table(rollouts, title))
