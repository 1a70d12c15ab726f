"""ReST-GRPO: weights of prefixes, lists that go on from them, and rewards that break ties."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.compose import compose_checked
from mllmrec.rl.batch import Question
from mllmrec.rollout.base import Turn
from mllmrec.rollout.constrained import Constrained
from mllmrec.rollout.lists import Listed
from mllmrec.step.refill import Dynamic
from mllmrec.testing import check_rollout, check_shaper, toy_batch, toy_speaker
from mllmrec.testing.toys import toy_examples
from mllmrec.variants.rest_grpo import STATE, PrefixStates, TieBreak, characters_behind, prefix_weights

TITLES = {str(item): "" for item in range(1, 7)}


def test_weights_of_five_prefixes():
    # 0.95^0 to 0.95^4 add up to 4.5244.
    assert prefix_weights(5, 0.95).tolist() == pytest.approx([0.221, 0.210, 0.1995, 0.1895, 0.180], abs=5e-4)


@pytest.mark.parametrize(
    ("rewards", "kept"),
    [([1.0, 1.0, 1.0, 1.0], False), ([1.0, 0.0, 0.0, 0.0], True), ([0.5, 0.52, 0.5, 0.5], False)],
)
def test_prompts_with_a_deviation_of_a_twentieth_are_kept(rewards, kept):
    # Deviations with divisor 4: 0, 0.4330 and 0.0087.
    assert Dynamic(least_std=0.05).keeps(toy_batch(["a"] * 4, rewards=rewards)).tolist() == [kept]


def listed(*rows):
    """A batch of lists of item numbers, one group; the target is item 3."""
    batch = toy_batch(
        ["\n".join(f"{place}. [ITEM_{item}]" for place, item in enumerate(row, 1)) for row in rows]
    )
    question = Question("3", TITLES, places=len(rows[0]))
    return replace(batch, questions=[question])


@pytest.mark.parametrize(
    ("decided", "target_at", "longest"),
    # Of five items four can stay, of which the target may be one; all that come before it leave it open.
    [(True, 2, 4), (False, 2, 2), (False, 0, 0), (False, None, 4)],
)
def test_states_end_before_the_target(decided, target_at, longest):
    row = [1, 2, 4, 5, 6]
    if target_at is not None:
        row[target_at] = 3
    batch = replace(listed(row, [6, 5, 4, 2, 1]), rewards=torch.tensor([0.95, 0.2]))
    part = PrefixStates(Listed(), share=1.0, decided=decided)
    found = [state for step in range(20) for state in part.states(replace(batch, step=step))]
    # As many as there are states in each of 20 steps, and each of them at some time.
    assert len(found) == 20 * longest
    assert {row for row, _ in found} <= {0}
    assert {items for _, items in found} == set(range(1, longest + 1))
    assert part.metrics()["states/solved"] == 1.0
    assert PrefixStates(Listed(), least=0.96, share=1.0).states(batch) == []


def test_half_of_the_states_are_drawn_rounded_up():
    batch = replace(listed([1, 2, 4, 3, 6]), rewards=torch.tensor([0.9]))
    assert len(PrefixStates(Listed()).states(batch)) == 2


def lists_of_two(count):
    return [replace(example, places=2) for example in toy_examples(count)]


def judge(batch):
    """Lists that do not begin with the target earn 1."""
    first = [answer.items[0][0] for answer in batch.answers]
    other = [float(item != batch.question(row).target_id) for row, item in enumerate(first)]
    return replace(batch, rewards=torch.tensor(other))


def test_lists_go_on_from_a_state():
    part = PrefixStates(Listed())
    speaker = toy_speaker(part)
    own = judge(speaker.complete(lists_of_two(1), Turn(0, 4)))
    batch = part(lists_of_two(1), speaker, judge, Turn(0, 4))
    assert part.metrics() == {"states/solved": 1.0, "states/added": 1.0}
    # The prompt's own group is as it was; the state is a group of its own, which the same prompt has.
    assert batch.group_of.tolist() == [0] * 4 + [1] * 4
    assert batch.texts[:4] == own.texts
    assert batch.by(STATE).tolist() == [False] * 4 + [True] * 4
    assert len(batch.prompts.ids) == 1
    best = int(own.judged().argmax())
    begins = {answer.items[0][0] for answer in batch.answers[4:]}
    assert begins == {own.answers[best].items[0][0]}
    assert all(batch.question(row).well_formed(answer) for row, answer in enumerate(batch.answers))
    # Only the second item is learnt, and its segment is its place.
    assert set(batch.segments[4:][batch.learnt[4:]].tolist()) == {1}
    assert {0, 1} <= set(batch.segments[4].tolist())


def test_probabilities_are_those_after_the_state():
    part = PrefixStates(Listed())
    speaker = toy_speaker(part)
    many = part(lists_of_two(1), speaker, judge, Turn(0, 256))
    scores = speaker.score(many)[256:]
    seconds = [answer.items[1][0] for answer in many.answers[256:]]
    assert len(set(seconds)) == 2
    for item in set(seconds):
        rows = [row for row, own in enumerate(seconds) if own == item]
        probability = scores[rows[0]].sum().exp()
        # 256 draws deviate by less than 0.125 with four standard deviations.
        assert len(rows) / 256 == pytest.approx(float(probability), abs=0.125)
        assert_close(scores[rows].sum(1).exp(), probability.expand(len(rows)))
    # The two that are left share all of the probability.
    both = [scores[seconds.index(item)].sum().exp() for item in set(seconds)]
    assert float(sum(both)) == pytest.approx(1.0, abs=1e-5)


def test_states_do_not_depend_on_the_order_of_examples():
    part, examples = PrefixStates(Listed()), lists_of_two(2)
    batch, turned = (
        part(given, toy_speaker(part), judge, Turn(0, 8)) for given in (examples, examples[::-1])
    )
    assert batch.groups.sizes.tolist() == [8] * 4

    def said(found, place):
        return sorted(found.texts[row] for row in (found.example_of == place).nonzero()[:, 0])

    assert said(batch, 0) == said(turned, 1)
    assert said(batch, 1) == said(turned, 0)


def test_lists_that_keep_different_numbers_of_items_do_not_go_on_together():
    speaker = toy_speaker(Listed())
    batch = speaker.complete(toy_examples(1), Turn(0, 2))
    with pytest.raises(ValueError, match=r"keep \[0, 2\] items"):
        speaker.go_on(
            batch, [0, 1], [0, int(batch.completions.mask[1].sum())], ["", ""], Turn(0, 2), round_=1
        )


def test_answers_that_end_earn_a_little_and_what_follows_costs_less():
    batch = toy_batch(["[ITEM_1]", "[ITEM_1]\nfor it is red", "[ITEM_1]"], rewards=[1.0, 1.0, 1.0])
    batch = replace(batch, finished=torch.tensor([True, True, False]))
    given = TieBreak(symbol=1e-3, trailing=1e-6)(batch)
    assert_close(given.total, torch.tensor([1.001, 1.001 - 13e-6, 1.0]), atol=1e-7, rtol=0)
    assert given.parts["trailing"].tolist() == [0.0, 13.0, 0.0]
    # A long text costs as much as the end is worth, and no more.
    assert TieBreak(trailing=1.0)(batch).total[1].item() == pytest.approx(1.0)


def test_what_is_behind_an_answer():
    question = Question("1", {"1": "", "2": ""}, places=2)
    assert characters_behind("1. [ITEM_1]\n2. [ITEM_2]\nso", question) == 2
    assert characters_behind("1. [ITEM_1]\nlong and without a second item", question) == 0


def test_they_are_parts_and_say_what_is_wrong():
    check_rollout(PrefixStates(Listed(), least=0.0, decided=True))
    check_shaper(TieBreak())
    with pytest.raises(ValueError, match="task=ranked_list"):
        PrefixStates(Constrained())
    with pytest.raises(ValueError, match="share=0"):
        PrefixStates(Listed(), share=0.0)
    with pytest.raises(ValueError, match="at least 0"):
        TieBreak(symbol=-1.0)


def test_the_variant_composes():
    composed = compose_checked("train", ["variant=rest_grpo"], CONFIG_DIR)
    assert composed.faults == []
    check_config(composed.config)
