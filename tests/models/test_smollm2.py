"""A real pretrained model, SmolLM2-135M-Instruct; skipped where ../shared/models/get_models.py has not fetched it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.compose import compose_checked
from mllmrec.engine.shared_prefix import SharedPrefix
from mllmrec.evaluation.ranking import Generate, candidate_scores
from mllmrec.models.backbones import Pretrained
from mllmrec.phases.base import Learner
from mllmrec.phases.sft import supervised_shares
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.step.names import Names


@pytest.fixture(scope="module")
def policy(smollm2):
    return Pretrained(path=str(smollm2), dtype="float32").build((), (), 0)


def test_the_backbone_is_one_word(smollm2):
    result = compose_checked("train", ["backbone=smollm2_135m", f"backbone.path={smollm2}"], CONFIG_DIR)
    assert result.faults == []
    check_config(result.config)
    assert result.config.backbone.lora.rank == 16


def test_its_end_is_its_padding_and_its_template_has_a_system_prompt(policy):
    assert policy.end_token == policy.padding_token
    assert policy.tokenizer.convert_ids_to_tokens(policy.end_token) == "<|im_end|>"
    own = (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    )
    turn = "<|im_start|>user\nWhich?<|im_end|>\n<|im_start|>assistant\n"
    assert policy.render("Which?") == own + turn
    policy.system = ""
    try:
        assert policy.render("Which?") == turn
    finally:
        policy.system = None


def test_training_counts_the_end_once_and_no_padding(policy):
    policy.model.eval()
    prompts = policy.encode_prompts(["Say hello.", "Name a colour of the rainbow."])
    answers = [[*row, policy.end_token] for row in policy.encode_answers(["Hello", "Red, green or blue"])]
    each = []
    with torch.no_grad():
        for prompt, answer in zip(prompts, answers, strict=True):
            logits = policy.model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
            each.append(torch.log_softmax(logits, -1).gather(1, torch.tensor(answer)[:, None])[:, 0])
        (share,) = supervised_shares(Learner(policy, SharedPrefix(), micro_batch_size=2), prompts, answers)
    assert_close(float(share), float(-torch.cat(each).mean()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("label", "answer"), [("id", "id_title"), ("letter", "id"), ("none", "id_title")])
def test_it_ranks_and_answers_under_every_label(policy, make_builder, make_examples, label, answer):
    builder = make_builder("instruct", label=label, answer=answer)
    answers = AnswerTokens(builder, policy.encode_answers, policy.end_token)
    examples = make_examples(builder)
    batch, engine = [examples[0], examples[1]], SharedPrefix()
    policy.model.eval()
    with torch.no_grad():
        exact = np.exp(candidate_scores(policy, answers, batch, constrained=True, engine=engine))
        (ranked, _) = Generate(policy, answers, engine, Names.of(builder), 12).rank(batch)
    np.testing.assert_allclose(exact.sum(1), 1, atol=1e-4)
    # If it ends its answer by itself, the end is not part of the text.
    assert "<|im_end|>" not in ranked.text
