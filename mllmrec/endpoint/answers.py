"""What is asked and what comes back: the text, and separately what a reasoning model thought first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllmrec.endpoint.budget import tokens_in

NO_ANSWER = "no answer"  # begins the problem of a request after all tries failed; it may succeed another day


@dataclass(frozen=True)
class Chat:
    """One request: a system message, images and a user message."""

    message: str
    system: str = ""  # "" for none
    images: tuple[Path, ...] = ()  # shown before the message, in this order
    examples: tuple[tuple[str, str], ...] = ()  # messages with answers, earlier turns of the conversation


@dataclass(frozen=True)
class Answer:
    """The result of a chat."""

    text: str = ""  # "" if nothing usable came
    reasoning: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    problem: str = ""  # why there is no text


class MalformedAnswer(Exception):
    """The server sent something with status 200 that is not a chat completion."""


def read_answer(completion: Any, prompt_tokens: int) -> Answer:
    """The answer in a chat completion.

    Reasoning is read from ``reasoning_content`` (DeepSeek, vLLM), from ``reasoning`` (newer vLLM, OpenRouter) and from
    the thought at the start of the content.

    Args:
        completion: a chat completion of the openai library.
        prompt_tokens: used if the server sends no ``usage``; `tokens_in` then counts the completion.

    Raises:
        MalformedAnswer: there is no first choice with a message.
    """
    choices = getattr(completion, "choices", None)
    if not isinstance(choices, list) or not choices or getattr(choices[0], "message", None) is None:
        raise MalformedAnswer
    message, finish = choices[0].message, choices[0].finish_reason
    content = message.content or ""
    text, thought = split_thought(content)
    field = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None) or ""
    problem = ""
    if finish == "content_filter":
        text, problem = "", "content filter"
    elif not text and getattr(message, "refusal", None):
        problem = "refused by the model"
    elif not text:
        problem = "cut off at max_tokens" if finish == "length" else "empty answer"
    usage = getattr(completion, "usage", None)
    return Answer(
        text=text,
        reasoning="\n".join(part for part in (str(field).strip(), thought) if part),
        prompt_tokens=getattr(usage, "prompt_tokens", None) or prompt_tokens,
        completion_tokens=getattr(usage, "completion_tokens", None) or tokens_in(f"{field}{content}"),
        problem=problem,
    )


def split_thought(content: str) -> tuple[str, str]:
    """Split ``<think>thought</think>text`` into text and thought. A thought that does not end leaves no text.

    The opening tag may be absent: DeepSeek-R1's chat template ends the prompt with it.
    """
    before, closing, after = content.partition("</think>")
    opened = before.lstrip().startswith("<think>")
    if not closing and not opened:
        return content.strip(), ""
    return after.strip(), before.strip().removeprefix("<think>").strip()
