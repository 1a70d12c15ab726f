"""Builds the text of a sample's prompt: history, candidates, optional reasoning."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from mllmrec.errors import UserError
from mllmrec.prompts.answers import place_text, ranked_text
from mllmrec.prompts.markup import item_label, item_mark, neutral
from mllmrec.prompts.naming import Naming, distinct_titles
from mllmrec.prompts.wording import load_wording

_WORDS = re.compile(r"\w+(?:['’.-]\w+)*")


@dataclass(frozen=True)
class PromptTemplate:
    """The wording of a prompt, from a YAML file with these keys. Placeholders stand in braces."""

    history: str  # {items} {domain}
    candidates: str  # {items} {domain}; left out if the whole catalogue is ranked
    hint: str  # {reasoning}; left out for samples without CoT
    think: str  # asks for reasoning before the answer; left out unless the answer should carry reasoning
    closing: str  # {domain} {form}
    item: str  # one candidate: {label} {title} {caption}, its details in front of the caption
    history_item: str  # one history item: as in item, and {position} from 1
    caption: str  # {caption}; left out for items without a caption
    joiner: str  # stands between items, and between blocks
    punctuation: str  # keep or drop punctuation in titles, captions and reasoning
    # {domain} {form} {places}; stands in the place of closing if an answer is a ranked list
    ranked: str = (
        "Which ones is the user most likely to choose next? Name {places}, most likely first, one per line and nothing "
        "else, each with its place in the form 1. {form}"
    )
    experience: str = (
        "Experience with other users:{joiner}{items}"  # {items} {joiner}; first; left out if there is none
    )
    # {domain}; stands behind the history if the policy describes the user first, and ranks from that alone
    describe: str = "Describe what the user likes, between <think> and </think>, for someone who will not see these {domain}s."
    profile: str = "What the user likes:\n{reasoning}"  # {reasoning}; stands in the place of the history
    details: str = " ({details})"  # {details}; in front of the caption; left out for items without details


_PLACEHOLDERS = {
    "history": {"items", "domain"},
    "candidates": {"items", "domain"},
    "hint": {"reasoning"},
    "think": set(),
    "closing": {"domain", "form"},
    "ranked": {"domain", "form", "places"},
    "experience": {"items", "joiner"},
    "describe": {"domain"},
    "profile": {"reasoning"},
    "item": {"label", "title", "caption", "position"},
    "history_item": {"label", "title", "caption", "position"},
    "caption": {"caption"},
    "details": {"details"},
}


def load_template(name: str) -> PromptTemplate:
    """A shipped template by name, or a YAML file by path.

    Raises:
        UserError: there is no such template, or its keys or placeholders are not those of `PromptTemplate`.
    """
    template = load_wording(
        PromptTemplate, _PLACEHOLDERS, "prompt.template", name, "mllmrec.prompts", "templates"
    )
    if template.punctuation not in ("keep", "drop"):
        raise UserError(
            f"prompt.template={name}: punctuation={template.punctuation} is neither keep nor drop"
        )
    return template


@dataclass(frozen=True)
class ItemTexts:
    """What prompts say about I items, in the order of their codes."""

    ids: Sequence[str]
    titles: Sequence[str]
    captions: Mapping[str, str] = field(default_factory=dict)  # by item id
    marked: Collection[str] = ()  # ids of the items that prompts also show by tokens other than text
    details: Mapping[str, str] = field(default_factory=dict)  # by item id, as far as prompts show them


class PromptBuilder:
    """Turns item indices into prompt and answer text.

    Titles are cut to ``max_title_words`` (0: not cut) and captions to ``max_caption_words``. All texts are neutralised, so
    that foreign text cannot imitate a label, a mark, a think tag or a chat token. In prompts the mark of each marked item
    stands right behind the item's title; answers have no marks. ``label`` is one of `mllmrec.prompts.naming.LABELS`; where
    only titles tell items apart, equal titles get a number behind them.

    Raises:
        UserError: an item has a mark to stand behind its title, but the template does not show titles.
    """

    def __init__(
        self,
        items: ItemTexts,
        template: PromptTemplate,
        *,
        domain: str = "item",
        answer: str = "id_title",
        label: str = "id",
        places: int = 1,
        max_title_words: int = 0,
        max_caption_words: int = 0,
    ) -> None:
        self.template, self.domain, self.places = template, domain, places
        self.naming = Naming(label, answer)
        if items.marked and not all("{title}" in line for line in (template.item, template.history_item)):
            raise UserError(
                "prompt.item_tokens: an item's token stands behind its title, but prompt.template shows no titles in "
                "item and history_item: add {title} there, or set prompt.item_tokens=none"
            )
        self.ids = [str(item_id) for item_id in items.ids]
        self.titles = [first_words(self.clean(str(title)), max_title_words) for title in items.titles]
        if label == "none":
            self.titles = distinct_titles([self.clean(item_id) for item_id in self.ids], self.titles)
        self._captions = {
            item_id: first_words(self.clean(text), max_caption_words)
            for item_id, text in items.captions.items()
            if text
        }
        self._details = {item_id: self.clean(text) for item_id, text in items.details.items() if text}
        marked = set(items.marked)
        self.marked = [item_id for item_id in self.ids if item_id in marked]
        self._marks = {item_id: item_mark(item_id) for item_id in self.marked}
        self.experience: Sequence[str] = ()  # short texts that every prompt shows; a phase may learn them

    def prompt(
        self,
        history: Sequence[int],
        candidates: Sequence[int] | None,
        reasoning: str | None = None,
        think: bool = False,
    ) -> str:
        """The user message.

        Args:
            history: item codes, oldest first.
            candidates: item codes; None for the whole catalogue.
            reasoning: shown as a hint.
            think: whether the prompt asks for reasoning before the answer.
        """
        template = self.template
        blocks = [self.told(self.experience)] if self.experience else []
        blocks.append(self._history(history))
        if candidates is not None:
            blocks.append(self._list(candidates))
        if reasoning:
            blocks.append(template.hint.format(reasoning=self.clean(reasoning)))
        if think:
            blocks.append(template.think.format())
        blocks.append(self._closing())
        return template.joiner.join(blocks)

    def told(self, experience: Sequence[str]) -> str:
        """How prompts show experience."""
        template = self.template
        lines = template.joiner.join(map(self.clean, experience))
        return template.experience.format(items=lines, joiner=template.joiner)

    def describing_prompt(self, history: Sequence[int]) -> str:
        """The user message that asks for a profile, reasoning that another prompt shows in the place of this history.

        Args:
            history: item codes, oldest first.
        """
        return self.template.joiner.join([self._history(history), self._describe()])

    def prompt_about(self, profile: str, candidates: Sequence[int] | None) -> str:
        """The user message that asks for an answer and shows a profile in the place of the history.

        Args:
            profile: foreign text; if there is none, the prompt shows candidates only.
            candidates: item codes; None for the whole catalogue.
        """
        clean = self.clean(profile)
        blocks = [self.template.profile.format(reasoning=clean)] if clean else []
        if candidates is not None:
            blocks.append(self._list(candidates))
        return self.template.joiner.join([*blocks, self._closing()])

    def asks_for_reasoning(self, prompt: str) -> bool:
        """Whether a prompt asks for reasoning before the answer, or for a profile.

        Foreign text has no tags, so it cannot imitate words that name them. Parts may put more questions behind the first.
        """
        joiner = self.template.joiner
        before_answer = joiner.join(["", self.template.think.format(), self._closing()])
        return before_answer in prompt or prompt.endswith(joiner.join(["", self._describe()]))

    def _describe(self) -> str:
        return self.template.describe.format(domain=self.domain)

    def _history(self, items: Sequence[int]) -> str:
        template = self.template
        lines = [self._item(template.history_item, item, position) for position, item in enumerate(items, 1)]
        return template.history.format(items=template.joiner.join(lines), domain=self.domain)

    def _list(self, candidates: Sequence[int]) -> str:
        template = self.template
        lines = [
            self._item(template.item, item, position, listed=True)
            for position, item in enumerate(candidates, 1)
        ]
        return template.candidates.format(items=template.joiner.join(lines), domain=self.domain)

    def _closing(self) -> str:
        closing = self.template.closing if self.places == 1 else self.template.ranked
        return closing.format(domain=self.domain, form=self.naming.form, places=self.places)

    def answer(self, item: int, column: int | None = None) -> str:
        """The answer that names an item.

        Args:
            item: the item's code.
            column: its place in the prompt's list, from 0; only names by place need it.
        """
        return self.naming.answer_text(self.ids[item], self.titles[item], column)

    def ranked_answer(self, target: int, candidates: Sequence[int]) -> str:
        """The ranked list to learn: the target, then other candidates in the order of the prompt, ``places`` in all.

        Nothing is known of the others' true order. The prompt's order can be learnt, so that the loss is about the target.
        """
        column_of = {item: column for column, item in enumerate(candidates)}
        others = [item for item in candidates if item != target]
        named = [target, *others[: self.places - 1]]
        return ranked_text([self.answer(item, column_of.get(item)) for item in named])

    def line(self, item: int, column: int | None = None) -> str:
        """An item's line in a ranked list, without the place in front; arguments as in `answer`."""
        return f" {self.answer(item, column)}"

    def opening(self, item: int, column: int | None = None) -> str:
        """How every ranked list of two or more items begins that names this one first; arguments as in `answer`."""
        return f"{place_text(1)}{self.line(item, column)}{place_text(2)}"

    def naming_closest(self, reasoning: str, candidates: Sequence[int], columns: Sequence[int]) -> str:
        """Clean reasoning that ends with the names of some candidates.

        Args:
            reasoning: foreign text.
            candidates: (C,) item codes, as the prompt lists them.
            columns: places among them, from 0, in the order in which they are named; empty: none is.
        """
        clean = self.clean(reasoning)
        if not columns:
            return clean
        items = [(candidates[column], column) for column in columns]
        names = [self.naming.name(self.ids[item], column) or self.titles[item] for item, column in items]
        if self.template.punctuation == "keep":
            return f"{clean} Closest: {', '.join(names)}."
        return " ".join([clean, "Closest", *names])

    def described(self, item: int) -> str:
        """An item's title, and its details and caption if it has any, as prompts show them."""
        return " ".join(filter(None, (self.titles[item], self.details(item), self.caption(item))))

    def details(self, item: int) -> str:
        """An item's details as prompts show them; "" if they show none."""
        return self._details.get(self.ids[item], "")

    def caption(self, item: int) -> str:
        """An item's caption as prompts show it; "" if it has none."""
        return self._captions.get(self.ids[item], "")

    def label(self, item: int) -> str:
        """The label of an item that is named by its id."""
        return item_label(self.ids[item])

    def marks(self) -> list[str]:
        """The marks of all I items."""
        return [item_mark(item_id) for item_id in self.ids]

    def clean(self, text: str) -> str:
        """Foreign text as prompts show it."""
        safe = neutral(text)
        return safe if self.template.punctuation == "keep" else " ".join(_WORDS.findall(safe))

    def _item(self, pattern: str, item: int, position: int, listed: bool = False) -> str:
        details, caption = self.details(item), self.caption(item)
        shown = self.template.details.format(details=details) if details else ""
        shown += self.template.caption.format(caption=caption) if caption else ""
        label = self.naming.label_of(self.ids[item], position - 1 if listed else None)
        if not label:
            pattern = pattern.replace("{label} ", "").replace("{label}", "")
        return pattern.format(
            label=label,
            title=self.titles[item] + self._marks.get(self.ids[item], ""),
            caption=shown,
            position=position,
        )


def first_words(text: str, count: int) -> str:
    """The first words of a text; all of them if ``count`` is 0."""
    return " ".join(text.split()[:count]) if count else text
