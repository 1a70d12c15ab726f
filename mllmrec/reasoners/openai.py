"""Reasoning by a model behind an OpenAI-compatible server, such as DeepSeek-R1."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from typing import Any

from mllmrec.endpoint import Budget, Chat, Endpoint
from mllmrec.reasoners.base import Estimate, Reasoner, Request, Written


class OpenAIReasoner(Reasoner):
    """Sends each request's system and user message, and its images if ``sees_images`` is True.

    The other parameters belong to `mllmrec.endpoint.Endpoint` and `mllmrec.endpoint.Budget`. A problem that begins
    with `mllmrec.endpoint.NO_ANSWER` is temporary: the same request may succeed later.

    Raises:
        UserError: a parameter makes no sense.
    """

    def __init__(
        self,
        model: str,
        base_url: str = "https://api.openai.com/v1",
        api_key_env: str = "OPENAI_API_KEY",
        temperature: float | None = 0.6,
        max_tokens: int = 4096,
        extra_body: Mapping[str, Any] | None = None,
        sees_images: bool = False,
        image_side: int = 512,
        image_tokens: int = 400,
        concurrency: int = 8,
        timeout_seconds: float = 600.0,
        attempts: int = 8,
        backoff_seconds: float = 1.0,
        max_requests: int | None = None,
        max_tokens_total: int | None = None,
        max_money: float | None = None,
        price_in: float | None = None,
        price_out: float | None = None,
    ) -> None:
        self.sees_images = sees_images
        self.endpoint = Endpoint(
            model,
            base_url=base_url,
            api_key_env=api_key_env,
            temperature=temperature,
            max_tokens=max_tokens,
            extra_body=extra_body,
            image_side=image_side,
            image_tokens=image_tokens,
            concurrency=concurrency,
            timeout_seconds=timeout_seconds,
            attempts=attempts,
            backoff_seconds=backoff_seconds,
            budget=Budget(max_requests, max_tokens_total, max_money, price_in, price_out),
        )

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
        return Chat(request.message, request.system, request.images if self.sees_images else ())
