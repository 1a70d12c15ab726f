from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.compose import compose_checked
from mllmrec.errors import ConfigError
from mllmrec.rewards.base import with_rewards
from mllmrec.rewards.hit_format import HitFormat
from mllmrec.rl.advantages import GroupRelative
from mllmrec.rl.batch import join
from mllmrec.rollout.base import Turn
from mllmrec.testing import check_rollout, check_shaper, toy_batch, toy_speaker
from mllmrec.testing.toys import toy_examples
from mllmrec.testing.trials import trial_faults
from mllmrec.variants.s_grpo import Decaying, SerialExit

OPEN, CLOSE, END = 11, 12, 1  # of the toy policy
EXAMPLES = toy_examples(2)


def test_each_right_answer_halves_what_later_ones_earn():
    batch = toy_batch(["a"] * 5, rewards=[0.0, 1, 1, 0, 1])
    paid = Decaying()(batch)
    assert paid.total.tolist() == [0, 1, 0.5, 0, 0.25]
    assert paid.parts["decay"].tolist() == [1, 1, 0.5, 0.25, 0.25]
    advantages = GroupRelative(scale="none")(with_rewards(batch, paid))
    assert_close(advantages, torch.tensor([-0.35, 0.65, 0.15, -0.35, -0.1]))


def test_groups_decay_by_themselves_in_the_order_of_their_stops():
    batch = toy_batch(["a"] * 5, rewards=[1.0, 1, 0.4, 1, -1], group_of=[0, 1, 1, 0, 1])
    # The second group's stops run backwards: -1, then 0.4, then 1.
    turned = replace(batch, order=torch.tensor([1, 2, 1, 0, 0]))
    assert Decaying()(turned).total.tolist() == pytest.approx([0.5, 1, 0.4, 1, -1])
    # Forwards: 1 halves 0.4, and what is lost stays lost.
    assert Decaying()(batch).total.tolist() == pytest.approx([1, 1, 0.2, 0.5, -1])


def test_stops_with_all_their_answers_earn_the_mean_over_draws():
    # Three stops with a right and a wrong answer each: right with 0.8, 0.5 and 0.3.
    weights = torch.tensor([0.8, 0.2, 0.5, 0.5, 0.3, 0.7])
    order = torch.tensor([0, 0, 1, 1, 2, 2])
    batch = replace(toy_batch(["a"] * 6, rewards=[1.0, 0] * 3, weights=weights.tolist()), order=order)
    paid = Decaying()(batch).total
    # 1 - 0.8 / 2 = 0.6; 0.6 * (1 - 0.5 / 2) = 0.45.
    assert_close(paid, torch.tensor([1.0, 0, 0.6, 0, 0.45, 0]))
    # The same from all eight ways to be right or wrong.
    expected = torch.zeros(3)
    for hits in torch.cartesian_prod(*[torch.tensor([1.0, 0.0])] * 3):
        chance = torch.where(hits > 0, weights[::2], weights[1::2]).prod()
        expected += chance * Decaying()(toy_batch(["a"] * 3, rewards=hits.tolist())).total
    assert_close(paid[::2] * weights[::2], expected)


@pytest.mark.parametrize("factor", [0.5, 0.0, 1.0])
def test_it_is_a_shaper(factor):
    check_shaper(Decaying(factor=factor))


def test_rows_without_an_order_are_not_paid():
    with pytest.raises(ValueError, match="gave them none"):
        Decaying()(replace(toy_batch(["a"], rewards=[1.0]), order=None))
    with pytest.raises(ValueError, match="factor=2"):
        Decaying(factor=2)


def drawn(group_size=5, step=0, **settings):
    rollout = SerialExit(**{"max_reasoning_tokens": 12, **settings})
    speaker = toy_speaker(rollout)
    return speaker.complete(EXAMPLES, Turn(step, group_size)), rollout, speaker


def reasoning_of(batch, row):
    """The tokens between the opening tag and the answer."""
    ids = batch.completions.ids[row][batch.completions.mask[row] & (batch.segments[row] < 0)].tolist()
    assert ids[0] == OPEN
    return ids[1:]


