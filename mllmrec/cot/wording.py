"""The wording of drafts and refinements: what a reasoner is asked, filled in from a history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mllmrec.errors import UserError
from mllmrec.prompts.markup import neutral
from mllmrec.prompts.wording import load_wording
from mllmrec.reasoners.base import HistoryItem, Request


@dataclass(frozen=True)
class Example:
    """A made-up history with the answer that should follow it. Small models need to see one."""

    history: tuple[tuple[str, str], ...]  # title and caption of each item, oldest first; "" for no caption
    answer: str
    draft: str = ""


@dataclass(frozen=True)
class CotWording:
    """The texts of one stage, from a YAML file with these keys. Placeholders stand in braces."""

    system: str  # the system message: {domain}
    message: str  # the user's message: {domain} {history} {draft} {leak}
    history_item: str  # one item: {position} {title} {caption}
    caption: str  # {caption}; left out for items without a caption
    draft: str  # {draft}; left out if there is none
    leak: str  # {target}; left out except in the ablation that leaks it
    examples: tuple[
        Example, ...
    ] = ()  # requests and answers that stand before the request, as turns of the conversation


_PLACEHOLDERS = {
    "system": {"domain"},
    "message": {"domain", "history", "draft", "leak"},
    "history_item": {"position", "title", "caption"},
    "caption": {"caption"},
    "draft": {"draft"},
    "leak": {"target"},
}


def load_cot_wording(setting: str, name: str) -> CotWording:
    """A shipped wording (draft, refine) by name, or a YAML file by path.

    Args:
        setting: the configuration key that chose the wording, for messages.
        name: the name or path that was chosen.

    Raises:
        UserError: there is no such wording, or its keys or placeholders are not those of `CotWording`.
    """
    wording = load_wording(CotWording, _PLACEHOLDERS, setting, name, "mllmrec.cot", "wordings")
    return replace(wording, examples=_read_examples(wording.examples, f"{setting}={name}"))


def _read_examples(content: object, where: str) -> tuple[Example, ...]:
    """The examples as YAML has them: a list of mappings with history, answer and perhaps draft."""
    if not isinstance(content, list | tuple):
        raise UserError(f"{where}: examples must be a list; write [] for none")
    examples = []
    for number, example in enumerate(content, 1):
        place = f"{where}: example {number}"
        if not isinstance(example, dict) or not {"history", "answer"} <= set(example) <= {
            "history",
            "answer",
            "draft",
        }:
            raise UserError(f"{place}: its keys must be history and answer, and draft if you like")
        items = example["history"]
        if not isinstance(items, list) or not all(
            isinstance(item, list) and len(item) == 2 for item in items
        ):
            raise UserError(f"{place}: history must be a list of pairs [title, caption]")
        history = tuple((str(title), str(caption)) for title, caption in items)
        examples.append(Example(history, str(example["answer"]), str(example.get("draft", ""))))
    return tuple(examples)


def ask(
    wording: CotWording,
    domain: str,
    sample_id: str,
    user_id: str,
    history: Sequence[HistoryItem],
    *,
    draft: str = "",
    with_images: bool = False,
    leak: str = "",
) -> Request:
    """The request about one history. Foreign texts are neutralised, as in prompts."""
    message = _message(wording, domain, [(item.title, item.caption) for item in history], draft, leak)
    return Request(
        sample_id=sample_id,
        user_id=user_id,
        history=tuple(history),
        draft=draft,
        system=wording.system.format(domain=domain),
        message=message,
        images=tuple(item.image for item in history if item.image is not None) if with_images else (),
        leak=leak,
        examples=tuple(
            (_message(wording, domain, example.history, example.draft, ""), example.answer)
            for example in wording.examples
        ),
    )


def _message(
    wording: CotWording, domain: str, history: Sequence[tuple[str, str]], draft: str, leak: str
) -> str:
    """The user's message about a history of titles and captions."""
    lines = [
        wording.history_item.format(
            position=position,
            title=neutral(title),
            caption=wording.caption.format(caption=neutral(caption)) if caption else "",
        )
        for position, (title, caption) in enumerate(history, 1)
    ]
    return wording.message.format(
        domain=domain,
        history="\n".join(lines),
        draft=wording.draft.format(draft=neutral(draft)) if draft else "",
        leak=wording.leak.format(target=neutral(leak)) if leak else "",
    )
