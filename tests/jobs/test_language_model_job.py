from __future__ import annotations

from dataclasses import replace

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from mllmrec.config import CONFIG_DIR
from mllmrec.config.phases import phases_of
from mllmrec.errors import UserError
from mllmrec.evaluation.protocol import Protocol
from mllmrec.evaluation.protocols import Protocols, beside_protocol, main_protocol
from mllmrec.jobs.language_model import check_prompts, training_prompts
from mllmrec.jobs.main import held_out_protocol
from mllmrec.jobs.new_run import NewRun
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.run.folder import RunFolder
from mllmrec.run.job_folder import JobFolder
from mllmrec.samples.prepare import prepare


@pytest.fixture
def opened(tmp_path):
    """A small run before its first phase, with additional overrides: the arguments of `check_prompts`."""

    def make(*overrides):
        small = ["dataset.num_users=30", "dataset.num_items=40", "backbone.vocabulary=400", "caption=none"]
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            cfg = compose("train", overrides=[f"cache_dir={tmp_path}", *small, "mix_ratio=0", *overrides])
        prepared = prepare(cfg)
        labels = [prepared.builder.label(item) for item in range(len(prepared.items))]
        policy = instantiate(cfg.backbone).build(prepared.corpus(), labels, 0)
        answers = AnswerTokens(prepared.builder, policy.encode_answers, policy.end_token)
        judged = (cfg.eval, cfg.candidates.weighting, 0, prepared)
        folder = RunFolder(str(tmp_path / "run"))
        protocols = Protocols(main_protocol(*judged), beside_protocol(*judged), folder)
        held_out = held_out_protocol(cfg, prepared)
        run = NewRun(cfg, prepared, protocols, held_out, JobFolder(folder, cfg), instantiate(cfg.logger))
        return run, phases_of(cfg), policy, answers

    return make


def longest(policy, examples):
    return max(len(policy.encode_prompts([examples[index].prompt])[0]) for index in range(len(examples)))


def everything(protocols):
    return [place.protocol.examples for place in protocols]


def longest_prompt(policy, protocols):
    return max(longest(policy, examples) for examples in everything(protocols))


def test_held_out_prompts_are_checked(opened):
    # Validation lists twice as many candidates, so that only its prompts are too long.
    run, phases, policy, answers = opened("method=zero_shot", "eval.num_negatives=9", "eval.listing=all")
    changed = {"num_negatives": 19, "split": "validation", "max_users": 5, "weighting": "uniform"}
    held_out = Protocol(OmegaConf.merge(run.cfg.eval, changed), 0, run.prepared)
    policy.max_length = longest_prompt(policy, run.protocols) + answers.longest
    assert longest(policy, held_out.examples) > policy.max_length
    check_prompts(replace(run, held_out=None), phases, policy, answers)
    with pytest.raises(UserError, match="of 30 held-out prompts are longer"):
        check_prompts(replace(run, held_out=held_out), phases, policy, answers)


def test_an_answer_that_is_generated_needs_room(opened):
    parts = opened("method=zero_shot", "eval.ranking=generate", "eval.max_new_tokens=50", "heldout.users=0")
    run, _, policy, _ = parts
    policy.max_length = longest_prompt(policy, run.protocols) + 50
    check_prompts(*parts)
    policy.max_length -= 1
    with pytest.raises(UserError, match="evaluation prompts are longer"):
        check_prompts(*parts)


def test_an_answer_that_a_rollout_inside_another_one_draws_needs_room(opened):
    inner = ("rollout=meta", "rollout.inner.max_new_tokens=50")
    parts = opened("method=grpo_only", "grpo.new_negatives=false", "heldout.users=0", *inner)
    run, _, policy, _ = parts
    train = longest(policy, run.prepared.train)
    policy.max_length = max(train, longest_prompt(policy, run.protocols)) + 50
    check_prompts(*parts)
    policy.max_length = train + 49
    with pytest.raises(UserError, match="training prompts are longer"):
        check_prompts(*parts)


def test_yes_or_no_questions_are_checked_and_lists_that_nobody_sees_are_not(opened):
    parts = opened("method=pointwise")
    run, _, policy, _ = parts
    questions = run.prepared.questions
    asked = [
        questions.prompt(example.history.tolist(), item)
        for examples in (run.prepared.train, *everything(run.protocols), run.held_out.examples)
        for example in (examples[index] for index in range(len(examples)))
        for item in example.candidates.tolist()
    ]
    answer = max(map(len, policy.encode_answers(["Yes", "No"]))) + 1
    policy.max_length = max(map(len, policy.encode_prompts(asked))) + answer
    train = run.prepared.train
    listing = policy.encode_prompts([train[index].prompt for index in range(len(train))])
    assert max(map(len, listing)) > policy.max_length  # training's own prompts list ten candidates
    check_prompts(*parts)
    policy.max_length -= 1
    with pytest.raises(UserError, match="have questions that are longer"):
        check_prompts(*parts)


def test_training_prompts_leave_room_for_reasoning(opened):
    parts = opened("task=reasoned", "cot_policy=template")
    run, phases, policy, answers = parts
    sets = training_prompts(run.cfg, phases, run.prepared).values()
    texts = [examples[index].prompt for examples in sets for index in range(len(examples))]
    # Rankings reason as long as rollouts do, so only the training prompts are checked alone.
    run = replace(run, protocols=(), held_out=None)
    written = policy.reasoning_tokens().around + run.cfg.rollout.max_reasoning_tokens + answers.longest
    policy.max_length = max(map(len, policy.encode_prompts(texts))) + written
    check_prompts(run, *parts[1:])
    policy.max_length -= 1
    with pytest.raises(UserError, match="prompts are longer than the backbone holds"):
        check_prompts(run, *parts[1:])