def test_exits_are_beginnings_of_one_piece_of_reasoning():
    ends = set()
    for step in range(8):
        batch, _, speaker = drawn(step=step)
        assert batch.order.tolist() == [0, 1, 2, 3, 4] * 2
        assert batch.group_of.tolist() == [0] * 5 + [1] * 5
        # Only the whole was written: what is learnt of it.
        written = 0
        for last in (4, 9):
            whole, closed = reasoning_of(batch, last), bool(batch.finished[last])
            ends.add(closed)
            assert whole[-1] == CLOSE
            thoughts = whole[:-1]
            lengths = []
            for row in range(last - 4, last):
                *kept, tag = reasoning_of(batch, row)
                assert tag == CLOSE
                assert kept == thoughts[: len(kept)]
                assert batch.finished[row]
                lengths.append(len(kept))
            assert lengths == sorted(lengths)
            assert min(lengths) >= min(1, len(thoughts))
            # The last row learns its reasoning, with a tag of its own; exits learn none.
            learnt = (batch.learnt & (batch.segments < 0)).sum(1).tolist()
            assert learnt[last - 4 : last + 1] == [0] * 4 + [len(thoughts) + closed]
            written += learnt[last]
        assert speaker.generated_tokens == written
    assert ends == {True, False}


def test_exits_lie_evenly_over_the_reasoning():
    batch, _, _ = drawn(group_size=4001, max_reasoning_tokens=4)
    for first in (0, 4001):
        whole = len(reasoning_of(batch, first + 4000)) - 1
        lengths = torch.tensor([len(reasoning_of(batch, row)) - 1 for row in range(first, first + 4000)])
        counts = torch.bincount(lengths, minlength=whole + 1)[1:]
        assert len(counts) == whole
        assert counts.sum() == 4000
        assert (counts / 4000 - 1 / whole).abs().max() < 0.03


def test_prefixes_may_be_learnt_with_their_exits():
    batch, _, _ = drawn(learn_prefixes=True)
    for row in range(10):
        kept = len(reasoning_of(batch, row)) - (1 if row % 5 < 4 or not batch.finished[row] else 0)
        assert int((batch.learnt & (batch.segments < 0))[row].sum()) == kept


def test_answers_at_a_stop_can_all_be_rows():
    batch, rollout, _ = drawn(answer="enumerated")
    sampled, _, _ = drawn()
    assert batch.order.tolist() == [stop for stop in range(5) for _ in range(3)] * 2
    assert_close(batch.weights.view(10, 3).sum(1), torch.ones(10))
    assert [reasoning_of(batch, row) for row in range(0, 30, 3)] == [
        reasoning_of(sampled, row) for row in range(10)
    ]
    assert rollout.metrics()["serial/thoughts"] > 0


@pytest.mark.parametrize("answer", ["sampled", "enumerated"])
@pytest.mark.parametrize("tokens", [1, 6])
def test_it_is_a_rollout(answer, tokens):
    check_rollout(SerialExit(answer, max_reasoning_tokens=tokens))


def test_the_most_likely_answer_has_no_exits():
    _, _, speaker = drawn()
    greedy = speaker.complete(EXAMPLES, Turn(0, 1, greedy=True))
    assert greedy.order.tolist() == [0, 0]
    reward = HitFormat()(greedy)
    assert Decaying()(with_rewards(greedy, reward)).total.tolist() == reward.total.tolist()


def test_rows_keep_their_stops():
    batch, _, _ = drawn()
    later = batch.take(torch.tensor([9, 3, 1]))
    assert later.order.tolist() == [4, 3, 1]
    assert join([later, batch]).order.tolist() == [4, 3, 1, *batch.order.tolist()]


def checked(*overrides):
    composed = compose_checked("train", ["variant=s_grpo", *overrides], CONFIG_DIR)
    assert composed.faults == []
    check_config(composed.config, trial_faults)
    return composed.config


def test_the_variant_is_a_valid_job():
    cfg = checked()
    assert (cfg.rollout.answer, cfg.advantage.scale, cfg.grpo.group_size, cfg.grpo.beta) == (
        "sampled",
        "none",
        9,
        0.0,
    )
    assert (cfg.eval.ranking, cfg.cot.placement) == ("reasoned", "completion")
    checked("rollout.answer=enumerated")


def test_what_cannot_work_is_refused():
    with pytest.raises(ConfigError, match="set rollout=serial_exit, or remove the shaper"):
        checked("rollout=reasoned")
    checked("rollout=reasoned", "~shapers.serial")
    with pytest.raises(ConfigError, match="both pay for the length"):
        checked("+shapers.long={_target_: mllmrec.variants.lengths.Overlong, limit: 64, buffer: 8}")
