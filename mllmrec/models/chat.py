"""Prompts inside a tokenizer's chat template."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mllmrec.errors import UserError
from mllmrec.prompts.markup import THINK_OPEN

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_OPENED = re.compile(re.escape(THINK_OPEN) + r"\s*\Z")


def rendered(
    tokenizer: PreTrainedTokenizerBase, prompt: str, system: str | None = None, thinks: bool = False
) -> str:
    """The prompt inside the chat template, up to the start of the answer.

    A template with the variable ``enable_thinking`` switches the model's thinking on or off. Some templates also open the
    reasoning. A prompt that asks for reasoning ends before that opening tag, since completions begin with their own.

    Args:
        tokenizer: has the template; without one the prompt stands for itself.
        prompt: the user's message.
        system: the system prompt; "" for none; None for the template's own, if it has one.
        thinks: whether the prompt asks for reasoning before the answer.

    Raises:
        UserError: the template cannot take the system prompt, cannot go without one, or is faulty.
    """
    if not tokenizer.chat_template:
        return f"{system}\n{prompt}\n" if system else prompt + "\n"
    text = _in_template(tokenizer, prompt, system, thinks)
    return _OPENED.sub("", text) if thinks else text


def _in_template(tokenizer: PreTrainedTokenizerBase, prompt: str, system: str | None, thinks: bool) -> str:
    from jinja2 import TemplateError

    turn = {"role": "user", "content": prompt}
    if system is None:
        try:
            return _applied(tokenizer, [turn], thinks)
        except (TemplateError, TypeError, ArithmeticError) as error:
            # A template of a stranger runs in a sandbox, which also ends here.
            raise UserError(
                f"the backbone's chat template cannot be used ({error}): choose another backbone, or correct its template"
            ) from error
    first = {"role": "system", "content": system}
    try:
        whole = _applied(tokenizer, [first, turn], thinks)
        if system:
            return whole
        block = _applied(tokenizer, [first], thinks, answers=False)
    except TemplateError as error:
        if not system:  # a template that takes no system prompt writes none
            return _applied(tokenizer, [turn], thinks)
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


def _applied(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], thinks: bool, answers: bool = True
) -> str:
    return str(
        tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=answers, enable_thinking=thinks
        )
    )
