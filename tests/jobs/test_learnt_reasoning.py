"""Learnt reasoning before the answer: evaluation asks for it as training does, and limits leave room for it."""

from __future__ import annotations

import logging
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.phases import phases_of
from mllmrec.errors import UserError
from mllmrec.evaluation.protocols import Protocols, beside_protocol, main_protocol
from mllmrec.jobs.learnt_reasoning import check_learnt_reasoning
from mllmrec.jobs.main import held_out_protocol
from mllmrec.run.folder import RunFolder
from mllmrec.samples.prepare import prepare

LEARNT = ("cot.placement=completion", "mix_ratio=1", "rollout=free", "eval.ranking=generate")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def composed(cache, *overrides):
    small = ["dataset.num_users=30", "dataset.num_items=40", "caption=none", "split.windows=last"]
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        cfg = compose(
            "train", overrides=[f"cache_dir={cache}", "prompt.template=instruct", *small, *overrides]
        )
    check_config(cfg)
    return cfg


def evaluated(cfg, prepared, folder):
    """The prompts of every protocol, and of the held-out users."""
    judged = (cfg.eval, cfg.candidates.weighting, 0, prepared)
    protocols = Protocols(main_protocol(*judged), beside_protocol(*judged), RunFolder(str(folder)))
    found = [*(place.protocol for place in protocols), held_out_protocol(cfg, prepared)]
    assert len(found) == 3
    return [
        [protocol.examples[position].prompt for position in protocol.positions] for protocol in found
    ], protocols.main


def test_test_and_held_out_prompts_ask_in_the_words_of_training(cache, tmp_path):
    cfg = composed(cache, *LEARNT)
    prepared = prepare(cfg)
    instruction = prepared.builder.template.think
    assert all(instruction in prepared.train[index].prompt for index in range(len(prepared.train)))
    prompts, main = evaluated(cfg, prepared, tmp_path)
    assert all(instruction in prompt and "<think>\n" not in prompt for part in prompts for prompt in part)
    assert main.describe()["cot"] == "asked"
    # A finished run is opened without reasoning in its training samples, but its prompts still ask for it.
    opened = prepare(cfg, training=False)
    assert evaluated(cfg, opened, tmp_path)[0] == prompts
    assert not any(opened.train[index].has_reasoning for index in range(len(opened.train)))


@pytest.mark.parametrize(("overrides", "expected"), [(LEARNT, True), (("mix_ratio=1",), False)])
def test_the_tokenizer_of_a_new_policy_learns_from_reasoning_that_is_said(cache, overrides, expected):
    texts = list(prepare(composed(cache, *overrides)).corpus())
    assert any(text.startswith("<think>\n") and "[ITEM_" in text for text in texts) == expected


@pytest.mark.parametrize(("places", "ranking"), [(1, "likelihood"), (3, "generate")])
def test_held_out_users_are_ranked_by_likelihood_unless_answers_are_lists(cache, places, ranking):
    lists = ["task=ranked_list", f"prompt.places={places}"] if places > 1 else ["rollout=free"]
    cfg = composed(cache, *lists, "eval.ranking=generate", "eval.ks=[1,3]")
    held_out = held_out_protocol(cfg, prepare(cfg))
    assert held_out.settings.ranking == ranking


@pytest.mark.parametrize(
    "overrides",
    [
        ["mix_ratio=1"],  # shown as a hint
        ["cot.placement=completion", "mix_ratio=0"],
        ["cot.placement=completion", "method=sft", "mix_ratio=1", "eval.cot=false"],
    ],
    ids=str,
)
def test_evaluation_asks_for_no_reasoning_where_training_does_not(cache, tmp_path, overrides):
    cfg = composed(cache, *overrides)
    prepared = prepare(cfg)
    prompts, main = evaluated(cfg, prepared, tmp_path)
    assert not any(prepared.builder.template.think in prompt for part in prompts for prompt in part)
    assert main.describe()["cot"] is False


class Words:
    """A tokenizer that makes every word a token."""

    def encode_answers(self, answers):
        return [answer.split() for answer in answers]

    def reasoning_tokens(self):
        return SimpleNamespace(closing=["</think>"])


