"""Captions by a vision-language model behind an OpenAI-compatible server: one request per image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from mllmrec.captions.base import Captioner
from mllmrec.data.images import UNREADABLE_IMAGE
from mllmrec.data.text import collapse_spaces
from mllmrec.endpoint import Budget, Chat, Endpoint
from mllmrec.errors import UserError
from mllmrec.reasoners.base import Estimate


class OpenAICaptioner(Captioner):
    """Asks a server to describe each image.

    ``problems`` counts the reasons why readable images have no caption. ``prompt`` is the message sent with the image;
    the other parameters belong to `mllmrec.endpoint.Endpoint` and `mllmrec.endpoint.Budget`.

    Raises:
        UserError: a parameter makes no sense.
    """

    def __init__(
        self,
        model: str,
        prompt: str,
        base_url: str = "https://api.openai.com/v1",
        api_key_env: str = "OPENAI_API_KEY",
        temperature: float | None = 0.0,
        max_tokens: int = 200,
        extra_body: Mapping[str, Any] | None = None,
        image_side: int = 512,
        image_tokens: int = 400,
        concurrency: int = 8,
        timeout_seconds: float = 120.0,
        attempts: int = 8,
        backoff_seconds: float = 1.0,
        max_requests: int | None = None,
        max_tokens_total: int | None = None,
        max_money: float | None = None,
        price_in: float | None = None,
        price_out: float | None = None,
    ) -> None:
        if not prompt.strip():
            raise UserError("prompt is empty: say how an image is to be described")
        self.prompt = prompt
        self.problems: Counter[str] = Counter()
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
