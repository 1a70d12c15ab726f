"""Rows of a batch keep what belongs to them, whatever is taken, sorted, joined or stacked."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mllmrec.engine.base import ChoiceSets
from mllmrec.engine.batches import TokenBatch, pad
from mllmrec.rl.batch import POLICY, KnownScores, RolloutBatch, join, stack


def full(make_batch, rewards, group_of, **fields) -> RolloutBatch:
    """A batch in which every field is filled, and every row differs."""
    rows, width = len(rewards), 2
    numbers = torch.arange(rows * width).view(rows, width) * 1.0
    own = {
        "texts": [f"{reward:g}" for reward in rewards],
        "sources": tuple("hinted" if row % 2 else POLICY for row in range(rows)),
        # Where a token was forced, none competed.
        "choices": ChoiceSets(
            torch.tensor([[row, row if row % 2 == 0 else -1] for row in range(rows)]),
            torch.arange(rows)[:, None] + torch.tensor([[20, 60]]),
        ),
        "finished": torch.arange(rows) % 2 == 0,
        "learnt": torch.tensor([[True, row % 2 == 0] for row in range(rows)]),
        "weights": torch.tensor(rewards) / 10,
        "segments": torch.arange(rows * width).view(rows, width),
        "old": numbers,
        "reference": numbers + 0.25,
        "teacher": numbers + 0.5,
        "place_rewards": numbers,
        "parts": {"hit": torch.tensor(rewards) / 2},
        "advantages": torch.tensor(rewards) - 1,
        "pool": {"size": torch.arange(max(group_of) + 1) * 1.0},
    }
    return make_batch(torch.tensor(rewards), group_of=group_of, **{**own, **fields})


PER_ROW = ("finished", "weights", "rewards", "place_rewards", "group_of")
PER_TOKEN = ("learnt", "segments", "old", "reference", "teacher")


def rows_of(batch):
    """Everything that belongs to each row, read through its places; padding is left out."""
    found = []
    for row in range(len(batch)):
        prompt, said = int(batch.prompt_of[row]), batch.completions.mask[row]
        one = {
            "text": batch.texts[row],
            "prompt": batch.prompts.ids[prompt][batch.prompts.mask[prompt]].tolist(),
            "said": batch.completions.ids[row][said].tolist(),
            "example": batch.examples[int(batch.example_of[row])].sample_id,
            "question": batch.question(row).target_id,
            "source": batch.sources[row] if batch.sources else POLICY,
            "hit": float(batch.parts["hit"][row]),
        }
        if batch.choices is not None:
            sets, tokens = batch.choices.set_of[row][said].tolist(), batch.choices.tokens.tolist()
            one["choices"] = [
                [token for token in tokens[own] if token >= 0] if own >= 0 else [] for own in sets
            ]
        for name in PER_ROW:
            one[name] = getattr(batch, name)[row].tolist()
        for name in PER_TOKEN:
            one[name] = getattr(batch, name)[row][said].tolist()
        found.append(one)
    return found


def test_taken_rows_keep_what_is_theirs(make_batch):
    batch = full(make_batch, [1.0, 2.0, 3.0, 4.0, 5.0], [1, 0, 1, 2, 0])
    before = rows_of(batch)
    assert len({row["text"] for row in before}) == 5
    taken = batch.take(torch.tensor([4, 3, 0, 0]))
    assert rows_of(taken) == [before[row] for row in (4, 3, 0, 0)]
    assert taken.advantages.tolist() == [4.0, 3.0, 0.0, 0.0]
    # Groups, prompts and examples keep their numbers, and what is known of groups stays.
    assert taken.groups.sizes.tolist() == [1, 2, 1]
    assert taken.pool["size"].tolist() == [0.0, 1.0, 2.0]
    assert taken.by("hinted").tolist() == [False, True, False, False]


def test_rows_come_group_by_group_in_the_order_they_had(make_batch):
    batch = full(make_batch, [1.0, 2.0, 3.0, 4.0, 5.0], [1, 0, 1, 2, 0])
    batch = replace(batch, known=KnownScores(None, None))
    before, ordered = rows_of(batch), batch.by_group()
    assert ordered.group_of.tolist() == [0, 0, 1, 1, 2]
    assert rows_of(ordered) == [before[row] for row in (1, 4, 0, 2, 3)]
    # The rollout's own pass has its rows in the old order.
    assert ordered.known is None
    assert ordered.by_group() is ordered


def longer(batch):
    """The same rows with one more token each, and longer prompts."""
    ids, mask = batch.completions
    one, learnt = torch.ones(len(ids), 1), torch.ones(len(ids), 1, dtype=torch.bool)
    wider = {
        name: torch.cat([getattr(batch, name), (9 * one).to(getattr(batch, name).dtype)], 1)
        for name in PER_TOKEN
    }
    return replace(
        batch,
        prompts=pad([[5, 6, 7, 8], [6]] + [[7]] * (len(batch.prompts.ids) - 2), 0, side="left"),
        completions=TokenBatch(torch.cat([ids, (50 * one).long()], 1), torch.cat([mask, learnt], 1)),
        choices=ChoiceSets(
            torch.cat([batch.choices.set_of, batch.choices.set_of[:, :1]], 1),
            torch.cat([batch.choices.tokens, (90 * one).long()], 1),
        ),
        **wider,
    )


def test_joined_rows_keep_what_is_theirs_and_share_groups(make_batch):
    one = full(make_batch, [1.0, 2.0, 3.0], [0, 1, 1])
    other = longer(full(make_batch, [4.0, 5.0, 6.0, 7.0], [1, 0, 1, 0]))
    for batches in ([one, other], [other, one], [one, other, one]):
        both = join(batches)
        assert rows_of(both) == [row for batch in batches for row in rows_of(batch)]
    assert join([one, other]).groups.sizes.tolist() == [3, 4]
    assert len(both.examples) == 2
    assert both.advantages is None
    # Places past the end of a row are no part of anything.
    past = ~join([one, other]).completions.mask
    assert past.sum() == 3
    assert (join([one, other]).segments[past] == -1).all()
    assert not join([one, other]).learnt[past].any()
    assert (join([one, other]).choices.set_of[past] == -1).all()
    assert join([one]) is one


def test_what_only_some_know_is_dropped(make_batch):
    one = full(make_batch, [1.0, 2.0], [0, 1])
    other = replace(
        full(make_batch, [3.0, 4.0], [0, 1]),
        sources=(),
        old=None,
        weights=None,
        choices=None,
        parts={"hit": torch.zeros(2), "own": torch.zeros(2)},
    )
    with pytest.raises(ValueError, match="a few answers and rows among the whole vocabulary"):
        join([one, other])
    both = join([replace(one, choices=None), other])
    assert (both.choices, both.old, both.weights) == (None, None, None)
    assert both.sources == (POLICY, "hinted", POLICY, POLICY)
    assert set(both.parts) == {"hit"}
    assert both.reference is not None


def test_stacked_batches_keep_their_examples_and_groups_apart(make_batch):
    one = full(make_batch, [1.0, 2.0, 3.0], [0, 1, 1])
    other = longer(full(make_batch, [4.0, 5.0, 6.0], [1, 0, 2]))
    other = replace(
        other,
        examples=[replace_id(example, f"v{place}") for place, example in enumerate(other.examples)],
    )
    both = stack([one, other])
    moved = [{**row, "group_of": row["group_of"] + 2} for row in rows_of(other)]
    assert rows_of(both) == rows_of(one) + moved
    assert [example.sample_id for example in both.examples] == ["u0", "u1", "v0", "v1", "v2"]
    assert both.groups.sizes.tolist() == [1, 2, 1, 1, 1]
    assert both.pool["size"].tolist() == [0.0, 1.0, 0.0, 1.0, 2.0]


def replace_id(example, sample_id):
    return type(example)(**{**vars(example), "sample_id": sample_id})


def test_a_batch_without_rewards_says_so(make_batch):
    batch = replace(make_batch(torch.zeros(1, 2)), rewards=None)
    with pytest.raises(ValueError, match="no rewards yet"):
        batch.judged()


def test_without_sources_the_policy_wrote_every_row(make_batch):
    batch = make_batch(torch.zeros(1, 2))
    assert batch.by(POLICY).all()
    assert not batch.by("hinted").any()
