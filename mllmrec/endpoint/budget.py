"""What requests cost: prices, running totals, and limits that are checked before money is spent."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import NamedTuple

from mllmrec.endpoint.settings import SpendingLimits
from mllmrec.flat import flat_settings


class Usage(NamedTuple):
    """Tokens of a request."""

    prompt: int
    completion: int


@dataclass(frozen=True)
class Tally:
    """What requests cost so far, or will cost at most."""

    requests: int
    prompt_tokens: int
    completion_tokens: int
    money: float | None = None  # in the currency of the prices; None without prices


def tokens_in(text: str) -> int:
    """A guess without a tokenizer: one token per four bytes of UTF-8 (four English characters), rounded up."""
    return -(-len(text.encode()) // 4)


class Budget:
    """Limits on spending, and what was spent. Safe to use from several threads.

    Before a request is sent, it reserves the most that it can cost; afterwards it is charged what the server reports.
    As far as the guess of the prompt's tokens holds, no limit is exceeded, however many requests are under way. A try
    without a report (a timeout, a lost connection) may be billed all the same, so it is counted at its most.

    Args:
        limits: what may be spent, and the prices.
    """

    @flat_settings
    def __init__(self, limits: SpendingLimits = SpendingLimits()) -> None:
        self.limits = limits
        self._requests = 0
        self._spent = self._reserved = Usage(0, 0)
        self._lock = Lock()

    def cost(self, requests: int, usage: Usage) -> Tally:
        """The price of `requests` requests that use `usage` tokens in all."""
        money = None
        price_in, price_out = self.limits.price_in, self.limits.price_out
        if price_in is not None and price_out is not None:
            money = (usage.prompt * price_in + usage.completion * price_out) / 1e6
        return Tally(requests, usage.prompt, usage.completion, money)

    @property
    def spent(self) -> Tally:
        """The running totals."""
        with self._lock:
            return self.cost(self._requests, self._spent)

    def reserve(self, most: Usage) -> bool:
        """Reserve ``most`` for a request. If that might not fit, return False and change nothing."""
        with self._lock:
            if self._passed(self._requests + 1, _sum(self._spent, self._reserved, most)):
                return False
            self._requests += 1
            self._reserved = _sum(self._reserved, most)
            return True

    def settle(self, most: Usage, used: Usage) -> None:
        """Replace a request's reservation by what it used."""
        with self._lock:
            self._reserved = Usage(
                self._reserved.prompt - most.prompt, self._reserved.completion - most.completion
            )
            self._spent = _sum(self._spent, used)

    def lose(self, most: Usage) -> None:
        """Count a try that may have been billed. The request keeps its reservation for the next try."""
        with self._lock:
            self._spent = _sum(self._spent, most)

    def overdrawn(self) -> bool:
        """Whether lost tries leave too little for everything under way."""
        with self._lock:
            return bool(self._passed(self._requests, _sum(self._spent, self._reserved)))

    def describe(self, most: Usage) -> str:
        """Why a request that costs up to ``most`` is not begun: what was spent, and which limit is near."""
        with self._lock:
            spent = self.cost(self._requests, self._spent)
            limit = self._passed(self._requests + 1, _sum(self._spent, self._reserved, most))
        money = "" if spent.money is None else f" and {spent.money:.4f} in money"
        tokens = spent.prompt_tokens + spent.completion_tokens
        return f"{spent.requests} requests with {tokens} tokens{money} spent, and the next could pass {limit}"

    def _passed(self, requests: int, usage: Usage) -> str:
        """The limit that this would exceed, as ``name=value``; "" if none."""
        tally = self.cost(requests, usage)
        costs = {
            "max_requests": tally.requests,
            "max_tokens_total": tally.prompt_tokens + tally.completion_tokens,
            "max_money": tally.money or 0.0,
        }
        limits = ((name, getattr(self.limits, name)) for name in costs)
        return next(
            (f"{name}={limit}" for name, limit in limits if limit is not None and costs[name] > limit), ""
        )


def _sum(*usages: Usage) -> Usage:
    return Usage(sum(usage.prompt for usage in usages), sum(usage.completion for usage in usages))
