"""A model behind vLLM's own HTTP server (``vllm serve``): completions of token ids with log-probabilities, and adapters.

The fields are those of `CompletionRequest` and of the routes ``/v1/load_lora_adapter`` and ``/v1/unload_lora_adapter``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Event
from typing import Any, TypeVar

import openai

from mllmrec.endpoint.answers import MalformedAnswer
from mllmrec.endpoint.client import client_of
from mllmrec.endpoint.keys import read_key
from mllmrec.endpoint.settings import ConnectionSettings
from mllmrec.endpoint.tries import Tries, kind_of, may_pass
from mllmrec.errors import UserError
from mllmrec.rollout.written import Wanted

log = logging.getLogger(__name__)

Result = TypeVar("Result")

ROUNDS = 3  # requests for the completions of a prompt, if the server gives fewer than asked
FLAGS = "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve MODEL --enable-lora"
_NOBODY = "mllmrec-nobody"  # an adapter that no server has


class NoSuchModel(Exception):
    """The server knows no model of this name; it may have been started again and have lost its adapters."""


@dataclass(frozen=True)
class Base:
    """What the server says of its base model."""

    name: str
    longest: int | None  # tokens of a prompt and its answer; None: it does not say


@dataclass(frozen=True)
class Drawn:
    """Completions of one prompt."""

    model: str  # who answered, as the server says
    rows: list[list[int]]  # token ids, with the end token
    logprobs: list[list[float]]  # of each token


class VllmServer:
    """The server at ``connection.base_url``. Its methods may be called from several threads.

    Args:
        connection: the server, and how requests reach it.

    Raises:
        UserError: there is no key, though the server is on another machine.
    """

    def __init__(self, connection: ConnectionSettings) -> None:
        self.connection, self.url = connection, connection.base_url
        self.stop = Event()  # ends all waits between tries
        self._warned: set[str] = set()
        self._key = read_key(connection.base_url, connection.api_key_env)
        self._client = client_of(connection, self._key)
        self._tries = Tries(
            connection.attempts, connection.backoff_seconds, self.stop, lambda: False, self._warn
        )

    def close(self) -> None:
        """End all waits, and the connections."""
        self.stop.set()
        self._client.close()

    def base(self) -> Base:
        """The base model.

        Raises:
            UserError: the server cannot be reached, or lists no model.
        """
        listed = self._asked("the list of models", lambda: self._client.get("/models", cast_to=object))
        models = listed.get("data") if isinstance(listed, dict) else None
        for model in models if isinstance(models, list) else []:
            if isinstance(model, dict) and model.get("parent") is None and isinstance(model.get("id"), str):
                return Base(model["id"], model.get("max_model_len"))
        raise UserError(f"{self.url} lists no base model: start it with {FLAGS}")

    def check_takes_adapters(self) -> None:
        """Refuse a server whose adapters cannot change while it runs.

        Raises:
            UserError: it has no such routes.
        """
        try:
            self._asked("an adapter's removal", lambda: self._post("/unload_lora_adapter", lora_name=_NOBODY))
        except openai.APIStatusError as error:
            # vLLM names the adapter that it does not have; a server without the route does not.
            if _NOBODY not in str(error.body):
                raise UserError(
                    f"{self.url} takes no adapters while it runs (HTTP {error.status_code}): start it with {FLAGS}"
                ) from error

    def tokens(self, model: str, text: str) -> list[int] | None:
        """The server's own token ids of a text, without special tokens; None if it does not say."""
        address = self.url.removesuffix("/").removesuffix("/v1") + "/tokenize"
        body = {"model": model, "prompt": text, "add_special_tokens": False}
        try:
            found = self._asked(
                "tokens of a text", lambda: self._client.post(address, cast_to=object, body=body)
            )
        except openai.APIStatusError:
            return None
        tokens = found.get("tokens") if isinstance(found, dict) else None
        return tokens if isinstance(tokens, list) else None

    def load(self, name: str, path: str) -> None:
        """Let the server load an adapter.

        Args:
            name: a name that nobody else uses.
            path: the adapter's folder, as the server sees it.

        Raises:
            UserError: the server refuses it; the message has the server's words.
        """
        try:
            self._asked(
                f"loading the adapter {name}",
                lambda: self._post("/load_lora_adapter", lora_name=name, lora_path=path),
                again=lambda error: may_pass(error) and getattr(error, "status_code", 0) != 500,
            )
        except openai.APIStatusError as error:
            words = kind_of(error)[1]
            if "already been loaded" in words:
                return  # by a try whose answer was lost
            raise UserError(
                f"{self.url} did not load the adapter in {path} (HTTP {error.status_code}: {self._told(words)}): it must see that folder "
                "(generator.adapter_folder, generator.seen_as), have the base model of backbone.path, and take the ranks of all "
                "phases together (--max-lora-rank)"
            ) from error

    def unload(self, name: str) -> None:
        """Let the server forget an adapter; a server that cannot is only named in the log."""
        try:
            self._post("/unload_lora_adapter", lora_name=name)
        except (openai.OpenAIError, MalformedAnswer) as error:
            log.debug("%s: the adapter %s was not removed: %s", self.url, name, kind_of(error)[0])

    def draw(self, model: str, prompt: Sequence[int], count: int, wanted: Wanted, seed: int) -> Drawn:
        """Completions of one prompt. If the server gives fewer than asked, it is asked for the rest.

        Args:
            model: the base model or an adapter.
            prompt: token ids.
            count: how many completions.
            wanted: how they are drawn.
            seed: of the draws.

        Raises:
            NoSuchModel: see there.
            UserError: no completions came, or some that cannot be used.
        """
        rows: list[list[int]] = []
        logprobs: list[list[float]] = []
        names: set[str] = set()
        for _ in range(ROUNDS):
            send = partial(self._complete, model, prompt, count - len(rows), wanted, seed + len(rows))
            try:
                found = self._asked(f"completions by {model}", send)
            except openai.NotFoundError as error:
                raise NoSuchModel(f"{self.url} has no {model}") from error
            except openai.APIStatusError as error:
                raise UserError(
                    f"{self.url} refuses a prompt of {len(prompt)} tokens and {wanted.limit} behind it (HTTP {error.status_code}: "
                    f"{self._told(kind_of(error)[1])}); if that is too long, start it with a greater --max-model-len"
                ) from error
            rows += found.rows
            logprobs += found.logprobs
            names.add(found.model)
            if len(names) > 1:
                raise UserError(f"{self.url} answers one prompt as {' and as '.join(sorted(names))}")
            if len(rows) >= count:
                return Drawn(found.model, rows[:count], logprobs[:count])
        raise UserError(
            f"{self.url} gave {len(rows)} of {count} completions of a prompt, in {ROUNDS} requests: look at the server's log, or "
            "lower grpo.group_size"
        )

    def _complete(self, model: str, prompt: Sequence[int], count: int, wanted: Wanted, seed: int) -> Drawn:
        try:
            completion = self._client.completions.create(
                model=model,
                prompt=[list(prompt)],
                n=count,
                logprobs=0,
                max_tokens=wanted.limit,
                temperature=wanted.temperature,
                top_p=wanted.top_p,
                seed=seed,
                # A server takes what is not said here from the model's generation_config.json.
                extra_body={
                    "top_k": -1,
                    "min_p": 0.0,
                    "repetition_penalty": 1.0,
                    "presence_penalty": 0.0,
                    "frequency_penalty": 0.0,
                    "stop": [wanted.stop] if wanted.stop else [],
                    "stop_token_ids": [wanted.end],
                    "ignore_eos": True,  # of the server's choice; the line before has the policy's own
                    "include_stop_str_in_output": True,
                    "skip_special_tokens": False,
                    "return_token_ids": True,
                },
            )
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise MalformedAnswer from error
        choices = getattr(completion, "choices", None)
        if not isinstance(choices, list):
            raise MalformedAnswer
        read = [self._read(choice, prompt, wanted) for choice in choices]
        return Drawn(str(completion.model), [row for row, _ in read], [values for _, values in read])

    def _read(self, choice: Any, prompt: Sequence[int], wanted: Wanted) -> tuple[list[int], list[float]]:
        """Token ids and log-probabilities of one completion."""
        ids, said = getattr(choice, "token_ids", None), getattr(choice, "logprobs", None)
        values = getattr(said, "token_logprobs", None)
        if not isinstance(ids, list) or not isinstance(values, list):
            raise UserError(
                f"{self.url} gives no {'token ids' if not isinstance(ids, list) else 'log-probabilities'} with its completions: "
                "generator=vllm needs a vLLM whose completions know return_token_ids"
            )
        shown = getattr(choice, "prompt_token_ids", None)
        if isinstance(shown, list) and shown != list(prompt):
            raise UserError(
                f"{self.url} completed another prompt than it was given ({len(shown)} tokens, not {len(prompt)}): start it "
                "without options that cut prompts"
            )
        if not ids or len(ids) != len(values) or any(not isinstance(one, int | float) for one in values):
            raise MalformedAnswer
        if choice.finish_reason == "length" and len(ids) < wanted.limit:
            raise UserError(
                f"{self.url} cut a completion off after {len(ids)} of {wanted.limit} tokens, since a prompt of {len(prompt)} leaves no "
                "more: start it with a greater --max-model-len"
            )
        return ids[: wanted.limit], [float(one) for one in values[: wanted.limit]]

    def _post(self, path: str, **body: Any) -> Any:
        return self._client.post(path, cast_to=str, body=body)

    def _asked(
        self,
        what: str,
        send: Callable[[], Result],
        again: Callable[[BaseException], bool] = may_pass,
    ) -> Any:
        """What the server replies.

        Raises:
            openai.APIStatusError: it refuses the request.
            UserError: it gives no reply that could be used, in all tries, or does not accept the key.
        """
        try:
            return self._tries.retrying(again)(send)
        except openai.APIStatusError as error:
            if error.status_code in (401, 403):
                raise self._refused(error.status_code) from None  # the server's words may repeat the key
            if again(error):
                raise self._failure(what, error) from error
            raise
        except (openai.OpenAIError, MalformedAnswer) as error:
            raise self._failure(what, error) from error

    def _failure(self, what: str, error: BaseException) -> UserError:
        problem, words = kind_of(error)
        connection = self.connection
        told = f" ({self._told(words)})" if words else ""
        if isinstance(error, openai.APITimeoutError):
            problem = f"silence for generator.timeout_seconds={connection.timeout_seconds:g}"
        return UserError(
            f"{self.url}: {what} came to nothing in {connection.attempts} tries, the last with {problem}{told}: check that the "
            "server is up and answers in time, then start again; with resume=auto the run goes on from its last checkpoint"
        )

    def _told(self, words: str) -> str:
        """The server's words without the key."""
        return words.replace(self._key, self.connection.api_key_env)[:300]

    def _refused(self, status: int) -> UserError:
        return UserError(
            f"{self.url} does not accept the key in {self.connection.api_key_env} (HTTP {status}): set that variable to the key "
            "that the server was started with (--api-key)"
        )

    def _warn(self, problem: str, words: str) -> None:
        if problem not in self._warned:  # once per kind of failure
            self._warned.add(problem)
            told = f" ({self._told(words)})" if words else ""
            log.warning("%s: %s%s; it is asked again", self.url, problem, told)
