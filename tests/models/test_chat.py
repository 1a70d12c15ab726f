from __future__ import annotations

import pytest

from mllmrec.errors import UserError

# As in SmolLM2: a system prompt of its own unless the first message brings one; its start token begins each turn.
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}<|im_start|>system\n"
    "You are SmolLM<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
USER = "<|im_start|>user\nWhich?<|im_end|>\n<|im_start|>assistant\n"
# As in Llama 3: the start token once, and always a system turn.
LLAMA3 = (
    "<s>[system]{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}{% set messages = messages[1:] %}"
    "{% endif %} today{% for message in messages %}[{{ message['role'] }}]{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
GEMMA = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}[{{ message['role'] }}]{{ message['content'] }}{% endfor %}"
)
FOLDED = "{% for message in messages %}{{ message['content'] }}{{ messages | length }}{% endfor %}"


@pytest.fixture
def said(make_pretrained):
    def render(template: str | None, system: str | None, start: str = "<|im_start|>") -> str:
        policy = make_pretrained()
        policy.tokenizer.chat_template, policy.tokenizer.bos_token = template, start
        policy.system = system
        return policy.render("Which?")

    return render


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        (None, "<|im_start|>system\nYou are SmolLM<|im_end|>\n" + USER),
        ("Be brief", "<|im_start|>system\nBe brief<|im_end|>\n" + USER),
        ("", USER),
    ],
)
def test_the_system_prompt_of_a_template_is_kept_replaced_or_left_out(said, system, expected):
    assert said(SMOLLM2, system) == expected


def test_the_start_token_stays(said):
    assert said(LLAMA3, "", start="<s>") == "<s>[user]Which?[assistant]"
    assert said(LLAMA3, None, start="<s>") == "<s>[system] today[user]Which?[assistant]"


def test_templates_without_system_prompts(said):
    assert said(GEMMA, "") == "[user]Which?"
    with pytest.raises(UserError, match=r"takes no system prompt \(System role not supported\)"):
        said(GEMMA, "Be brief")
    assert said(None, "Be brief") == "Be brief\nWhich?\n"
    assert said(None, "") == "Which?\n"


def test_a_template_that_hides_its_system_prompt_is_refused(said):
    with pytest.raises(UserError, match="cannot be taken out of the backbone's chat template"):
        said(FOLDED, "")
