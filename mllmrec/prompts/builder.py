"""Builds the prompt of a sample from texts: history, candidates, optional reasoning."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path

import yaml

from mllmrec.errors import UserError, choices
from mllmrec.prompts.answers import answer_text
from mllmrec.prompts.markup import item_label, neutral

_WORDS = re.compile(r"\w+(?:['’.-]\w+)*")


@dataclass(frozen=True)
class PromptTemplate:
    """The wording of a prompt: a YAML file with these keys, their placeholders in braces."""

    history: str  # {items} {domain}
    candidates: str  # {items} {domain}; left out when the whole catalogue competes
    hint: str  # {reasoning}; left out for samples without CoT
    closing: str  # {domain} {form}
    item: str  # one candidate: {label} {title} {caption}
    history_item: str  # one history item: the same, and {position} from 1
    caption: str  # {caption}; left out for items without one
    joiner: str  # between two items, and between the blocks
    punctuation: str  # in titles, captions and reasoning: keep, or drop


_PLACEHOLDERS = {
    "history": {"items", "domain"},
    "candidates": {"items", "domain"},
    "hint": {"reasoning"},
    "closing": {"domain", "form"},
    "item": {"label", "title", "caption", "position"},
    "history_item": {"label", "title", "caption", "position"},
    "caption": {"caption"},
}


def load_template(name: str) -> PromptTemplate:
    """A shipped template by name, or a YAML file by path.

    Raises:
        UserError: no such template, or its keys or placeholders are not those of `PromptTemplate`.
    """
    folder = resources.files("mllmrec.prompts") / "templates"
    shipped = {
        entry.name.removesuffix(".yaml"): entry for entry in folder.iterdir() if entry.name.endswith(".yaml")
    }
    if name in shipped:
        text = shipped[name].read_text(encoding="utf-8")
    elif Path(name).is_file():
        text = Path(name).read_text(encoding="utf-8")
    else:
        raise UserError(f"prompt.template={name}: neither a file nor one of {choices(list(shipped))}")
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"prompt template {name} is no YAML: {' '.join(str(error).split())}") from error
    expected = {field.name for field in fields(PromptTemplate)}
    if not isinstance(content, dict) or set(content) != expected:
        raise UserError(f"prompt template {name}: its keys must be exactly {choices(list(expected))}")
    if content["punctuation"] not in ("keep", "drop"):
        raise UserError(
            f"prompt template {name}: punctuation={content['punctuation']} is neither keep nor drop"
        )
    template = PromptTemplate(**{key: str(value) for key, value in content.items()})
    for key, known in _PLACEHOLDERS.items():
        try:
            used = {
                field
                for _, field, _, _ in string.Formatter().parse(getattr(template, key))
                if field is not None
            }
        except ValueError as error:
            raise UserError(f"prompt template {name}: {key}: {error}; write {{{{ for a brace") from error
        if used - known:
            raise UserError(
                f"prompt template {name}: {key} has no placeholder {', '.join(sorted(used - known))}; "
                f"it has {choices(list(known))}"
            )
    return template


class PromptBuilder:
    """Turns item indices into prompt and answer text.

    Titles are cut to ``max_title_words`` (0: whole), captions to ``max_caption_words``; both are neutralised, so
    no foreign text can imitate a label, a think tag or a chat token.
    """

    def __init__(
        self,
        ids: Sequence[str],
        titles: Sequence[str],
        captions: Mapping[str, str],
        template: PromptTemplate,
        *,
        domain: str = "item",
        answer: str = "id_title",
        max_title_words: int = 0,
        max_caption_words: int = 0,
    ) -> None:
        self.template, self.domain, self.answer_format = template, domain, answer
        self.ids = [str(item_id) for item_id in ids]
        self.titles = [_first_words(self._clean(str(title)), max_title_words) for title in titles]
        self._captions = {
            item_id: _first_words(self._clean(text), max_caption_words)
            for item_id, text in captions.items()
            if text
        }

    def prompt(
        self, history: Sequence[int], candidates: Sequence[int] | None, reasoning: str | None = None
    ) -> str:
        """The user message: ``history`` oldest first; ``candidates`` None for the whole catalogue."""
        template = self.template
        lines = [
            self._item(template.history_item, item, position) for position, item in enumerate(history, 1)
        ]
        blocks = [template.history.format(items=template.joiner.join(lines), domain=self.domain)]
        if candidates is not None:
            lines = [self._item(template.item, item, position) for position, item in enumerate(candidates, 1)]
            blocks.append(template.candidates.format(items=template.joiner.join(lines), domain=self.domain))
        if reasoning:
            blocks.append(template.hint.format(reasoning=self._clean(reasoning)))
        form = "[ITEM_<id>]" if self.answer_format == "id" else "[ITEM_<id>] title"
        blocks.append(template.closing.format(domain=self.domain, form=form))
        return template.joiner.join(blocks)

    def answer(self, item: int) -> str:
        """The answer that names an item."""
        return answer_text(self.ids[item], self.titles[item], self.answer_format)

    def label(self, item: int) -> str:
        """The label of an item."""
        return item_label(self.ids[item])

    def _clean(self, text: str) -> str:
        safe = neutral(text)
        return safe if self.template.punctuation == "keep" else " ".join(_WORDS.findall(safe))

    def _item(self, pattern: str, item: int, position: int) -> str:
        caption = self._captions.get(self.ids[item])
        shown = self.template.caption.format(caption=caption) if caption else ""
        return pattern.format(
            label=self.label(item), title=self.titles[item], caption=shown, position=position
        )


def _first_words(text: str, count: int) -> str:
    return " ".join(text.split()[:count]) if count else text
