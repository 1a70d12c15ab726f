"""REVISOR and TimeSearch-R: what counts as evidence, what the policy sees of it, and the printed cases."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.compose import compose_checked
from mllmrec.errors import UserError
from mllmrec.rollout.base import Turn
from mllmrec.rollout.constrained import Constrained
from mllmrec.rollout.free import Free
from mllmrec.rollout.reasoned import Reasoned
from mllmrec.testing import check_rollout, check_shaper, toy_batch, toy_speaker
from mllmrec.testing.toys import toy_examples
from mllmrec.variants.evidence import EvidenceAlone, Sufficiency

# Toy items are 1 Red Lamp, 2 Blue Lamp, 3 Old Clock. The first example's target is 1, its history 2 and 3; the second's is
# 2, after 3 and 1.
EXAMPLES = toy_examples(2)


class Scripted:
    """Says these texts to own prompts, in order; the answer to evidence is right where the prompt has these words."""

    def __init__(self, rollout, said, enough):
        self.real, self.said, self.enough, self.prompts = toy_speaker(rollout), said, enough, []
        self.histories = self.real.histories

    def complete(self, examples, turn, *, prompts=None, **given):
        batch = self.real.complete(examples, turn, prompts=prompts, **given)
        if prompts is None:
            return replace(batch, texts=self.said)
        assert turn.greedy
        self.prompts = list(prompts)
        right = [self.enough in prompts[place] for place in batch.prompt_of.tolist()]
        targets = [batch.question(row).target_id for row in range(len(batch))]
        return replace(
            batch, texts=[f"[ITEM_{target if ok else 3}]" for target, ok in zip(targets, right, strict=True)]
        )


def thought(text, answer="[ITEM_1]"):
    return f"<think>\n{text}\n</think>\n{answer}"


def drawn(said, enough, most=3):
    rollout = EvidenceAlone(Free(max_new_tokens=4), most=most)
    speaker = Scripted(rollout, said, enough)
    batch = rollout(EXAMPLES, speaker, None, Turn(0, len(said) // 2))
    return batch, speaker, rollout.metrics()


def test_the_policy_sees_only_what_the_reasoning_speaks_of():
    said = [thought("an old thing"), thought("blue and old"), thought("nothing"), thought("old")]
    batch, speaker, metrics = drawn(said, enough="Old Clock")
    # The second example's two rows have different evidence; one has none.
    assert speaker.prompts == ["likes Old Clock", "likes Blue Lamp Old Clock", "likes Old Clock"]
    assert batch.parts["sufficient"].tolist() == [1.0, 1.0, 0.0, 1.0]
    assert metrics == {"evidence/items": 1.0, "evidence/none": 0.25}
    assert batch.texts == said


def test_the_same_evidence_is_shown_once_and_not_every_evidence_suffices():
    said = [thought("old"), thought("clock"), thought("red"), thought("red [ITEM_3]")]
    batch, speaker, _ = drawn(said, enough="Old")
    assert speaker.prompts == ["likes Old Clock", "likes Red Lamp", "likes Old Clock Red Lamp"]
    assert batch.parts["sufficient"].tolist() == [1.0, 1.0, 0.0, 1.0]


def test_of_too_much_evidence_named_items_stay_then_those_with_most_words():
    said = [
        thought("old blue lamp"),
        thought("old clock lamp"),
        thought("red lamp [ITEM_3]"),
        thought("lamp"),
    ]
    _, speaker, _ = drawn(said, enough="", most=1)
    # Two words against one; two against one; a label against two words; the only lamp.
    assert speaker.prompts == ["likes Blue Lamp", "likes Old Clock", "likes Old Clock", "likes Red Lamp"]


@pytest.mark.parametrize("answer", ["enumerated", "sampled"])
def test_it_is_a_rollout_around_reasoning(answer):
    check_rollout(EvidenceAlone(Reasoned(answer, max_reasoning_tokens=4)))


def test_of_all_answers_the_most_likely_one_counts():
    rollout = EvidenceAlone(Reasoned(max_reasoning_tokens=4))
    speaker = toy_speaker(rollout)
    examples = EXAMPLES[:1]
    alone = speaker.complete(
        examples, Turn(0, 1, greedy=True), which=[0], prompts=["likes Old Clock"], round_="evidence"
    )
    best = alone.answers[int(alone.weights.argmax())].items[0][0]
    found = rollout._answered([(0, (2,))], examples, speaker, Turn(0, 2))
    assert len(alone) == 3
    assert found == [float(best == "1")]


def test_evidence_needs_reasoning():
    with pytest.raises(ValueError, match="writes no reasoning"):
        EvidenceAlone(Constrained())
    with pytest.raises(ValueError, match="from 1 on"):
        EvidenceAlone(Free(), most=0)


@pytest.mark.parametrize(
    ("variant", "rows"),
    [
        # Without the format's share, the printed .9 and .6; ungated evidence of a wrong answer earns .3.
        ("revisor", {(1, 1, 1): 1.0, (1, 1, 0): 0.7, (1, 0, 1): 0.4, (0, 0, 0): 0.0}),
        ("timesearch_r", {(1, 1, 1): 2.0, (1, 1, 0): 1.5, (1, 0, 1): 1.0, (0, 0, 0): 0.0}),
    ],
)
def test_the_printed_cases(variant, rows):
    composed = compose_checked("train", [f"variant={variant}"], CONFIG_DIR)
    assert composed.faults == []
    check_config(composed.config)
    section = composed.config.shapers.sufficiency
    batch = toy_batch(["a"] * len(rows), rewards=[0.0] * len(rows))
    table = torch.tensor([[float(one) for one in row] for row in rows])
    batch = replace(batch, parts=dict(zip(("format", "hit", "sufficient"), table.unbind(1), strict=True)))
    shaped = Sufficiency(dict(section.weights), section.gated)
    assert shaped(batch).total.tolist() == pytest.approx(list(rows.values()))
    low, high = shaped.bounds(0.0, 1.0)
    assert (low, high) == pytest.approx((0.0, max(rows.values())))


def test_it_is_a_shaper():
    for gated in (False, True):
        check_shaper(Sufficiency({"hit": 0.6, "sufficient": 0.3}, gated))
    with pytest.raises(ValueError, match="must name hit and sufficient"):
        Sufficiency({"hit": 1.0})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            ["rollout=reasoned"],
            "shapers.sufficiency.weights.sufficient: neither reward, rollout nor a shaper",
        ),
        # The limit stands inside the rollout.
        (["eval.max_reasoning_tokens=8"], "eval.max_reasoning_tokens=8 is less than rollout"),
    ],
)
def test_what_does_not_go_together_is_refused(changes, said):
    composed = compose_checked("train", ["variant=revisor", *changes], CONFIG_DIR)
    with pytest.raises(UserError, match=said.replace(".", r"\.")):
        check_config(composed.config)
