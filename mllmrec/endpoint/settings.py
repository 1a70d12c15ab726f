"""What is asked of a model on a server, how the server is reached, and what may be spent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mllmrec.endpoint.keys import check_address
from mllmrec.errors import UserError

_OURS = ("model", "messages", "temperature", "max_tokens", "max_completion_tokens", "stream", "n")


@dataclass(frozen=True)
class AnswerSettings:
    """What determines an answer besides the model and the chat.

    Args:
        temperature: the sampling temperature; None leaves it to the server, as OpenAI's reasoning models demand.
        max_tokens: most tokens of an answer, reasoning included.
        extra_body: further fields of each request, as the server documents them.
        image_side: longest side of the images sent, in pixels.
        image_tokens: prompt tokens that estimates and the budget count per image.

    Raises:
        UserError: a value makes no sense.
    """

    temperature: float | None = None
    max_tokens: int = 1024
    extra_body: Mapping[str, Any] | None = None
    image_side: int = 512
    image_tokens: int = 400

    def __post_init__(self) -> None:
        _require_one(max_tokens=self.max_tokens, image_side=self.image_side)
        if self.image_tokens < 0:
            raise UserError(f"image_tokens={self.image_tokens}: must not be negative")
        if self.temperature is not None and not self.temperature >= 0:
            raise UserError(
                f"temperature={self.temperature}: must not be negative; null leaves it to the server"
            )
        if taken := [name for name in _OURS if name in (self.extra_body or {})]:
            raise UserError(f"extra_body.{taken[0]}: set by the parameters of the component; remove it there")


@dataclass(frozen=True)
class ConnectionSettings:
    """The server, and how requests reach it.

    Args:
        base_url: the server's address, up to and including ``/v1``.
        api_key_env: name of the environment variable that holds the key. The key is read when requests are sent and
            stored nowhere. A server on this machine needs none.
        concurrency: most requests at once.
        timeout_seconds: how long the server may be silent before a request is tried again.
        attempts: tries per request.
        backoff_seconds: wait before the second try; it doubles with each further try.

    Raises:
        UserError: a value makes no sense.
    """

    base_url: str = "https://api.openai.com/v1"
    api_key_env: str = "OPENAI_API_KEY"
    concurrency: int = 8
    timeout_seconds: float = 600.0
    attempts: int = 8
    backoff_seconds: float = 1.0

    def __post_init__(self) -> None:
        check_address(self.base_url, self.api_key_env)
        _require_one(concurrency=self.concurrency, attempts=self.attempts)
        for name in ("timeout_seconds", "backoff_seconds"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name}={getattr(self, name)}: must be greater than 0")


@dataclass(frozen=True)
class SpendingLimits:
    """Limits on spending, and the prices that they need.

    Args:
        max_requests: most requests begun; further tries of a request do not count. None: no limit.
        max_tokens_total: most tokens, prompts and completions together; None: no limit.
        max_money: most money, in the currency of the prices; None: no limit.
        price_in: price of a million prompt tokens; None: unknown.
        price_out: price of a million completion tokens, reasoning included; None: unknown.

    Raises:
        UserError: a limit or a price makes no sense.
    """

    max_requests: int | None = None
    max_tokens_total: int | None = None
    max_money: float | None = None
    price_in: float | None = None
    price_out: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_requests", "max_tokens_total", "max_money"):
            limit = getattr(self, name)
            if limit is not None and not limit > 0:
                raise UserError(f"{name}={limit}: must be greater than 0, or null for no limit")
        for name in ("price_in", "price_out"):
            price = getattr(self, name)
            if price is not None and not 0 <= price < float("inf"):
                raise UserError(f"{name}={price}: must be the price of a million tokens, or null")
        if (self.price_in is None) != (self.price_out is None):
            raise UserError("price_in and price_out belong together: give both prices, or neither")
        if self.max_money is not None and self.price_in is None:
            raise UserError(f"max_money={self.max_money} needs prices: give price_in and price_out")


def _require_one(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise UserError(f"{name}={value}: must be at least 1")
