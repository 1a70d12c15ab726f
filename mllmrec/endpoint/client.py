"""Many chats with one model on one server. The number at once is limited, and each answer is passed on as it comes."""

from __future__ import annotations

import json
import logging
from collections.abc import Generator, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from threading import Event
from typing import Any, TypeVar
from urllib.parse import urlsplit

import openai
from omegaconf import OmegaConf

from mllmrec.data.images import UNREADABLE_IMAGE
from mllmrec.endpoint.answers import (
    NO_ANSWER,
    Answer,
    Chat,
    MalformedAnswer,
    read_answer,
)
from mllmrec.endpoint.budget import Budget, Tally, Usage, tokens_in
from mllmrec.endpoint.images import data_url
from mllmrec.endpoint.keys import read_key
from mllmrec.endpoint.settings import AnswerSettings, ConnectionSettings
from mllmrec.endpoint.tries import Refused, Tries, maybe_billed
from mllmrec.errors import UserError
from mllmrec.flat import flat_settings

log = logging.getLogger(__name__)

Key = TypeVar("Key")

GIVE_UP_AFTER = (
    8  # requests in a row with no answer, or with "no such model" as the answer: the server is not there
)
CONNECT_SECONDS = 15.0


class Endpoint:
    """A model behind a server that speaks OpenAI's chat protocol: OpenAI, DeepSeek, vLLM, and others.

    Args:
        model: the model's name on the server.
        answers: what determines an answer besides the model and the chat.
        connection: the server, and how requests reach it.
        budget: limits, prices and running totals; None: no limits.

    Raises:
        UserError: a value makes no sense.
    """

    @flat_settings
    def __init__(
        self,
        model: str,
        answers: AnswerSettings = AnswerSettings(),
        connection: ConnectionSettings = ConnectionSettings(),
        budget: Budget | None = None,
    ) -> None:
        self.model, self.answers, self.connection = model, answers, connection
        self.extra_body: dict[str, Any] = _plain(answers.extra_body)
        self.budget = budget or Budget()

    def identity(self) -> dict[str, object]:
        """What determines an answer besides the chat. The server's address is not included: servers move."""
        return {
            "model": self.model,
            "temperature": self.answers.temperature,
            "max_tokens": self.answers.max_tokens,
            "extra_body": self.extra_body,
            "image_side": self.answers.image_side,
        }

    def estimate(self, chats: Iterable[Chat]) -> Tally:
        """The most that the chats cost; nothing is sent. `tokens_in` and ``image_tokens`` give the guess."""
        requests = prompt = 0
        for chat in chats:
            requests, prompt = requests + 1, prompt + self._most(chat).prompt
        return self.budget.cost(requests, Usage(prompt, requests * self.answers.max_tokens))

    def complete(self, chats: Iterable[tuple[Key, Chat]]) -> Generator[tuple[Key, Answer], None, None]:
        """Yield the answer of each chat with the chat's key, as soon as the answer is there, in any order.

        At most ``concurrency`` chats are under way or waiting to be yielded, and no chat is read before it can be
        sent. So a process that is killed loses no more than these. Nothing is sent after the generator is closed.

        A request that fails for good yields an answer with a problem. If all its tries failed, the problem begins
        with `NO_ANSWER`.

        Raises:
            UserError: there is no key, the server refuses it or cannot be reached, or the budget is spent. All
                answers under way are yielded first.
        """
        connection = self.connection
        key = read_key(connection.base_url, connection.api_key_env)
        stop = Event()
        # Warn once per kind of failure: a server that is down would fill the screen.
        warned: set[str] = set()

        def warn(problem: str, words: str) -> None:
            if problem not in warned:
                warned.add(problem)
                shown = f" ({words.replace(key, connection.api_key_env)[:300]})" if words else ""
                log.warning("%s: %s%s", connection.base_url, problem, shown)

        client = client_of(connection, key)
        tries = Tries(connection.attempts, connection.backoff_seconds, stop, self.budget.overdrawn, warn)
        pool = ThreadPoolExecutor(connection.concurrency, thread_name_prefix="endpoint")
        pending: dict[Future[Answer], Key] = {}
        source = iter(chats)
        upcoming: tuple[Key, Chat] | None = None
        failure: UserError | None = None
        unanswered = 0  # in a row
        try:
            while True:
                while failure is None and len(pending) < connection.concurrency:
                    upcoming = upcoming or next(source, None)
                    most = self._most(upcoming[1]) if upcoming else Usage(0, 0)
                    if upcoming is None or not self.budget.reserve(most):
                        break
                    pending[pool.submit(self._answer, client, tries, upcoming[1], most)] = upcoming[0]
                    upcoming = None
                if not pending:
                    break
                finished = wait(pending, return_when=FIRST_COMPLETED).done
                # The request longest under way comes first, so that none waits for ever.
                done = next(future for future in pending if future in finished)
                asked = pending.pop(done)
                try:
                    answer = done.result()
                except Refused as refused:
                    failure = failure or self._refusal(refused)
                    stop.set()
                    continue
                lost = answer.problem.startswith(NO_ANSWER)
                if answer.problem != UNREADABLE_IMAGE:
                    unanswered = unanswered + 1 if lost else 0
                if unanswered == GIVE_UP_AFTER and failure is None:
                    failure = UserError(
                        f"{connection.base_url}: {unanswered} requests in a row came to nothing, the last with "
                        f"{answer.problem}: check that the server is up and has the model {self.model}, then start "
                        "again to go on from here"
                    )
                    stop.set()
                # A request that a failure cut short has no answer yet.
                if failure is None or not lost:
                    yield asked, answer
            client.close()
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
        if failure is None and upcoming is not None:
            failure = UserError(
                f"the budget is spent: {self.budget.describe(self._most(upcoming[1]))}; start again to go on from "
                "here, with a greater limit if this one is too small for a single request"
            )
        if failure is not None:
            raise failure

    def _answer(self, client: openai.OpenAI, tries: Tries, chat: Chat, most: Usage) -> Answer:
        answer = Answer(problem=UNREADABLE_IMAGE)
        try:
            body = self.body(chat)
            if body is not None:
                answer = tries.run(lambda: self._send(client, body, most))
        finally:
            self.budget.settle(most, Usage(answer.prompt_tokens, answer.completion_tokens))
        return answer

    def _send(self, client: openai.OpenAI, body: dict[str, Any], most: Usage) -> Answer:
        try:
            try:
                completion = client.chat.completions.create(**body)
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise MalformedAnswer from error
            return read_answer(completion, most.prompt)
        except (openai.APIError, MalformedAnswer) as error:
            if maybe_billed(error):
                self.budget.lose(most)
            raise

    def body(self, chat: Chat) -> dict[str, Any] | None:
        """The fields of a request; None if an image cannot be read."""
        urls = [data_url(path, self.answers.image_side) for path in chat.images]
        if None in urls:
            return None
        content: Any = chat.message
        if urls:
            content = [
                *({"type": "image_url", "image_url": {"url": url}} for url in urls),
                {"type": "text", "text": chat.message},
            ]
        messages = [{"role": "system", "content": chat.system}] if chat.system else []
        for message, answer in chat.examples:
            messages += [{"role": "user", "content": message}, {"role": "assistant", "content": answer}]
        # OpenAI's newer models accept only the second name, most other servers only the first.
        limit = (
            "max_completion_tokens"
            if f".{urlsplit(self.connection.base_url).hostname}".endswith(".openai.com")
            else "max_tokens"
        )
        body = {
            "model": self.model,
            "messages": [*messages, {"role": "user", "content": content}],
            limit: self.answers.max_tokens,
            "extra_body": self.extra_body,
        }
        if self.answers.temperature is not None:
            body["temperature"] = self.answers.temperature
        return body

    def _most(self, chat: Chat) -> Usage:
        said = [chat.system, chat.message, *(part for example in chat.examples for part in example)]
        texts = sum(map(tokens_in, said))
        return Usage(texts + self.answers.image_tokens * len(chat.images), self.answers.max_tokens)

    def _refusal(self, refused: Refused) -> UserError:
        server, key = self.connection.base_url, self.connection.api_key_env
        if refused.no_credit:
            return UserError(
                f"{server}: the account of the key in {key} has no credit left ({refused}): top it up and start again "
                "to go on from here"
            )
        return UserError(
            f"{server} does not accept the key in {key} ({refused}): set that variable to a key that may use "
            f"{self.model} and start again to go on from here"
        )


def client_of(connection: ConnectionSettings, key: str) -> openai.OpenAI:
    """A client that tries nothing again by itself."""
    # These libraries log a line per request.
    for library in ("httpx", "httpx2"):
        logging.getLogger(library).setLevel(logging.WARNING)
    silent = connection.timeout_seconds
    return openai.OpenAI(
        api_key=key,
        base_url=connection.base_url,
        max_retries=0,
        # If a server sent an answer twice, the second copy would be read as the answer to the next request.
        default_headers={"Connection": "close"},
        timeout=openai.Timeout(silent, connect=min(CONNECT_SECONDS, silent)),
    )


def _plain(settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """Settings as JSON values, whether they come from Hydra or from a direct call."""
    plain: Any = OmegaConf.to_container(settings, resolve=True) if OmegaConf.is_config(settings) else settings
    return dict(plain or {})
