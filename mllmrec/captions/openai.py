"""Captions by a vision-language model behind an OpenAI-compatible server: one request per image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

from mllmrec.captions.base import Captioner
from mllmrec.data.images import UNREADABLE_IMAGE
from mllmrec.data.text import collapse_spaces
from mllmrec.endpoint import Budget, Chat
from mllmrec.endpoint.client import Endpoint
from mllmrec.endpoint.settings import AnswerSettings, ConnectionSettings, SpendingLimits
from mllmrec.errors import UserError
from mllmrec.flat import flat_settings
from mllmrec.reasoners.base import Estimate


class OpenAICaptioner(Captioner):
    """Asks a server to describe each image.

    ``problems`` counts the reasons why readable images have no caption. ``prompt`` is the message sent with the image;
    the other parameters are those of `mllmrec.endpoint.client.Endpoint`, with limits on what is spent.

    Raises:
        UserError: a parameter makes no sense.
    """

    needs_package = ("openai", "'mllmrec[endpoint]'")

    @flat_settings
    def __init__(
        self,
        model: str,
        prompt: str,
        answers: AnswerSettings = AnswerSettings(temperature=0.0, max_tokens=200),
        connection: ConnectionSettings = ConnectionSettings(timeout_seconds=120.0),
        limits: SpendingLimits = SpendingLimits(),
    ) -> None:
        if not prompt.strip():
            raise UserError("prompt is empty: say how an image is to be described")
        self.prompt = prompt
        self.problems: Counter[str] = Counter()
        self.endpoint = Endpoint(model, answers, connection, Budget(limits))

    def identity(self) -> dict[str, object]:
        """The model, its decoding, the prompt and the size of the images."""
        return {"captioner": "openai", "version": 1, "prompt": self.prompt, **self.endpoint.identity()}

    @property
    def spent(self) -> Estimate:
        """What was spent so far."""
        return Estimate(**vars(self.endpoint.budget.spent))

    def estimate(self, images: int) -> Estimate:
        """The most that captions of `images` images cost; nothing is sent. `Endpoint.estimate` makes the guess."""
        return Estimate(**vars(self.endpoint.estimate([self._chat(Path())] * images)))

    def caption_images(self, images: Iterable[tuple[str, Path | None]]) -> Iterator[tuple[str, str | None]]:
        """Yield each caption, on one line, as it comes; None if the image cannot be read or gets no text.

        Raises:
            UserError: there is no key, the server refuses it or cannot be reached, or the budget is spent.
        """
        # Only captioners that read no images get a path of None.
        chats = ((item, self._chat(path)) for item, path in images if path is not None)
        with closing(self.endpoint.complete(chats)) as answers:
            for item, answer in answers:
                if answer.problem and answer.problem != UNREADABLE_IMAGE:
                    self.problems[answer.problem] += 1
                yield item, None if answer.problem else collapse_spaces(answer.text)

    def _chat(self, path: Path) -> Chat:
        return Chat(self.prompt, images=(path,))
