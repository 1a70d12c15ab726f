from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from mllmrec.engine.batches import pad
from mllmrec.engine.shared_prefix import SharedPrefix
from mllmrec.evaluation.ranking import candidate_scores
from mllmrec.models.completions import learnt_tokens
from mllmrec.phases.base import Learner, OptimizerSettings
from mllmrec.phases.sft import Sft
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.prompts.answers import parse_answer
from mllmrec.prompts.examples import CotUse

ENGINE = SharedPrefix()


@pytest.fixture
def make_sft(tiny, make_examples):
    """An SFT phase on the six training examples, whose prompts differ in length."""

    def make(
        micro_batch_size: int = 8,
        loss_on: str = "answer",
        learning_rate: float = 1e-2,
        updates: int = 1,
        **settings,
    ):
        tiny.policy.begin_phase("sft")
        learner = Learner(tiny.policy, ENGINE, micro_batch_size)
        return Sft(learner, tiny.answers, OptimizerSettings(learning_rate), updates, loss_on, **settings)

    return make


@pytest.fixture
def batch(tiny, make_examples):
    examples = make_examples(tiny.builder)
    return [examples[index] for index in range(len(examples))]


def loss_and_gradient(stage, batch):
    stage.model.zero_grad()
    loss = 0.0
    for share in stage.loss_shares(batch):
        share.backward()
        loss += share.item()
    return loss, torch.cat([weight.grad.flatten() for weight in stage.model.parameters()])


@pytest.mark.parametrize("loss_on", ["answer", "candidates", "all"])
def test_micro_batches_change_neither_loss_nor_gradient(make_sft, batch, loss_on):
    expected, gradient = loss_and_gradient(make_sft(len(batch), loss_on), batch)
    for size in (1, 4):
        loss, again = loss_and_gradient(make_sft(size, loss_on), batch)
        assert loss == pytest.approx(expected, rel=1e-5)
        assert (again - gradient).norm() < 1e-5 * gradient.norm()


def test_loss_is_the_mean_over_the_answers_tokens(make_sft, batch, tiny):
    loss, _ = loss_and_gradient(make_sft(), batch)
    total, tokens = 0.0, 0
    for example in batch:
        (prompt,) = tiny.policy.encode_prompts([example.prompt])
        answer = tiny.answers.of(example.target)
        with torch.no_grad():
            logprobs = torch.log_softmax(
                tiny.policy.model(input_ids=torch.tensor([prompt + answer])).logits[0], -1
            )
        total += sum(float(logprobs[len(prompt) - 1 + place, token]) for place, token in enumerate(answer))
        tokens += len(answer)
    assert answer[-1] == tiny.policy.end_token
    assert loss == pytest.approx(-total / tokens, rel=1e-5)


def test_loss_on_all_is_that_of_an_ordinary_language_model(make_sft, batch, tiny):
    loss, _ = loss_and_gradient(make_sft(loss_on="all"), batch)
    total, tokens = 0.0, 0
    for example in batch:
        ids = torch.tensor(
            [tiny.policy.encode_prompts([example.prompt])[0] + tiny.answers.of(example.target)]
        )
        with torch.no_grad():
            mean = tiny.policy.model(input_ids=ids, labels=ids).loss
        total += float(mean) * (ids.shape[1] - 1)
        tokens += ids.shape[1] - 1
    assert loss == pytest.approx(total / tokens, rel=1e-5)


def test_loss_on_candidates_is_that_of_a_constrained_choice(make_sft, batch, tiny):
    loss, _ = loss_and_gradient(make_sft(loss_on="candidates"), batch)
    with torch.no_grad():
        scores = candidate_scores(tiny.policy, tiny.answers, batch, constrained=True, engine=ENGINE)
    # Labels are one token, so every answer is one choice.
    targets = [scores[row, example.target_column] for row, example in enumerate(batch)]
    assert loss == pytest.approx(-sum(targets) / len(batch), rel=1e-5)


def test_training_learns_four_examples(make_sft, batch, fit):
    stage = make_sft(updates=40)
    before, _ = loss_and_gradient(stage, batch[:4])
    fit(stage, [batch[:4]] * 40)
    after, _ = loss_and_gradient(stage, batch[:4])
    assert before > 1
    assert after < 0.05


