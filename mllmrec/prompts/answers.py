"""How an answer is written and how it is read. The training reward and the reported metrics share one parser.

A well-formed completion is one line, ``[ITEM_<id>]`` or ``[ITEM_<id>] title``, with optional reasoning between
think tags before or after it. A ranked list has one such line for each item, with its place in front: ``2. [ITEM_<id>]``.
`mllmrec.prompts.naming` has the other ways to name items.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mllmrec.prompts.markup import THINK_CLOSE, THINK_OPEN
from mllmrec.prompts.naming import Read, plain, read_by_id

_PLACE = re.compile(r"^\d+[.)]\s*")
_THOUGHT = re.compile(re.escape(THINK_OPEN) + r"(.*?)" + re.escape(THINK_CLOSE), re.DOTALL)


def ranked_text(answers: Sequence[str]) -> str:
    """The ranked list of these answers, a line for each.

    Its place stands in front of each answer: tokenizers whose labels swallow the white space before them would lose a
    newline between two labels.
    """
    return "".join(f"{place_text(place)} {answer}" for place, answer in enumerate(answers, 1))


def place_text(place: int) -> str:
    """What stands in front of an item of a ranked list; places count from 1."""
    return f"{place}." if place == 1 else f"\n{place}."


def reasoned(reasoning: str, answer: str) -> str:
    """The answer with its reasoning in front, as `parse_answer` reads it."""
    return f"{THINK_OPEN}\n{reasoning}\n{THINK_CLOSE}\n{answer}"


def split_reasoning(completion: str) -> tuple[str, str]:
    """The reasoning and the answer of a completion of the form of `reasoned`; of any other, no reasoning and all of it."""
    begin, end = f"{THINK_OPEN}\n", f"\n{THINK_CLOSE}\n"
    # The newline that opens reasoning cannot close it as well.
    reasoning, closed, answer = completion.removeprefix(begin).partition(end)
    return (reasoning, answer) if closed and completion.startswith(begin) else ("", completion)


@dataclass(frozen=True)
class ParsedAnswer:
    """What a completion says: the item that each line names, and the reasoning around the lines."""

    items: tuple[tuple[str, str], ...]  # (item id, title or "") of every well-formed line, in order
    stray_lines: int  # lines that are not answers
    reasoning: str
    unclosed: bool  # a think tag was opened and never closed

    @property
    def well_formed(self) -> bool:
        """Exactly one answer line and nothing else but closed reasoning."""
        return len(self.items) == 1 and self.stray_lines == 0 and not self.unclosed


def parse_answer(completion: str, places: int = 1, read: Read = read_by_id) -> ParsedAnswer:
    """Read a completion. Never raises: lines that cannot be read are counted in ``stray_lines``.

    Args:
        completion: what was said.
        places: items that were asked for; in a list of several, a line may begin with its place.
        read: reads a line; `Naming.reader` makes it where items are not named by their ids.

    A closing tag without an opening tag ends reasoning that the chat template opened, so everything before it is
    reasoning.
    """
    text = completion
    thoughts: list[str] = []
    first_close, first_open = text.find(THINK_CLOSE), text.find(THINK_OPEN)
    if first_close >= 0 and not 0 <= first_open < first_close:
        thoughts.append(text[:first_close])
        text = text[first_close + len(THINK_CLOSE) :]
    thoughts += _THOUGHT.findall(text)
    text = _THOUGHT.sub("\n", text)
    unclosed = THINK_OPEN in text
    if unclosed:
        text, _, tail = text.partition(THINK_OPEN)
        thoughts.append(tail)
    items: list[tuple[str, str]] = []
    stray = 0
    for line in text.splitlines():
        if not line.strip():
            continue
        named = read(line.strip() if places == 1 else _PLACE.sub("", line.strip()))
        if named is not None:
            items.append(named)
        else:
            stray += 1
    return ParsedAnswer(tuple(items), stray, " ".join(part.strip() for part in thoughts).strip(), unclosed)


def same_title(said: str, title: str) -> bool:
    """Whether a written title is the item's, ignoring case, spacing and how accents are composed.

    Tokenizers such as Qwen's compose characters, so even the right title may come back with other code points.
    """
    return plain(said) == plain(title)
