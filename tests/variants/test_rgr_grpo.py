"""RGR-GRPO: the rubric by hand, and the refinement that joins a group."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.compose import compose_checked
from mllmrec.errors import UserError
from mllmrec.rewards.base import with_rewards
from mllmrec.rl.batch import join
from mllmrec.rollout.base import Turn
from mllmrec.rollout.constrained import Constrained
from mllmrec.rollout.enumerated import Enumerated
from mllmrec.rollout.reasoned import Reasoned
from mllmrec.testing import check_reward, check_rollout, toy_batch, toy_items, toy_speaker
from mllmrec.testing.toys import toy_examples
from mllmrec.variants.rgr_grpo import Rubric, RubricRefine

WEIGHTS = {"format": 1.0, "listed": 1.0, "kin": 1.0, "hit": 2.0}
CRITERIA = {"kin": "alike", "hit": "the one"}
# Toy items are 1 Red Lamp, 2 Blue Lamp, 3 Old Clock; the examples' targets are 1 and 2, the first one's history 2 and 3.
EXAMPLES = toy_examples(2)


def rubric(weights=WEIGHTS):
    reward = Rubric(weights)
    reward.meet_items(toy_items())
    return reward


def test_the_share_of_weights_that_an_answer_meets():
    # Right; another lamp, which has half of the words of Red Lamp; not listed; no answer.
    batch = toy_batch(["[ITEM_1]", "[ITEM_2]", "[ITEM_3]", "a lamp"])
    given = rubric()(batch)
    assert_close(given.total, torch.tensor([1.0, 0.6, 0.2, 0.0]))
    assert given.parts["kin"].tolist() == [1.0, 1.0, 0.0, 0.0]


def test_reasoning_is_grounded_if_it_has_a_word_of_the_history():
    batch = toy_batch([f"<think>\n{said}\n</think>\n[ITEM_2]" for said in ("a clock", "a rug")])
    assert rubric({"grounded": 1.0})(batch).total.tolist() == [1.0, 0.0]


def test_in_a_list_the_target_is_found_at_any_place():
    batch = toy_batch(["1. [ITEM_2]\n2. [ITEM_1]"])
    batch = replace(batch, questions=[replace(batch.questions[0], places=2)])
    found = rubric({"found": 1.0})(batch)
    assert (found.total.tolist(), found.parts["hit"].tolist()) == ([1.0], [0.0])


class Refining:
    """Says what it is told to, first and as a refinement."""

    def __init__(self, rollout, first, refined):
        self.real, self.first, self.refined, self.prompts = toy_speaker(rollout), first, refined, []

    def complete(self, examples, turn, *, prompts=None, **given):
        batch = self.real.complete(examples, turn, prompts=prompts, **given)
        self.prompts += prompts or []
        return replace(batch, texts=self.first if prompts is None else self.refined)

    def score(self, batch):
        return self.real.score(batch)


def judge(batch):
    return with_rewards(batch, rubric()(batch))


def drawn(first, refined, **settings):
    rollout = RubricRefine(Constrained(), CRITERIA, **settings)
    speaker = Refining(rollout, first, refined)
    return rollout(EXAMPLES, speaker, judge, Turn(0, 2)).by_group(), speaker, rollout.metrics()


def test_a_better_refinement_replaces_the_worst_answer_and_is_foreign():
    # The first group's best is the other lamp; the second group has the target.
    batch, speaker, metrics = drawn(["[ITEM_3]", "[ITEM_2]", "[ITEM_2]", "[ITEM_3]"], ["[ITEM_1]"])
    assert speaker.prompts == [
        f"An earlier answer: [ITEM_2] Blue Lamp. It is not yet: the one\n{EXAMPLES[0].prompt}"
    ]
    assert metrics == {"rubric/missing": 0.5, "rubric/refined": 0.5}
    assert batch.texts == ["[ITEM_2]", "[ITEM_1]", "[ITEM_2]", "[ITEM_3]"]
    assert batch.rewards.tolist() == pytest.approx([0.6, 1.0, 1.0, 0.4])
    # Only the refinement is foreign, with all that is learnt of it, and its probability counts as 1.
    assert torch.equal(batch.foreign.any(1), torch.tensor([False, True, False, False]))
    assert torch.equal(batch.foreign[1], batch.learnt[1])
    assert not batch.old[1].any()
    assert_close(batch.old[0], speaker.real.score(batch)[0])
    # It is learnt under the example's own prompt.
    assert len(set(batch.prompt_of[:2].tolist())) == 1


def test_a_refinement_that_is_no_better_is_left_out_unless_it_is_asked_for():
    first, refined = ["[ITEM_3]", "[ITEM_2]", "[ITEM_2]", "[ITEM_2]"], ["[ITEM_2]"]
    batch, _, metrics = drawn(first, refined)
    assert (batch.texts, batch.foreign, metrics["rubric/refined"]) == (first, None, 0.0)
    batch, _, _ = drawn(first, refined, only_better=False)
    assert batch.texts == ["[ITEM_2]", *["[ITEM_2]"] * 3]
    assert batch.foreign[1].any()


def test_rows_that_are_all_a_policys_own_have_no_foreign_tokens_beside_others():
    batch, _, _ = drawn(["[ITEM_3]", "[ITEM_2]", "[ITEM_2]", "[ITEM_3]"], ["[ITEM_1]"])
    both = join([batch, replace(batch, foreign=None)])
    assert both.foreign.any(1).tolist() == [False, True, *[False] * 6]
    assert both.take(torch.tensor([1])).foreign.any()


@pytest.mark.parametrize("inner", [Constrained(), Reasoned("sampled", max_reasoning_tokens=4)])
def test_it_is_a_rollout_and_a_reward(inner):
    check_rollout(RubricRefine(inner, {"hit": "right"}, only_better=False))
    check_reward(Rubric(WEIGHTS))
    with pytest.raises(ValueError, match="nothing to refine"):
        RubricRefine(Enumerated(), CRITERIA)
    with pytest.raises(ValueError, match="no such criterion"):
        Rubric({"speed": 1.0})
    with pytest.raises(ValueError, match="above 0"):
        Rubric({"hit": 0.0})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["loss=grpo"], "RubricRefine puts tokens of somebody else into answers.*set loss=shaped"),
        (["reward=hit_format"], r"rollout\.criteria\.listed: reward.*has no such part; it has format, hit"),
    ],
)
def test_what_does_not_go_together_is_refused(changes, said):
    composed = compose_checked("train", ["variant=rgr_grpo", *changes], CONFIG_DIR)
    with pytest.raises(UserError, match=said):
        check_config(composed.config)


def test_the_variant_composes():
    composed = compose_checked("train", ["variant=rgr_grpo"], CONFIG_DIR)
    assert composed.faults == []
    check_config(composed.config)