def test_adapters_train_and_the_base_does_not(make_pretrained, make_builder, make_examples, fit):
    policy, builder = make_pretrained(), make_builder("instruct", answer="id_title")
    examples = make_examples(builder)
    answers = AnswerTokens(builder, policy.encode_answers, policy.end_token)
    policy.begin_phase("sft")
    frozen = {name: w.clone() for name, w in policy.model.named_parameters() if not w.requires_grad}
    stage = Sft(Learner(policy, ENGINE, micro_batch_size=1), answers, OptimizerSettings(2e-2), 10)
    batch = [examples[0], examples[1]]
    before = sum(float(share) for share in stage.loss_shares(batch))
    fit(stage, [batch] * 10)
    after = sum(float(share) for share in stage.loss_shares(batch))
    assert after < before - 1
    now = dict(policy.model.named_parameters())
    assert all(torch.equal(now[name], weight) for name, weight in frozen.items())
    assert_close(policy.num_trainable(), sum(w.numel() for n, w in now.items() if "lora_" in n))


def test_reasoning_to_be_learnt_is_part_of_the_loss(make_sft, tiny, make_examples):
    examples = make_examples(tiny.builder, cot=CotUse(placement="completion"))
    plain, reasoned = examples.with_reasoning(2, None), examples.with_reasoning(2, "mostly red")
    stage = make_sft()
    (text, answer), begins = learnt_tokens(tiny.policy, tiny.answers, [reasoned, plain])
    parsed = parse_answer(tiny.policy.tokenizer.decode(text[:-1]))
    assert (parsed.reasoning, parsed.items) == ("mostly red", (("5", ""),))
    assert text[-1] == answer[-1] == tiny.policy.end_token
    assert answer == tiny.answers.of(5)
    assert (text[begins[0] :], begins[1]) == (answer, 0)
    # The mean over the tokens of both answers comes from the two single sums.
    alone = [float(sum(stage.loss_shares([example])).detach()) for example in (reasoned, plain)]
    together = float(sum(stage.loss_shares([reasoned, plain])).detach())
    tokens = len(text) + len(answer)
    assert together == pytest.approx((alone[0] * len(text) + alone[1] * len(answer)) / tokens, rel=1e-5)


@pytest.mark.parametrize("said", ["\n", "", "mostly red", "mostly red\n\n"])
def test_reasoning_that_a_policy_closed_in_its_own_way_stands_before_the_answer(
    make_sft, tiny, make_examples, said
):
    examples = make_examples(tiny.builder, cot=CotUse(placement="completion"))
    plain = examples.with_reasoning(2, None)
    (answer,), _ = learnt_tokens(tiny.policy, tiny.answers, [plain])
    named = tiny.policy.tokenizer.decode(answer[:-1])
    drawn = replace(plain, reasoned_answer=f"<think>\n{said}</think>\n{named}")
    (text,), (begin,) = learnt_tokens(tiny.policy, tiny.answers, [drawn])
    assert tiny.policy.tokenizer.decode(text[:-1]) == drawn.reasoned_answer
    assert text[begin:] == answer
    # Only the candidates' answers compete behind it.
    loss = float(sum(make_sft(loss_on="candidates").loss_shares([drawn])).detach())
    assert 0 < loss < 100


def test_reasoning_and_answer_are_weighted_apart_and_only_candidates_compete_for_the_answer(
    make_sft, tiny, make_examples
):
    examples = make_examples(tiny.builder, cot=CotUse(placement="completion"))
    reasoned, plain = examples.with_reasoning(2, "mostly red"), examples.with_reasoning(2, None)
    (text, _), (begin, _) = learnt_tokens(tiny.policy, tiny.answers, [reasoned, plain])

    def loss(example, **settings):
        return float(sum(make_sft(**settings).loss_shares([example])).detach())

    # Without and with a double weight, the sums over reasoning and answer follow from two equations.
    once, twice = loss(reasoned), loss(reasoned, reasoning_weight=2.0)
    named = len(text) - begin
    said = twice * (2 * begin + named) - once * len(text)
    prompt = tiny.policy.prompt_batch([reasoned.prompt])
    rest = pad([text], 0, side="right")
    with torch.no_grad():
        encoded = ENGINE.encode(tiny.policy.model, prompt)
        scores = ENGINE.score(tiny.policy.model, encoded, rest, torch.tensor([0])).logprobs[0]
    assert said == pytest.approx(-float(scores[:begin].sum()), rel=1e-4)
    # Among the candidates one token decides.
    among = loss(reasoned, loss_on="candidates") * (begin + 1) - said
    options = [tiny.answers.of(item)[0] for item in reasoned.candidates.tolist()]
    with torch.no_grad():
        ids = torch.cat([prompt.ids[0], torch.tensor(text[:begin])])
        logits = tiny.policy.model(ids[None]).logits[0, -1]
    wanted = -logits[options].log_softmax(0)[reasoned.target_column]
    assert among == pytest.approx(float(wanted), abs=1e-3)
