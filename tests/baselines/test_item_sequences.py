from __future__ import annotations

import numpy as np

from mllmrec.baselines.item_sequences import LengthBatches, in_sequence, padded


def test_padding_stands_behind_the_latest_items(items):
    codes, lengths = padded(items([5, 6, 7, 8], [9], []), 3)
    assert codes.tolist() == [[6, 7, 8], [9, 0, 0], [0, 0, 0]]
    assert lengths.tolist() == [3, 1, 0]
    assert in_sequence(lengths, 3).tolist() == [[True] * 3, [True, False, False], [False] * 3]
    assert padded(items([]), 3)[0].shape == (1, 1)


def test_an_epoch_has_every_sequence_once_and_the_next_another_order():
    lengths = np.arange(100) % 7
    batches = LengthBatches(lengths, 8, seed=0)
    first, second = batches.of_epoch(0), batches.of_epoch(1)
    for epoch in (first, second):
        assert len(epoch) == len(batches) == 13
        assert sorted(place for batch in epoch for place in batch) == list(range(100))
    assert first != second
    assert LengthBatches(lengths, 8, seed=0).of_epoch(0) == first
    assert LengthBatches(lengths, 8, seed=1).of_epoch(0) != first


def test_batches_hold_similar_lengths_in_random_order():
    lengths = np.repeat(np.arange(1, 11), 16)
    batches = LengthBatches(lengths, 16, seed=0).of_epoch(0)
    # 160 sequences are sorted together, so each batch of 16 has one length.
    assert all(len(set(lengths[batch])) == 1 for batch in batches)
    assert [lengths[batch[0]] for batch in batches] != sorted(range(1, 11))
