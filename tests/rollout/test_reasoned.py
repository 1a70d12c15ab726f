"""Reasoning that is drawn, and answers after it that are drawn or all taken; compared with plain computations."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.testing import assert_close

from mllmrec.engine.batches import pad
from mllmrec.engine.plain import Plain
from mllmrec.engine.shared_prefix import SharedPrefix
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.prompts.reasoning_tokens import ReasoningTokens
from mllmrec.rl.advantages import GroupRelative
from mllmrec.rollout.base import Spelling
from mllmrec.rollout.reasoned import Reasoned

END = 2
PROMPTS = pad([[11, 12, 13, 14, 15], [21, 22]], 0, side="left")
SINGLE = [[[5, END], [6, END], [7, END], [8, END]], [[40, END], [41, END], [42, END], [43, END]]]
SEVERAL = [
    [[5, 6, END], [5, 7, 9, END], [8, 6, END], [8, 10, END]],
    [[40, 41, 42, END], [40, 41, 43, 4, END], [40, 41, 43, 3, END], [44, END]],
]
OPENING, CLOSING, AFTER = [30, 31], [32, 33], [34]
CLOSERS = range(33, 42)  # 33 as in the closing tag, the others as a policy that spells it in its own way
G = 3


def text_of(token):
    return {33: "</think>", 34: "</think>\n", END: "<end>"}.get(
        token, "</think>" if token in CLOSERS else f"w{token} "
    )


WORDS = ReasoningTokens(
    OPENING,
    CLOSING,
    AFTER,
    frozenset(CLOSERS),
    lambda rows: ["".join(text_of(token) for token in row) for row in rows],
)


@pytest.fixture
def policy(make_pretrained, shake):
    policy = make_pretrained()
    with torch.no_grad():
        policy.model.lm_head.weight.mul_(0.3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        policy.begin_phase("grpo")
    shake(policy, "grpo")
    return policy


def drawn(model, answers=SINGLE, engine=None, group=G, seed=0, **settings):
    rollout = Reasoned(**{"max_reasoning_tokens": 6, **settings})
    engine = engine or SharedPrefix()
    generators = [torch.Generator().manual_seed(100 * seed + row) for row in range(len(answers))]
    with torch.no_grad():
        encoded = engine.encode(model, PROMPTS)
        return rollout.draw(engine, model, encoded, group, generators, Spelling(END, answers, WORDS))


def parts(completions):
    """Of each row: the reasoning between the tags with what closes it, and the answer."""
    found = []
    for row, (ids, mask) in enumerate(zip(*completions.tokens, strict=True)):
        tokens, answer = ids[mask].tolist(), (completions.segments[row] == 0)[mask].tolist()
        begin = answer.index(True)
        assert tokens[:2] == OPENING
        assert all(answer[begin:])
        found.append((tokens[2:begin], tokens[begin:]))
    return found


@pytest.mark.parametrize("answers", [SINGLE, SEVERAL])
def test_a_budget_is_kept_and_what_is_forced_is_not_learnt(policy, answers):
    cut_off = closed = 0
    for seed in range(4):
        completions = drawn(policy.model, answers, seed=seed, answer="sampled")
        assert len(completions.prompt_of) == 2 * G
        for row, (reasoning, answer) in enumerate(parts(completions)):
            assert answer in answers[row // G]
            learnt = completions.decisions[row].nonzero()[:, 0].tolist()
            said = [place for place in learnt if completions.segments[row, place] < 0]
            assert said == list(range(2, 2 + len(said)))
            own = reasoning[: len(said)]
            if completions.finished[row]:
                closed += 1
                assert own[-1] in CLOSERS
                # A newline of its own closes the tag's line; otherwise one is forced.
                assert reasoning == (own if own[-1] == 34 else own + AFTER)
            else:
                cut_off += 1
                assert reasoning == own + CLOSING + AFTER
                assert len(own) <= 6
    assert cut_off
    assert closed


@pytest.mark.parametrize("engine", [SharedPrefix(), Plain()])
@pytest.mark.parametrize("answers", [SINGLE, SEVERAL])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_every_answer_after_each_piece_of_reasoning_has_its_probability(policy, engine, answers, temperature):
    completions = drawn(policy.model, answers, engine, temperature=temperature)
    assert completions.prompt_of.tolist() == [0] * 4 * G + [1] * 4 * G
    weights = completions.weights.view(2, G, 4)
    assert_close(weights.sum(2), torch.ones(2, G))
    rows = parts(completions)
    for place in range(2 * G):
        four = rows[4 * place : 4 * place + 4]
        assert len({tuple(reasoning) for reasoning, _ in four}) == 1
        assert [answer for _, answer in four] == answers[place // G]
    # The same from the model itself: softmax over the whole vocabulary, then over what an answer may say.
    for row in (0, 6, 4 * G + 1, 8 * G - 1):
        prompt = PROMPTS.ids[row // (4 * G)][PROMPTS.mask[row // (4 * G)]]
        ids = torch.cat([prompt, completions.tokens.ids[row][completions.tokens.mask[row]]])
        with torch.no_grad():
            logits = policy.model(ids[None]).logits[0, len(prompt) - 1 : -1] / temperature
        options = answers[row // (4 * G)]
        begin = int((completions.segments[row] == 0).nonzero()[0])
        for place, token in enumerate(ids[len(prompt) :].tolist()):
            found = float(completions.scores.logprobs[row, place])
            if not completions.decisions[row, place]:
                assert found == 0
                continue
            scored = logits[place]
            if place >= begin:
                said = ids[len(prompt) + begin : len(prompt) + place].tolist()
                allowed = {option[len(said)] for option in options if option[: len(said)] == said}
                scored = scored.new_full(scored.shape, -1e30).index_copy(
                    0, torch.tensor(sorted(allowed)), scored[sorted(allowed)]
                )
            assert found == pytest.approx(float(scored.log_softmax(-1)[token]), abs=1e-4)


def test_an_answer_is_drawn_with_its_probability(policy):
    # No reasoning at all: the budget's only token is drawn, and all groups of one token are compared.
    group = 3000
    completions = drawn(policy.model, SEVERAL[:1] * 2, group=group, max_reasoning_tokens=1, answer="sampled")
    exact = drawn(policy.model, SEVERAL[:1] * 2, group=group, max_reasoning_tokens=1)
    expected = exact.weights.view(2, group, 4).mean(1)
    said = [answer for _, answer in parts(completions)]
    for prompt in range(2):
        for column, answer in enumerate(SEVERAL[0]):
            share = said[prompt * group : (prompt + 1) * group].count(answer) / group
            deviation = (expected[prompt, column] * (1 - expected[prompt, column]) / group).sqrt()
            assert abs(share - expected[prompt, column]) < 3.5 * deviation


def test_the_draws_of_a_prompt_do_not_depend_on_the_others_or_on_how_answers_come_about(policy):
    both, sampled = drawn(policy.model), drawn(policy.model, answer="sampled")
    assert [reasoning for reasoning, _ in parts(both)[::4]] == [reasoning for reasoning, _ in parts(sampled)]
    assert parts(drawn(policy.model, engine=Plain(), answer="sampled")) == parts(sampled)


def test_greedy_reasoning_is_the_same_each_time(policy):
    rows = parts(drawn(policy.model, temperature=0.0, answer="sampled"))
    assert rows[0] == rows[1] == rows[2]
    exact = drawn(policy.model, temperature=0.0)
    assert rows[0][1] == SINGLE[0][int(exact.weights[:4].argmax())]


def test_reasoning_that_was_cut_off_may_be_left_out(policy):
    kept = drawn(policy.model, max_reasoning_tokens=2)
    left = drawn(policy.model, max_reasoning_tokens=2, learn_cut_off=False)
    assert not kept.finished.all()
    reasoning = kept.segments < 0
    for row, finished in enumerate(kept.finished.tolist()):
        assert kept.decisions[row, reasoning[row]].any()
        assert left.decisions[row, reasoning[row]].any() == finished
        assert left.decisions[row, ~reasoning[row]].equal(kept.decisions[row, ~reasoning[row]])


def test_prompts_run_once_and_each_piece_of_reasoning_once(policy):
    tokens = []
    handle = policy.model.get_input_embeddings().register_forward_hook(
        lambda module, given, out: tokens.append(given[0].numel())
    )
    completions = drawn(policy.model, group=16)
    handle.remove()
    # The last call scores all rows: of each piece of reasoning the prompt's last token and all before the answer.
    lengths = (completions.segments < 0) & completions.tokens.mask
    once = {(*reasoning, row // 64) for row, (reasoning, _) in enumerate(parts(completions))}
    needed = sum(len(OPENING) + len(key) for key in once)
    assert needed <= tokens[-1] < needed + 128  # filled up to a multiple
    assert tokens[-1] < int(lengths.sum()) / 3


@pytest.fixture
def make_exact(policy, make_builder, make_step):
    builder = make_builder(answer="id")
    answers = AnswerTokens(builder, policy.encode_answers, policy.end_token)

    def make(**settings):
        own = {"group_size": G, "micro_batch_size": 1 << 20, "rollout": Reasoned()}
        return make_step(policy, answers, builder, begin=False, **{**own, **settings})

    return make


REWARDS = torch.tensor([[1.0, 0.0, 0.0, -1.0], [0.0, 0.3, 1.0, 0.0]])


def judged(make_batch, step, completions, answers, groups_of=None):
    """One group for each prompt; the reward is that of the answer."""
    columns = [
        answers[prompt].index(answer)
        for prompt, (_, answer) in zip(completions.prompt_of.tolist(), parts(completions), strict=True)
    ]
    rewards = REWARDS[completions.prompt_of, torch.tensor(columns)]
    batch = make_batch(
        rewards,
        completions.weights,
        completions.prompt_of.tolist(),
        prompts=PROMPTS,
        completions=completions.tokens,
        learnt=completions.decisions,
        choices=completions.choices,
        finished=completions.finished,
        segments=completions.segments,
    )
    return dataclasses.replace(batch, advantages=step.advantage(batch))


def test_advantages_in_the_head(make_batch):
    # Two pieces of reasoning, two answers, the first is right: 0.8 after the one, 0.4 after the other.
    weights = torch.tensor([0.8, 0.2, 0.4, 0.6])
    batch = make_batch(torch.tensor([1.0, 0.0, 1.0, 0.0]), weights, [0] * 4)
    advantages = GroupRelative(epsilon=0.0)(batch)
    assert_close(advantages[0], torch.tensor(0.4 / 0.24**0.5))
    of_reasoning = (weights * advantages).view(2, 2).sum(1)
    assert_close(of_reasoning, torch.tensor([0.4082, -0.4082]), atol=1e-4, rtol=0)


def gradient(step, batch):
    step.speaker.policy.model.zero_grad()
    for share in step.loss_shares(batch, {}):
        share.backward()
    weights = [weight for weight in step.speaker.policy.model.parameters() if weight.requires_grad]
    return torch.cat([weight.grad.flatten() for weight in weights])


@pytest.mark.parametrize("answers", [SINGLE, SEVERAL])
def test_the_gradient_is_that_of_the_formula(policy, make_batch, make_exact, answers):
    step = make_exact(aggregation="constant", advantage=GroupRelative(epsilon=0.0))
    completions = drawn(policy.model, answers)
    batch = judged(make_batch, step, completions, answers)
    found = gradient(step, batch)
    # Sum over reasoning of A_z grad log p(z), and over answers of p(a) (r(a) - R_z) / deviation grad log p(a).
    rows = torch.arange(len(batch))
    scores = step.speaker.scores(policy.model, batch, rows).logprobs
    in_answer = completions.segments == 0
    weights, rewards = completions.weights.view(2, G, 4), batch.rewards.view(2, G, 4)
    expected = (weights * rewards).sum(2)
    mean = expected.mean(1, keepdim=True)
    deviation = (weights * (rewards - mean[..., None]) ** 2).sum((1, 2)).div(G).sqrt()[:, None]
    reasoning = torch.where(in_answer, 0.0, scores).sum(1).view(2, G, 4)[:, :, 0]
    named = torch.where(in_answer, scores, 0.0).sum(1).view(2, G, 4)
    objective = ((expected - mean) / deviation * reasoning).sum() + (
        weights * (rewards - expected[..., None]) / deviation[..., None] * named
    ).sum()
    policy.model.zero_grad()
    trained = [weight for weight in policy.model.parameters() if weight.requires_grad]
    wanted = torch.cat([part.flatten() for part in torch.autograd.grad(objective, trained)])
    scale = 2 * G * step.speaker.longest
    assert float((-found * scale - wanted).norm() / wanted.norm()) < 1e-4


def test_the_gradient_of_many_drawn_answers_approaches_it(policy, make_batch, make_exact):
    step = make_exact(aggregation="constant", advantage=GroupRelative())
    exact = drawn(policy.model, SEVERAL)
    wanted = gradient(step, judged(make_batch, step, exact, SEVERAL))
    weights = exact.weights.view(2 * G, 4)
    errors = []
    for count in (16, 256, 4096):
        found = []
        for seed in range(5):
            torch.manual_seed(seed)
            # How often each answer would have been drawn after each piece of reasoning, out of `count`.
            columns = torch.multinomial(weights, count, replacement=True)
            often = torch.stack([(columns == column).sum(1) for column in range(4)], 1) / count
            batch = judged(make_batch, step, dataclasses.replace(exact, weights=often.flatten()), SEVERAL)
            found.append(float((gradient(step, batch) - wanted).norm() / wanted.norm()))
        errors.append(sum(found) / 5)
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[2] < 0.05
