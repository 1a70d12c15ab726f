from __future__ import annotations

import pytest

from mllmrec.engine.batches import pad
from mllmrec.rollout.base import Turn
from mllmrec.rollout.constrained import Constrained
from mllmrec.rollout.free import Free
from mllmrec.step.answer_tokens import answer_segments
from mllmrec.testing import toy_speaker
from mllmrec.testing.toys import toy_examples


@pytest.mark.parametrize(
    ("reasoning", "answer"),
    [
        ("<think>\nred again\n</think>", "\n[ITEM_1]"),
        ("red again</think>", "[ITEM_1]"),
        ("", "[ITEM_1] Red Lamp"),
        ("", "[ITEM_1] <think>red again</think>"),
        ("", "<think> red"),
    ],
)
def test_the_answer_begins_after_the_reasoning(make_pretrained, reasoning, answer):
    policy = make_pretrained(lora=None)
    first, second = policy.encode_answers([reasoning])[0], policy.encode_answers([answer])[0]
    completions = pad([[*first, *second, policy.end_token], [5] * 40], 0, side="right")
    found = answer_segments(policy, completions, policy.decode(completions))
    size = len(first) + len(second) + 1
    assert found[0].tolist() == [-1] * len(first) + [0] * (len(second) + 1) + [-1] * (40 - size)
    assert found[1].tolist() == [0] * 40


def test_only_free_completions_have_places():
    for rollout, given in ((Constrained(), False), (Free(max_new_tokens=4), True)):
        batch = toy_speaker(rollout).complete(toy_examples(2), Turn(0, 3))
        assert (batch.segments is not None) == given
