from __future__ import annotations

import pytest

from mllmrec.baselines.sasrec import SasRec


def trained_with(measures: list[float], cycle, **settings) -> tuple[SasRec, list[float]]:
    """SASRec with the given held-out measures, and its first weight at each of them."""
    recommender = SasRec(
        hidden_size=4, num_heads=1, num_layers=1, feedforward_size=4, batch_size=64, **settings
    )
    seen: list[float] = []

    def measure() -> float:
        seen.append(recommender.network.items.own.weight[0, 0].item())
        return measures[len(seen) - 1]

    recommender.fit(cycle(measure=measure))
    return recommender, seen


def kept(recommender: SasRec) -> float:
    return recommender.network.items.own.weight[0, 0].item()


def test_training_stops_after_patience_and_the_best_weights_come_back(cycle):
    recommender, seen = trained_with([0.1, 0.3, 0.2, 0.3, 0.9], cycle, patience=2)
    # The second measure is best; the third is worse and the fourth no better, so training stops.
    assert len(set(seen)) == len(seen) == 4
    assert kept(recommender) == seen[1]


def test_a_new_best_starts_the_patience_anew(cycle):
    recommender, seen = trained_with([0.2, 0.1, 0.3, 0.1, 0.1, 0.9], cycle, patience=2)
    assert len(seen) == 5
    assert kept(recommender) == seen[2]


def test_measures_are_so_many_epochs_apart(cycle):
    recommender, seen = trained_with([0.1, 0.2], cycle, every=3, max_epochs=7)
    # Measured after epochs 3 and 6. Epoch 7 is undone, because nobody measured it.
    assert len(seen) == 2
    assert kept(recommender) == seen[1]


def test_without_a_measure_it_trains_to_the_end(cycle):
    weights = []
    for epochs in (1, 2):
        recommender = SasRec(hidden_size=4, num_heads=1, batch_size=64, max_epochs=epochs, patience=1)
        recommender.fit(cycle())
        weights.append(kept(recommender))
    assert weights[0] != pytest.approx(weights[1])
