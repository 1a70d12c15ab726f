from __future__ import annotations

import pytest
import torch

from mllmrec.engine.shared_prefix import SharedPrefix
from mllmrec.errors import UserError
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.prompts.answers import parse_answer
from mllmrec.prompts.examples import CotUse
from mllmrec.rollout.base import Spelling
from mllmrec.rollout.reasoned import Reasoned

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
BEGIN, THINKS_NOT = "<|im_start|>assistant\n", "<think>\n\n</think>\n\n"
TURNS = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
)
OFF = "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
QWEN3 = TURNS + OFF + "{% endif %}{% endif %}"
QWEN3_5 = TURNS + OFF + "{% else %}<think>\n{% endif %}{% endif %}"
QWEN3_THINKING = TURNS + "<think>\n{% endif %}"  # no switch: always opens the reasoning
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


@pytest.mark.parametrize("system", [None, "", "Be brief"])
@pytest.mark.parametrize(
    ("template", "asked", "not_asked"),
    [
        (QWEN3, BEGIN, BEGIN + THINKS_NOT),
        (QWEN3_5, BEGIN, BEGIN + THINKS_NOT),
        (QWEN3_THINKING, BEGIN, BEGIN + "<think>\n"),
        (SMOLLM2, BEGIN, BEGIN),
    ],
    ids=["switch", "switch and tag", "tag", "neither"],
)
def test_a_template_thinks_where_a_prompt_asks_for_it(
    make_pretrained, make_builder, template, asked, not_asked, system
):
    policy, builder = make_pretrained(), make_builder("instruct", answer="id")
    policy.tokenizer.chat_template, policy.system = template, system
    asks, asks_not = (builder.prompt([0, 1], [2, 3], think=think) for think in (True, False))
    hinted = builder.prompt([0, 1], [2, 3], "They like red.")
    assert policy.render(asks).endswith(
        f"{asks}<|im_end|>\n{not_asked}"
    )  # a policy that knows of no such prompts
    policy.asks = builder.asks_for_reasoning
    # Parts of a method write before and behind prompts.
    for prompt in (asks, f"A hint.\n{asks}", f"{asks}\nHow many are right?"):
        assert policy.render(prompt).endswith(f"{prompt}<|im_end|>\n{asked}")
    for prompt in (asks_not, hinted, f"A hint.\n{hinted}"):
        assert policy.render(prompt).endswith(f"{prompt}<|im_end|>\n{not_asked}")


@pytest.mark.parametrize("template", [QWEN3, QWEN3_5, QWEN3_THINKING])
def test_completions_open_their_reasoning_once(make_pretrained, make_builder, make_examples, template):
    policy, builder = make_pretrained(), make_builder("instruct", answer="id")
    policy.tokenizer.chat_template, policy.asks = template, builder.asks_for_reasoning
    example = make_examples(builder, cot=CotUse(asks=True))[0]
    answers = AnswerTokens(builder, policy.encode_answers, policy.end_token)
    spelling = Spelling(
        policy.end_token, [answers.among(example.candidates.tolist())], policy.reasoning_tokens()
    )
    engine, generators = SharedPrefix(), [torch.Generator().manual_seed(0)]
    with torch.no_grad():
        encoded = engine.encode(policy.model, policy.prompt_batch([example.prompt]))
        drawn = Reasoned("sampled", max_reasoning_tokens=8).draw(
            engine, policy.model, encoded, 3, generators, spelling
        )
    offered = {str(item) for item in example.candidates}
    for text in policy.decode(drawn.tokens):
        said = (policy.render(example.prompt) + text).partition("assistant\n")[2]
        assert said.startswith("<think>\n")
        assert said.count("<think>") == said.count("</think>") == 1
        parsed = parse_answer(said)
        assert parsed.well_formed
        assert parsed.items[0][0] in offered
        assert parsed.reasoning


@pytest.mark.parametrize(
    "escape",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.mkdir('owned') }}",
        "{{ messages.append.__self__.__class__.__base__ }}",
        "{{ raise_exception.__globals__[0] }}",
        "{% for number in range(1000000000) %}{% endfor %}",
        "{% include 'config.json' %}",
    ],
)
def test_a_template_of_a_stranger_cannot_leave_its_sandbox(said, escape, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="the backbone's chat template cannot be used"):
        said(escape, None)
    assert not list(tmp_path.glob("owned"))
