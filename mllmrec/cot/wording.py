"""The wording of drafts and refinements: what a reasoner is asked, filled in from a history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mllmrec.prompts.markup import neutral
from mllmrec.prompts.wording import load_wording
from mllmrec.reasoners.base import HistoryItem, Request


@dataclass(frozen=True)
class CotWording:
    """The texts of one stage, from a YAML file with these keys. Placeholders stand in braces."""

    system: str  # the system message: {domain}
    message: str  # the user's message: {domain} {history} {draft} {leak}
    history_item: str  # one item: {position} {title} {caption}
    caption: str  # {caption}; left out for items without a caption
    draft: str  # {draft}; left out if there is none
    leak: str  # {target}; left out except in the ablation that leaks it


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
    return load_wording(CotWording, _PLACEHOLDERS, setting, name, "mllmrec.cot", "wordings")


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
    lines = [
        wording.history_item.format(
            position=position,
            title=neutral(item.title),
            caption=wording.caption.format(caption=neutral(item.caption)) if item.caption else "",
        )
        for position, item in enumerate(history, 1)
    ]
    message = wording.message.format(
        domain=domain,
        history="\n".join(lines),
        draft=wording.draft.format(draft=neutral(draft)) if draft else "",
        leak=wording.leak.format(target=neutral(leak)) if leak else "",
    )
    return Request(
        sample_id=sample_id,
        user_id=user_id,
        history=tuple(history),
        draft=draft,
        system=wording.system.format(domain=domain),
        message=message,
        images=tuple(item.image for item in history if item.image is not None) if with_images else (),
        leak=leak,
    )
