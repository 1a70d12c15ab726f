"""Experience written by a language model: it compares the answers of a group and names operations on the library."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mllmrec.errors import UserError
from mllmrec.experience.base import Answer, Contrast, ExperienceWriter
from mllmrec.experience.library import OPERATIONS, Library, Operation
from mllmrec.prompts.markup import neutral
from mllmrec.prompts.wording import load_wording
from mllmrec.reasoners.base import HistoryItem, Reasoner, Request


@dataclass(frozen=True)
class ExperienceWording:
    """What the model is asked, from a YAML file with these keys. Placeholders stand in braces."""

    system: str  # the system message: {domain}
    message: str  # the user's message: {domain} {history} {winners} {losers} {library} {most} {words}
    item: str  # an item: {title} {caption}
    caption: str  # {caption}; left out for items without a caption
    answer: str  # an answer: {text} {item}
    nothing: str  # stands where an answer names no item, and for an empty library


_PLACEHOLDERS = {
    "system": {"domain"},
    "message": {"domain", "history", "winners", "losers", "library", "most", "words"},
    "item": {"title", "caption"},
    "caption": {"caption"},
    "answer": {"text", "item"},
    "nothing": set(),
}


class WrittenExperience(ExperienceWriter):
    """One request for each compared group. The authors ask three times: to sum up each answer, to compare, to merge.

    Here answers are short, so the first request is left out. The operations of a step are merged by `merged`.
    """

    def __init__(
        self, inner: Reasoner, wording: str = "experience", most_operations: int = 2, most_words: int = 32
    ) -> None:
        """Set how the model is asked.

        Args:
            inner: runs the model.
            wording: ``experience``, or a YAML file.
            most_operations: operations taken from each reply.
            most_words: texts are cut to so many words.

        Raises:
            UserError: there is no such wording, or ``inner`` is no language model.
        """
        if inner.free:
            raise UserError(
                "experience.inner follows rules and reads no question, so it cannot compare answers: choose experience=hf "
                "or openai, or experience=counted"
            )
        self.inner, self.most_operations, self.most_words = inner, most_operations, most_words
        self.wording = load_wording(
            ExperienceWording, _PLACEHOLDERS, "experience.wording", wording, "mllmrec.experience", "wordings"
        )
        self._named = 0
        self._unreadable = 0.0

    def operations(self, contrasts: Sequence[Contrast], library: Library, domain: str) -> list[Operation]:
        """Ask about each group, then merge what the replies propose."""
        requests = [
            self._request(f"{place}:{one.sample_id}", one, library, domain)
            for place, one in enumerate(contrasts)
        ]
        replies = {request.sample_id: written.text for request, written in self.inner.write(requests)}
        # Replies come in any order, and operations should not depend on it.
        read = [self._read(replies[request.sample_id], library) for request in requests]
        self._unreadable = sum(not operations for operations in read) / len(read)
        return merged([one for operations in read for one in operations], library, self._new_key)

    def metrics(self) -> dict[str, float]:
        """The share of the last step's groups whose reply named no operation."""
        return {"experience/no_reply": self._unreadable}

    def state_dict(self) -> dict[str, Any]:
        """How many keys it has given."""
        return {"named": self._named}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `state_dict` returned."""
        self._named = state["named"]

    def _new_key(self, library: Library) -> str:
        self._named += 1
        while library.get(f"E{self._named}") is not None:
            self._named += 1
        return f"E{self._named}"

    def _request(self, name: str, contrast: Contrast, library: Library, domain: str) -> Request:
        wording = self.wording
        known = "\n".join(f"{one.key}: {one.text}" for one in library)
        message = wording.message.format(
            domain=domain,
            history="\n".join(self._item(item) for item in contrast.history),
            winners=self._answers(contrast.winners),
            losers=self._answers(contrast.losers),
            library=known or wording.nothing,
            most=self.most_operations,
            words=self.most_words,
        )
        return Request(
            sample_id=name,
            user_id=contrast.user_id,
            history=contrast.history,
            draft="",
            system=wording.system.format(domain=domain),
            message=message,
        )

    def _answers(self, answers: Sequence[Answer]) -> str:
        lines = [
            self.wording.answer.format(
                text=neutral(one.text),
                item=self._item(one.item) if one.item is not None else self.wording.nothing,
            )
            for one in answers
        ]
        return "\n".join(dict.fromkeys(lines))

    def _item(self, item: HistoryItem) -> str:
        caption = self.wording.caption.format(caption=neutral(item.caption)) if item.caption else ""
        return self.wording.item.format(title=neutral(item.title), caption=caption)

    def _read(self, reply: str, library: Library) -> list[Operation]:
        """The first operations of a reply; a reply that is no JSON list has none."""
        try:
            listed = json.loads(reply[reply.index("[") : reply.rindex("]") + 1])
        except (ValueError, RecursionError):
            return []
        found = []
        for entry in listed[: self.most_operations]:
            if not isinstance(entry, dict):
                continue
            kind: Any = str(entry.get("operation", "")).lower()
            key = str(entry.get("id", ""))
            text = " ".join(neutral(str(entry.get("text") or "")).split()[: self.most_words])
            wordless = kind in ("add", "modify") and not text
            unknown = kind != "add" and library.get(key) is None
            if kind in OPERATIONS and not wordless and not unknown:
                found.append(Operation(kind, "" if kind == "add" else key, text))
        return found


def merged(
    proposed: Sequence[Operation], library: Library, new_key: Callable[[Library], str]
) -> list[Operation]:
    """One operation about each experience.

    Of those about a known experience, the kind that most groups propose wins, the first of equal ones; it is worth a point of
    support for every group that keeps or modifies it. New texts that differ only in case count as one, with a point for
    each time, and a new text that is already there keeps it.

    Args:
        proposed: in the order of the groups.
        library: as it is now.
        new_key: gives a key that the library does not have.
    """
    by_text = {one.text.casefold(): one.key for one in library}
    added: Counter[str] = Counter()
    first: dict[str, str] = {}
    about: dict[str, list[Operation]] = {}
    for one in proposed:
        folded = one.text.casefold()
        if one.kind == "add" and folded not in by_text:
            added[folded] += 1
            first.setdefault(folded, one.text)
        else:
            key = by_text[folded] if one.kind == "add" else one.key
            kind = "keep" if one.kind == "add" else one.kind
            about.setdefault(key, []).append(Operation(kind, key, one.text))
    found = []
    for key, operations in about.items():
        chosen = Counter(one.kind for one in operations).most_common(1)[0][0]
        text = next(one.text for one in operations if one.kind == chosen)
        known = library.get(key)
        assert known is not None
        points = sum(one.kind != "delete" for one in operations)
        found.append(Operation(chosen, key, text, known.support + points))
    return [*found, *(Operation("add", new_key(library), first[one], added[one]) for one in added)]
