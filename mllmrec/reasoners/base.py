"""The interface of reasoners: requests about a history in, texts out, each as soon as it is finished."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mllmrec.reasoners.told import NOTHING


@dataclass(frozen=True)
class HistoryItem:
    """One item of a history, as a reasoner may see it."""

    item_id: str
    title: str
    caption: str  # "" if there is none
    image: Path | None


@dataclass(frozen=True)
class Request:
    """One text to be written. It has no field for the target, so the text cannot leak the target.

    Only in the ablation that reproduces the release, ``leak`` holds the target's text. Everywhere else it is empty.
    """

    sample_id: str
    user_id: str
    history: tuple[HistoryItem, ...]  # oldest first
    draft: str  # the pseudo-CoT to be rewritten; "" if the request is for a draft
    system: str  # the system message: the wording, filled in
    message: str  # the user's message
    images: tuple[Path, ...] = ()  # shown with the message, oldest first
    leak: str = ""
    examples: tuple[
        tuple[str, str], ...
    ] = ()  # other messages and their answers, which stand before the message

    @property
    def shown(self) -> tuple[str, ...]:
        """All words that the writer was shown, besides the draft and the target."""
        before = (part for example in self.examples for part in example)
        return (self.system, *before, self.message)


@dataclass(frozen=True)
class Written:
    """The result of a request."""

    text: str  # "" if nothing usable came
    reasoning: str = ""  # the thought of a reasoning model before its answer, kept apart from the text
    prompt_tokens: int = 0
    completion_tokens: int = 0
    problem: str = ""  # why there is no text, in a few words that can be counted


@dataclass(frozen=True)
class Estimate:
    """What requests will cost at most, or did cost."""

    requests: int
    prompt_tokens: int
    completion_tokens: int  # at most
    money: float | None = None  # in the currency of the prices given; None without prices

    def describe(self) -> str:
        """Tokens and money in a few words, as for a progress bar."""
        tokens = f"{self.prompt_tokens + self.completion_tokens:,} tokens"
        return tokens if self.money is None else f"{tokens}, {self.money:,.4f} in money"


class Reasoner(ABC):
    """Writes reasoning."""

    sees_images: bool = False  # whether requests carry the images of the history
    reads_users: bool = False  # whether a text depends on whose history it is
    free: bool = False  # whether a text costs neither money nor a model's time

    @property
    def told(self) -> str:
        """What the writer knew besides the request: one of `TOLD`; only texts made elsewhere have more than none."""
        return NOTHING

    @property
    def spent(self) -> Estimate | None:
        """What was paid so far; None if requests cost nothing."""
        return None

    @abstractmethod
    def identity(self) -> dict[str, object]:
        """What determines a text besides the request, as JSON values: model, decoding, version. No secrets."""

    @abstractmethod
    def write(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Written]]:
        """Yield each request with its result as soon as that is there, in any order.

        Requests are read only as they can be served, so a million of them need no memory. A request that fails for
        good yields a `Written` with a ``problem``; the others go on.

        Raises:
            UserError: nothing can be written at all (no key, no such model, or the budget is spent).
        """

    def estimate(self, requests: Iterable[Request]) -> Estimate | None:
        """The cost of the requests; None if they cost nothing."""
        return None
