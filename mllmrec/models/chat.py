"""Prompts inside a tokenizer's chat template."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mllmrec.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def rendered(tokenizer: PreTrainedTokenizerBase, prompt: str, system: str | None = None) -> str:
    """The prompt inside the chat template, up to the start of the answer.

    The template turns off a model's thinking mode: the prompt itself holds any reasoning.

    Args:
        tokenizer: has the template; without one the prompt stands for itself.
        prompt: the user's message.
        system: the system prompt; "" for none; None for the template's own, if it has one.

    Raises:
        UserError: the template cannot take the system prompt, or cannot go without one.
    """
    if not tokenizer.chat_template:
        return f"{system}\n{prompt}\n" if system else prompt + "\n"
    turn = {"role": "user", "content": prompt}
    if system is None:
        return _applied(tokenizer, [turn])
    from jinja2 import TemplateError

    first = {"role": "system", "content": system}
    try:
        whole = _applied(tokenizer, [first, turn])
        if system:
            return whole
        block = _applied(tokenizer, [first], answers=False)
    except TemplateError as error:
        if not system:  # a template that takes no system prompt writes none
            return _applied(tokenizer, [turn])
        raise UserError(
            f"prompt.system: the backbone's chat template takes no system prompt ({error}): set prompt.system=null"
        ) from error
    if not whole.startswith(block):
        raise UserError(
            'prompt.system="": the system prompt cannot be taken out of the backbone\'s chat template; give a text, or set '
            "prompt.system=null for the template's own"
        )
    rest, begin = whole[len(block) :], str(tokenizer.bos_token or "")
    # Some templates begin with a start token, others begin each turn with the same token.
    return begin + rest if block.startswith(begin) and not rest.startswith(begin) else rest


def _applied(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], answers: bool = True) -> str:
    return str(
        tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=answers, enable_thinking=False
        )
    )
