"""ThinkTuning: rows of an attempt, feedback and what came after, token by token."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.compose import compose_checked
from mllmrec.errors import UserError
from mllmrec.rewards.base import with_rewards
from mllmrec.rewards.hit_format import HitFormat
from mllmrec.rollout.base import Turn
from mllmrec.rollout.constrained import Constrained
from mllmrec.rollout.free import Free
from mllmrec.rollout.reasoned import Reasoned
from mllmrec.testing import check_rollout, toy_batch, toy_speaker
from mllmrec.testing.toys import toy_examples
from mllmrec.variants.think_tuning import TeacherFeedback, before_closing

EXAMPLES = toy_examples(2)
INNER = Reasoned("sampled", max_reasoning_tokens=4)


def judge(batch):
    return with_rewards(batch, HitFormat()(batch))


def test_tokens_before_the_closing_tag():
    assert before_closing(["<think>\n", "red", "\n", "</", "think", ">\n", "x"]) == 3
    assert before_closing(["a ", "b\n</think>\n", "</think>"]) == 1
    assert before_closing(["a", "b"]) == 2


def test_the_teacher_agrees_or_says_what_it_may_say():
    batch = toy_batch(["[ITEM_1]", "[ITEM_2]", "nothing"], rewards=[1.0, 0.0, -1.0])
    said = {
        one: [TeacherFeedback(INNER, behaviours=[one]).feedback(batch, row) for row in range(3)]
        for one in ("agreement", "self_conflict", "consultancy")
    }
    assert said == {
        "agreement": ["Yes, [ITEM_1] Red Lamp fits.", "", ""],
        "self_conflict": ["", "Wait, [ITEM_2] Blue Lamp may not fit.", "Wait, that may not fit."],
        "consultancy": ["", *["Consider a title that begins with Red."] * 2],
    }
    ways = TeacherFeedback(INNER)
    drawn = {ways.feedback(replace(batch, step=step), 1) for step in range(20)}
    assert len(drawn) == 3


def drawn(share=0.25, group=4):
    rollout = TeacherFeedback(INNER, share=share, behaviours=["agreement", "self_conflict"])
    speaker = toy_speaker(rollout)
    first = judge(speaker.complete(EXAMPLES, Turn(0, group)))
    return rollout(EXAMPLES, speaker, judge, Turn(0, group)), first, speaker, rollout


def test_one_attempt_of_four_goes_on_after_feedback():
    batch, first, speaker, rollout = drawn()
    told = batch.by("told").nonzero()[:, 0].tolist()
    assert [batch.group_of[row].item() for row in told] == [0, 1]
    assert batch.groups.sizes.tolist() == [4, 4]
    assert rollout.metrics() == {"feedback/told": 0.25}
    pieces = speaker.pieces(first)
    for row, attempt in zip(told, (0, 4), strict=True):
        kept = before_closing(pieces[attempt])
        words = len(rollout.feedback(first, attempt).split())
        ids = batch.completions.ids[row]
        # The attempt's tokens without its closing tag, the feedback, and reasoning that is closed once.
        assert ids[:kept].tolist() == first.completions.ids[attempt, :kept].tolist()
        assert batch.foreign[row].nonzero()[:, 0].tolist() == list(range(kept, kept + words))
        assert batch.texts[row].count("</think>") == 1
        assert int(((ids == ids[0]) & ~batch.learnt[row]).sum()) == 1  # an opening tag that was forced
        assert batch.answers[row].well_formed
        # The opening tag was forced; what was drawn and what was told are learnt.
        assert batch.learnt[row, : kept + words].tolist() == [False] + [True] * (kept + words - 1)
        assert (batch.segments[row, : kept + words] == -1).all()
    assert not batch.foreign[[row for row in range(8) if row not in told]].any()


def test_every_drawn_token_has_the_probability_with_which_it_was_drawn():
    batch, first, speaker, _ = drawn()
    told = batch.by("told").nonzero()[:, 0].tolist()
    old = speaker.score(first)
    for row, attempt in zip(told, (0, 4), strict=True):
        mine = int(batch.foreign[row].nonzero()[0])
        assert_close(batch.old[row, :mine], old[attempt, :mine])
        assert not batch.old[row][batch.foreign[row]].any()
        answers = batch.learnt[row] & (batch.segments[row] == 0)
        # Of the three candidates' answers, scored under the prompt and all that stands before.
        assert (batch.old[row][answers] < 0).all()
    assert_close(torch.where(batch.foreign, 0.0, speaker.score(batch)), batch.old)


def test_all_attempts_may_get_feedback_and_go_on_apart():
    batch, *_ = drawn(share=1.0, group=2)
    assert batch.by("told").all()
    assert batch.rewards is None
    check_rollout(TeacherFeedback(INNER, share=1.0))


def test_other_draws_can_go_on_too():
    for rollout in (Constrained(), Free(max_new_tokens=3)):
        speaker = toy_speaker(rollout)
        batch = speaker.complete(EXAMPLES, Turn(0, 2))
        more = speaker.go_on(batch, [0, 1, 2], [1, 1, 1], ["so we go"] * 3, Turn(0, 2), round_="more")
        assert more.completions.ids[:, 0].tolist() == batch.completions.ids[:3, 0].tolist()
        assert more.foreign[:, 1:4].all()
        assert more.foreign.sum() == 9
        # Two rows of an example draw apart, and the same again in another call.
        again = speaker.go_on(batch, [0, 1, 2], [1, 1, 1], ["so we go"] * 3, Turn(0, 2), round_="more")
        assert again.texts == more.texts
        speaker.scores(speaker.policy.model, more, torch.arange(3))


def test_a_row_that_becomes_too_long_is_refused(monkeypatch):
    speaker = toy_speaker(INNER)
    batch = speaker.complete(EXAMPLES, Turn(0, 1))
    monkeypatch.setattr(type(speaker.policy), "max_length", 20)
    monkeypatch.setattr(type(speaker.policy), "remedy", "take another", raising=False)
    with pytest.raises(UserError, match="the policy takes"):
        speaker.go_on(batch, [0], [1], ["word " * 20], Turn(0, 1), round_="more")


def test_feedback_needs_drawn_answers_after_reasoning():
    for inner in (Constrained(), Reasoned()):
        with pytest.raises(ValueError, match=r"answer=sampled"):
            TeacherFeedback(inner)
    with pytest.raises(ValueError, match="choose from"):
        TeacherFeedback(INNER, behaviours=["praise"])
    with pytest.raises(ValueError, match="at most 1"):
        TeacherFeedback(INNER, share=0.0)


def test_the_variant_composes_and_needs_its_loss():
    composed = compose_checked("train", ["variant=think_tuning"], CONFIG_DIR)
    assert composed.faults == []
    check_config(composed.config)
    with pytest.raises(UserError, match=r"TeacherFeedback puts tokens.*set loss=shaped"):
        check_config(compose_checked("train", ["variant=think_tuning", "loss=dapo"], CONFIG_DIR).config)
