"""Writes ``samples.html``: some samples of the CoT pipeline, with everything known of each side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from mllmrec.cache import atomic_path
from mllmrec.cot.built import Built, CotRecord
from mllmrec.cot.confident import Confident
from mllmrec.endpoint.images import data_url
from mllmrec.reasoners.base import HistoryItem

THUMBNAIL = 160  # most pixels on a picture's longer side
_TOLD = {
    "none": "not shown to the reasoner",
    "target": "TOLD TO THE REASONER that refined the draft",
    "unknown": "not shown by this command; texts read from a file may have been written knowing it",
}
_STYLE = """
:root { --ink: #22262b; --faint: #6b7480; --line: #e1e5ea; --good: #1f7a4d; --bad: #a8322a; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 74rem; padding: 1.5rem; color: var(--ink); background: #f6f7f9;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.4rem; margin: 0 0 .3rem; }
h2 { font-size: 1rem; margin: 0; }
h3 { font-size: .78rem; letter-spacing: .05em; text-transform: uppercase; color: var(--faint); margin: 1.1rem 0 .3rem; }
p { margin: .2rem 0; }
.faint { color: var(--faint); }
article { background: #fff; border: 1px solid var(--line); border-radius: 8px; padding: 1rem 1.2rem; margin: 1.2rem 0; }
header.sample { display: flex; flex-wrap: wrap; gap: .4rem .9rem; align-items: baseline; }
.badge { border-radius: 1rem; padding: .05rem .7rem; font-size: .85rem; color: #fff; background: var(--bad); }
.badge.kept { background: var(--good); }
.columns { display: grid; grid-template-columns: minmax(0, 5fr) minmax(0, 6fr); gap: 0 2rem; }
@media (max-width: 50rem) { .columns { grid-template-columns: minmax(0, 1fr); } }
ol.history { list-style: none; margin: 0; padding: 0; }
.item { display: flex; gap: .8rem; padding: .4rem 0; border-top: 1px solid var(--line); }
ol.history .item:first-child { border-top: 0; }
.picture { flex: 0 0 5rem; height: 5rem; display: flex; align-items: center; justify-content: center;
  background: #f0f2f5; border-radius: 4px; overflow: hidden; color: var(--faint); font-size: .75rem; text-align: center; }
.picture img { max-width: 100%; max-height: 100%; }
.item b { font-weight: 600; }
blockquote { margin: 0; padding: .5rem .8rem; background: #f6f7f9; border-left: 3px solid #9fb3c8;
  white-space: pre-wrap; overflow-wrap: anywhere; }
blockquote.final { border-color: var(--good); background: #f1f8f4; }
.target { border: 1px dashed #b6bec8; border-radius: 6px; padding: .3rem .8rem; margin-top: .4rem; }
.target.told { border: 2px solid var(--bad); }
.told .note { color: var(--bad); font-weight: 700; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .1rem .9rem .1rem 0; text-align: left; font-weight: 400; }
th { color: var(--faint); font-size: .85rem; }
td.number, th + th { text-align: right; }
tr.veto td { color: var(--bad); font-weight: 600; }
details summary { cursor: pointer; color: var(--faint); }
"""


def write_samples_page(
    path: Path, cot: Built, records: Sequence[CotRecord], dataset: str, counted: str = ""
) -> None:
    """Write one HTML file that needs nothing else: no scripts and no network.

    Args:
        path: the file.
        cot: the policy that made the records.
        records: the samples to show, in this order.
        dataset: the dataset's name.
        counted: a line that says what the samples are drawn from.
    """
    pictures: dict[Path, str] = {}
    articles = "\n".join(_article(record, cot, pictures) for record in records)
    title = escape(f"{dataset}: samples of the CoT pipeline")
    text = (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{title}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
        f'<p class="faint">{escape(counted)}</p>\n{articles}\n</body>\n</html>\n'
    )
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _article(record: CotRecord, cot: Built, pictures: dict[Path, str]) -> str:
    items = cot.pipeline.items
    history = "\n".join(_item(items[item], "li", pictures) for item in record.key.history_ids)
    verdict = f"dropped: {record.dropped}" if record.dropped else "kept"
    kind = "badge" if record.dropped else "badge kept"
    why = f" ({record.problem})" if record.problem else ""
    confidence = (
        "" if record.confidence is None else f"<span>confidence <b>{record.confidence:.3f}</b></span>"
    )
    texts = [_text("Draft", record.draft, final=cot.stage == "draft" and not record.dropped)]
    if cot.stage == "refined":
        texts.append(_text("Refinement", record.text, final=not record.dropped))
    if record.thoughts:
        texts.append(
            f"<details><summary>What the model thought first</summary>\n"
            f"<blockquote>{escape(record.thoughts)}</blockquote></details>"
        )
    return (
        f'<article>\n<header class="sample"><h2>User {escape(record.key.user_id)}</h2>'
        f'<span class="faint">sample {escape(record.key.sample_id)}</span>'
        f'<span class="{kind}">{escape(verdict + why)}</span>{confidence}</header>\n'
        f'<div class="columns">\n<section><h3>History, oldest first</h3>\n<ol class="history">\n{history}\n</ol>\n'
        f"{_target(items[record.key.target_id], record, pictures)}</section>\n"
        f"<section>{''.join(texts)}\n{_scores(record, cot)}</section>\n</div>\n</article>"
    )


def _item(item: HistoryItem, tag: str, pictures: dict[Path, str]) -> str:
    caption = f"<p>{escape(item.caption)}</p>" if item.caption else '<p class="faint">no caption</p>'
    return (
        f'<{tag} class="item"><div class="picture">{_picture(item.image, pictures)}</div>'
        f'<div><b>{escape(item.title)}</b> <span class="faint">{escape(item.item_id)}</span>{caption}</div></{tag}>'
    )


def _target(item: HistoryItem, record: CotRecord, pictures: dict[Path, str]) -> str:
    kind = "target told" if record.leak == "target" else "target"
    return (
        f'<h3>What came next</h3>\n<div class="{kind}"><p class="note">{_TOLD[record.leak]}</p>'
        f"{_item(item, 'div', pictures)}</div>\n"
    )


def _text(heading: str, text: str, final: bool) -> str:
    shown = escape(text) if text else '<span class="faint">none</span>'
    kind = ' class="final"' if final else ""
    return f"<h3>{heading}</h3>\n<blockquote{kind}>{shown}</blockquote>\n"


def _scores(record: CotRecord, cot: Built) -> str:
    if not isinstance(cot, Confident) or not record.scores:
        return ""
    rows = "\n".join(
        _score_row(name, value, cot.weights, cot.floors) for name, value in record.scores.items()
    )
    return (
        "<h3>Scores</h3>\n<table><tr><th>score</th><th>value</th><th>floor</th><th>weight</th></tr>\n"
        f"{rows}</table>\n"
    )


def _score_row(
    name: str, value: float | None, weights: Mapping[str, float], floors: Mapping[str, float]
) -> str:
    floor, weight = floors.get(name), weights.get(name)
    vetoes = floor is not None and value is not None and value < floor
    cells = ["not measured" if value is None else f"{value:.3f}"]
    cells += ["" if number is None else f"{number:g}" for number in (floor, weight)]
    numbers = "".join(f'<td class="number">{cell}</td>' for cell in cells)
    kind, shown = ' class="veto"' if vetoes else "", escape(name.replace("_", " "))
    return f"<tr{kind}><td>{shown}</td>{numbers}</tr>"


def _picture(path: Path | None, pictures: dict[Path, str]) -> str:
    if path is None:
        return "no image"
    if path not in pictures:
        pictures[path] = data_url(path, THUMBNAIL) or ""
    return f'<img src="{pictures[path]}" alt="">' if pictures[path] else "unreadable image"
