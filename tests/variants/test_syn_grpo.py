"""Syn-GRPO: changed histories, which of their prompts are learnt, and what a kind of change earns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.compose import compose_checked
from mllmrec.rewards.base import with_rewards
from mllmrec.rewards.hit_format import HitFormat
from mllmrec.rollout.base import Turn
from mllmrec.rollout.constrained import Constrained
from mllmrec.rollout.enumerated import Enumerated
from mllmrec.testing import check_rollout, toy_speaker
from mllmrec.testing.toys import toy_examples
from mllmrec.variants.syn_grpo import HistoryAugment, changed

# The targets are 1 Red Lamp, 2 Blue Lamp; the first one's history is Blue Lamp, Old Clock.
EXAMPLES = toy_examples(2)
SPREAD = ["[ITEM_1]", "[ITEM_3]", "[ITEM_3]", "[ITEM_3]"]


def test_kinds_of_changes():
    seen = {
        kind: {tuple(changed([1, 2, 3], kind, np.random.default_rng(seed))) for seed in range(30)}
        for kind in ("drop", "swap", "recent", "shuffle")
    }
    assert seen["drop"] == {(2, 3), (1, 3), (1, 2)}
    assert seen["swap"] == {(2, 1, 3), (1, 3, 2)}
    assert seen["recent"] == {(2, 3)}
    assert len(seen["shuffle"]) == 6
    assert changed([1], "drop", np.random.default_rng(0)) == [1]


class Scripted:
    """Answers own prompts right, and changed ones with these texts."""

    def __init__(self, rollout, changed_texts):
        self.real, self.changed_texts, self.prompts = toy_speaker(rollout), changed_texts, []
        self.histories = self.real.histories

    def complete(self, examples, turn, *, prompts=None, **given):
        batch = self.real.complete(examples, turn, prompts=prompts, **given)
        self.prompts += prompts or []
        right = [f"[ITEM_{place + 1}]" for place in batch.example_of.tolist()]
        return replace(batch, texts=right if prompts is None else self.changed_texts)


def judge(batch):
    return with_rewards(batch, HitFormat()(batch))


def drawn(texts, **settings):
    rollout = HistoryAugment(Constrained(), share=1.0, changes=["swap"], **settings)
    speaker = Scripted(rollout, texts)
    return rollout(EXAMPLES, speaker, judge, Turn(0, 4)), speaker, rollout


def test_only_changed_prompts_whose_answers_differ_are_learnt_as_groups_of_their_own():
    batch, speaker, rollout = drawn(["[ITEM_3]"] * 4 + ["[ITEM_2]", *["[ITEM_3]"] * 3])
    assert speaker.prompts == ["likes Old Clock Blue Lamp", "likes Red Lamp Old Clock"]
    assert batch.groups.sizes.tolist() == [4, 4, 4]
    assert batch.by("synthesised").tolist() == [False] * 8 + [True] * 4
    assert batch.example_of[8:].tolist() == [1] * 4
    # It is learnt under the prompt that was asked, with the target of the example.
    assert batch.prompts.mask[batch.prompt_of[8]].sum() == 5
    assert batch.rewards[8:].tolist() == [1.0, 0.0, 0.0, 0.0]
    # sqrt(1/4 * 3/4) = 0.433 and 0; before that 0.5 once.
    metrics = rollout.metrics()
    assert metrics["augment/kept"] == 0.5
    assert metrics["augment/diversity"] == pytest.approx(0.433013 / 2, abs=1e-5)
    assert rollout.state_dict()["sums"]["swap"] == pytest.approx(0.933013, abs=1e-5)
    assert rollout.state_dict()["counts"] == {"swap": 3}


def test_nothing_is_added_where_no_answers_differ_enough():
    assert drawn(["[ITEM_3]"] * 8)[0].groups.count == 2
    assert drawn(SPREAD * 2, least_std=0.45)[0].groups.count == 2


def test_kinds_that_spread_rewards_are_drawn_more_often():
    rollout = HistoryAugment(Constrained(), changes=["drop", "swap"])
    assert rollout.chances() == {"drop": 0.5, "swap": 0.5}
    rollout.load_state_dict({"sums": {"drop": 0.6, "swap": 0.6}, "counts": {"drop": 2, "swap": 6}})
    # Means of 0.3 and 0.1.
    assert rollout.chances() == pytest.approx({"drop": 0.75, "swap": 0.25})


@pytest.mark.parametrize("inner", [Constrained(), Enumerated()])
def test_it_is_a_rollout(inner):
    check_rollout(HistoryAugment(inner, share=1.0))


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"changes": ["add"]}, "choose from"), ({"share": 0.0}, "at most 1"), ({"start": 0.0}, "above 0")],
)
def test_bad_settings_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        HistoryAugment(Constrained(), **settings)


def test_the_variant_composes():
    composed = compose_checked("train", ["variant=syn_grpo"], CONFIG_DIR)
    assert composed.faults == []
    check_config(composed.config)