@pytest.fixture
def learnt(cache):
    """``learnt(words, *overrides)``: a run whose training completions hold so many words of reasoning each.

    With both tags, the label and the end token they have four tokens more.
    """

    def make(words, *overrides, asking=None):
        cfg = composed(cache, *LEARNT, *overrides)
        prepared = prepare(cfg)
        size = len(prepared.train) if asking is None else asking
        chosen = np.arange(len(prepared.train)) < size
        texts = {
            prepared.train.samples.sample_id(index): "word " * words[index % len(words)]
            for index in range(size)
        }
        source = SimpleNamespace(
            reasoning=lambda key: texts[key.sample_id], closest=lambda key, candidates: []
        )
        prepared.train.cot = replace(prepared.train.cot, source=source, chosen=chosen)
        check_learnt_reasoning(cfg, phases_of(cfg), prepared, Words())

    return make


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_a_limit_that_cuts_off_what_is_learnt_is_refused_with_the_one_to_set(learnt):
    # Of 30 completions 10 each have 24, 44 and 84 tokens: two thirds fit into 44.
    words = [20, 40, 80]
    with pytest.raises(UserError) as refused:
        learnt(words, "rollout.max_new_tokens=44", "eval.max_new_tokens=20")
    assert str(refused.value) == (
        "rollout.max_new_tokens=44 cuts off 10 of 30 training completions with reasoning: the longest has 84 tokens, and "
        "44 lies at percentile 66 of their lengths; set rollout.max_new_tokens=84; "
        "eval.max_new_tokens=20 cuts off 30 of 30 training completions with reasoning: the longest has 84 tokens, and "
        "20 lies at percentile 0 of their lengths; set eval.max_new_tokens=84, or use shorter reasoning"
    )
    with pytest.raises(UserError, match=r"^rollout\.max_new_tokens=83 cuts off 10 of 30"):
        learnt(words, "rollout.max_new_tokens=83", "eval.max_new_tokens=84")
    learnt(words, "rollout.max_new_tokens=84", "eval.max_new_tokens=84")


def test_budgets_of_reasoning_are_compared_with_the_reasoning_that_is_learnt(learnt, caplog):
    # With the closing tag, ten pieces each have 21, 41 and 81 tokens.
    reasoned = ("rollout=reasoned", "eval.ranking=reasoned")
    with pytest.raises(UserError) as refused:
        learnt([20, 40, 80], *reasoned, "rollout.max_reasoning_tokens=41", "eval.max_reasoning_tokens=80")
    assert str(refused.value) == (
        "rollout.max_reasoning_tokens=41 cuts off 10 of 30 pieces of reasoning in training, closing tag included: the "
        "longest has 81 tokens, and 41 lies at percentile 66 of their lengths; set rollout.max_reasoning_tokens=81; "
        "eval.max_reasoning_tokens=80 cuts off 10 of 30 pieces of reasoning in training, closing tag included: the longest "
        "has 81 tokens, and 80 lies at percentile 66 of their lengths; set eval.max_reasoning_tokens=81, or use shorter "
        "reasoning"
    )
    learnt([20, 40, 80], *reasoned, "rollout.max_reasoning_tokens=81", "eval.max_reasoning_tokens=81")
    assert warnings_of(caplog) == []


REASONED = ("eval.ranking=reasoned", "eval.max_reasoning_tokens=81")


def test_limits_that_nothing_reads_are_not_looked_at(learnt):
    # SFT makes no rollouts, and likelihood ranking generates nothing.
    learnt([80], "method=sft", "rollout.max_new_tokens=1", "eval.max_new_tokens=84")
    learnt([80], "rollout.max_new_tokens=84", "eval.max_new_tokens=1", *REASONED)
    learnt([80], "method=grpo_only", "rollout.max_new_tokens=1", "eval.max_new_tokens=1")  # learns no text


def test_a_limit_that_cuts_off_one_in_twenty_warns(learnt, caplog):
    limits = ("rollout.max_new_tokens=24", "eval.max_new_tokens=84")
    learnt([20] * 29 + [80], *limits)
    (warning,) = warnings_of(caplog)
    assert warning.startswith("rollout.max_new_tokens=24 cuts off 1 of 30 training completions")
    assert warning.endswith("24 lies at percentile 96 of their lengths; set rollout.max_new_tokens=84")
    with pytest.raises(UserError, match="cuts off 2 of 30"):
        learnt([20] * 28 + [80] * 2, *limits)


def test_reasoning_that_is_seldom_learnt_warns(learnt, caplog):
    learnt([10], asking=15)
    assert warnings_of(caplog) == []
    learnt([10], asking=14)
    assert warnings_of(caplog) == [
        "cot.placement=completion: only 14 of 30 training prompts ask for reasoning, but all evaluation prompts do, so "
        "training seldom covers what is measured; raise mix_ratio"
    ]
