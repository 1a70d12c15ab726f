"""Reasoning by a model behind an OpenAI-compatible server, such as DeepSeek-R1."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing

from mllmrec.endpoint import Budget, Chat
from mllmrec.endpoint.client import Endpoint
from mllmrec.endpoint.settings import AnswerSettings, ConnectionSettings, SpendingLimits
from mllmrec.flat import flat_settings
from mllmrec.reasoners.base import Estimate, Reasoner, Request, Written


class OpenAIReasoner(Reasoner):
    """Sends each request's system and user message, and its images if ``sees_images`` is True.

    The other parameters are those of `mllmrec.endpoint.client.Endpoint`, with limits on what is spent. A problem that begins
    with `mllmrec.endpoint.NO_ANSWER` is temporary: the same request may succeed later.

    Raises:
        UserError: a parameter makes no sense.
    """

    needs_package = ("openai", "'mllmrec[endpoint]'")

    @flat_settings
    def __init__(
        self,
        model: str,
        sees_images: bool = False,
        answers: AnswerSettings = AnswerSettings(temperature=0.6, max_tokens=4096),
        connection: ConnectionSettings = ConnectionSettings(),
        limits: SpendingLimits = SpendingLimits(),
    ) -> None:
        self.sees_images = sees_images
        self.endpoint = Endpoint(model, answers, connection, Budget(limits))

    def identity(self) -> dict[str, object]:
        """The model, its decoding, and whether it sees images and at which size."""
        settings = self.endpoint.identity()
        if not self.sees_images:
            del settings["image_side"]
        return {"reasoner": "openai", "version": 1, "sees_images": self.sees_images, **settings}

    @property
    def spent(self) -> Estimate:
        """What was spent so far."""
        return Estimate(**vars(self.endpoint.budget.spent))

    def write(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Written]]:
        """Yield each request with its result, as soon as that is there.

        Raises:
            UserError: there is no key, the server refuses it or cannot be reached, or the budget is spent.
        """
        chats = ((request, self._chat(request)) for request in requests)
        with closing(self.endpoint.complete(chats)) as answers:
            for request, answer in answers:
                yield request, Written(**vars(answer))

    def estimate(self, requests: Iterable[Request]) -> Estimate:
        """The cost at most; nothing is sent. `Endpoint.estimate` makes the guess."""
        return Estimate(**vars(self.endpoint.estimate(map(self._chat, requests))))

    def _chat(self, request: Request) -> Chat:
        images = request.images if self.sees_images else ()
        return Chat(request.message, request.system, images, request.examples)
