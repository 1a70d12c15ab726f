"""One request, tried again as long as another try can help."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event

import openai
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_after_attempt,
    stop_when_event_set,
    wait_exponential,
    wait_random,
)
from urllib3.exceptions import InvalidHeader
from urllib3.util import Retry

from mllmrec.data.text import collapse_spaces
from mllmrec.endpoint.answers import NO_ANSWER, Answer, MalformedAnswer

log = logging.getLogger(__name__)

LONGEST_BACKOFF = 60.0  # seconds
LONGEST_WAIT = 86400.0  # seconds; the wait that a server asks for in Retry-After is obeyed up to a day
_QUOTA_SPENT = "insufficient_quota"
_CODE = re.compile("[A-Za-z_]{3,40}")  # as in context_length_exceeded; no key looks like that


class Refused(Exception):
    """The server will answer no request at all; ``status`` says why."""

    def __init__(self, status: int, no_credit: bool) -> None:
        super().__init__(f"HTTP {status}")
        self.status, self.no_credit = status, no_credit


class _Stopped(Exception):
    """Nothing more may be sent."""


@dataclass(frozen=True)
class Tries:
    """How often and when a request is tried again, and who is told about failures."""

    attempts: int
    backoff_seconds: float  # the wait after the first try; it doubles with each try, up to `LONGEST_BACKOFF`
    stop: Event  # setting it ends all waits; nothing is sent after that
    spent: Callable[[], bool]  # whether there is too little money for further tries
    warn: Callable[[str, str], None]  # called with the kind of each failure and the server's words

    def run(self, send: Callable[[], Answer]) -> Answer:
        """The answer, or the problem of the last try.

        Failed connections, timeouts, statuses 408, 409, 429 and 5xx, and malformed answers are tried again. The wait
        is the time in ``Retry-After`` (seconds or a date) plus a random moment, or else grows exponentially, with
        jitter.

        Raises:
            Refused: status 401, 402 or 403, or an account without credit.
        """

        def send_unless_stopped() -> Answer:
            if self.stop.is_set():
                raise _Stopped
            return send()

        try:
            return self.retrying(lambda error: may_pass(error) and not self.spent())(send_unless_stopped)
        except _Stopped:
            return Answer(problem=f"{NO_ANSWER} (stopped)")
        except (openai.OpenAIError, MalformedAnswer) as error:
            problem, words = kind_of(error)
            status = getattr(error, "status_code", 0)
            if status in (401, 402, 403) or _quota_spent(error):
                # Raised outside this block, so that no traceback shows the server's words: they may repeat the key.
                refused = Refused(status, no_credit=status == 402 or _quota_spent(error))
            else:
                self.warn(problem, words)
                # A 404 is about the address or the model, not about this request.
                lost = may_pass(error) or status == 404
                return Answer(problem=f"{NO_ANSWER} ({problem})" if lost else problem)
        raise refused

    def retrying(self, again: Callable[[BaseException], bool]) -> Retrying:
        """Calls a function, and again after errors that may pass; the last error is raised."""
        return Retrying(
            retry=retry_if_exception(again),
            wait=self._wait,
            stop=stop_after_attempt(self.attempts) | stop_when_event_set(self.stop),
            sleep=sleep_using_event(self.stop),
            before_sleep=self._tell,
            reraise=True,
        )

    def _wait(self, state: RetryCallState) -> float:
        jitter = wait_random(0, self.backoff_seconds)(state)
        asked = _retry_after(state.outcome.exception() if state.outcome else None)
        grown = wait_exponential(multiplier=self.backoff_seconds, max=LONGEST_BACKOFF)(state)
        return jitter + (grown if asked is None else asked)

    def _tell(self, state: RetryCallState) -> None:
        problem, words = kind_of(state.outcome.exception() if state.outcome else None)
        self.warn(problem, words)
        log.debug("%s: try %d follows in %.1f s", problem, state.attempt_number + 1, state.upcoming_sleep)


def maybe_billed(error: Exception) -> bool:
    """Whether the server may have done the work although no answer came."""
    if isinstance(error, openai.APIConnectionError):
        return type(error.__cause__).__name__ not in ("ConnectError", "ConnectTimeout")
    return isinstance(error, openai.APIResponseValidationError | MalformedAnswer)


def may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed if it is sent again."""
    if isinstance(error, openai.APIStatusError):
        passing = error.status_code in (408, 409, 429) or error.status_code >= 500
        return passing and not _quota_spent(error)
    return isinstance(error, openai.APIError | MalformedAnswer)


def _quota_spent(error: BaseException) -> bool:
    return _QUOTA_SPENT in (getattr(error, "code", None), getattr(error, "type", None))


def _retry_after(error: BaseException | None) -> float | None:
    """The seconds that the server asks to wait; None if it does not say."""
    if not isinstance(error, openai.APIStatusError) or "retry-after" not in error.response.headers:
        return None
    try:
        return min(Retry().parse_retry_after(error.response.headers["retry-after"]), LONGEST_WAIT)
    except InvalidHeader:
        return None


def kind_of(error: BaseException | None) -> tuple[str, str]:
    """A failure as a few words of our own that can be counted, and in the server's words."""
    if isinstance(error, openai.APIStatusError):
        body = error.body if isinstance(error.body, dict) else {}
        words = collapse_spaces(str(body.get("message") or error.body or ""))
        for code in (body.get("code"), body.get("type")):
            if isinstance(code, str) and _CODE.fullmatch(code):
                return f"HTTP {error.status_code}: {code}", words
        return f"HTTP {error.status_code}", words
    if isinstance(error, openai.APITimeoutError):
        return "timeout", ""
    if isinstance(error, openai.APIConnectionError):
        return "no connection", ""
    return "malformed answer", ""
