from __future__ import annotations

import numpy as np
import pytest
import torch

from mllmrec.baselines.bert4rec import Bert4Rec
from mllmrec.baselines.gru4rec import Gru4Rec
from mllmrec.baselines.sasrec import SasRec
from mllmrec.baselines.sasrec_text import SasRecText
from mllmrec.errors import UserError
from mllmrec.text_encoders.tfidf import Tfidf

SMALL = {"hidden_size": 16, "dropout": 0.1, "learning_rate": 0.01, "batch_size": 20}
ATTENTION = {**SMALL, "num_layers": 1, "feedforward_size": 32}
RECURRENT = {**SMALL, "state_size": 16}
MODELS = {
    "gru4rec": lambda **extra: Gru4Rec(**{**RECURRENT, **extra}),
    "sasrec": lambda **extra: SasRec(**{**ATTENTION, **extra}),
    "bert4rec": lambda **extra: Bert4Rec(**{**ATTENTION, "masked_share": 0.3, "last_share": 0.5, **extra}),
    "sasrec_text": lambda **extra: SasRecText(**{**ATTENTION, "encoder": Tfidf(4), **extra}),
}
every_model = pytest.mark.parametrize("name", MODELS)


def barely_trained(name: str, cycle, **settings):
    recommender = MODELS[name](max_epochs=1, **settings)
    recommender.fit(cycle())
    return recommender


@every_model
def test_a_cycle_is_learnt(name, cycle, cycle_hits):
    recommender = MODELS[name](max_epochs=60, every=5, patience=12)
    recommender.fit(cycle(measure=lambda: cycle_hits(recommender)))
    assert cycle_hits(recommender) >= 0.9


@pytest.mark.parametrize(("negatives", "calibration"), [(1, 0.0), (6, 0.75)])
def test_a_cycle_is_learnt_from_sampled_negatives(negatives, calibration, cycle, cycle_hits):
    recommender = MODELS["sasrec"](loss="bce", negatives=negatives, calibration=calibration, max_epochs=60)
    recommender.fit(cycle())
    assert cycle_hits(recommender) >= 0.9


@every_model
def test_scores_do_not_depend_on_the_batch(name, cycle, items):
    recommender = barely_trained(name, cycle)
    histories = items([3, 1], [5, 6, 7, 8, 9, 10], [2])
    together = recommender.scores(histories, items(range(12), range(12), range(12)))
    for history, row in zip(histories, together, strict=True):
        (alone,) = recommender.scores([history], items(range(12)))
        assert alone == pytest.approx(row, abs=1e-5)
        # A few candidates get the same scores without the others, in their own order.
        (few,) = recommender.scores([history], items([7, 0, 4]))
        assert few == pytest.approx(row[[7, 0, 4]], abs=1e-5)
    assert not np.allclose(together[0], together[1], atol=1e-3)
    ragged = recommender.scores(histories, items([1], [2, 3], [4]))
    assert [len(row) for row in ragged] == [1, 2, 1]
    assert ragged[1] == pytest.approx(together[1][[2, 3]], abs=1e-5)


@pytest.mark.parametrize(("name", "read"), [("sasrec", 4), ("gru4rec", 4), ("bert4rec", 3)])
def test_only_the_latest_items_of_a_long_history_are_read(name, read, cycle, items):
    recommender = barely_trained(name, cycle, max_length=4)
    latest = [5, 9, 2, 7][-read:]
    long, short, shorter = recommender.scores(
        items([0, 1, 3, 8, *latest], latest, latest[1:]), items(range(12), range(12), range(12))
    )
    assert long == pytest.approx(short, abs=1e-6)
    assert not np.allclose(short, shorter, atol=1e-4)


@every_model
def test_an_empty_history_has_scores(name, cycle, items):
    (scores,) = barely_trained(name, cycle).scores(items([]), items(range(12)))
    assert np.isfinite(scores).all()
    assert len(set(scores.tolist())) > 1


@every_model
def test_a_saved_model_scores_as_before(name, cycle, items, tmp_path):
    before = barely_trained(name, cycle)
    before.save(tmp_path)
    after = MODELS[name]()
    after.load(tmp_path, 12)
    asked = items([3, 1], [5, 6, 7]), items(range(12), [4, 2])
    for a, b in zip(before.scores(*asked), after.scores(*asked), strict=True):
        assert a.tolist() == b.tolist()
    with pytest.raises(UserError, match="other sizes"):
        MODELS[name](hidden_size=8).load(tmp_path, 12)


@every_model
def test_the_seed_and_nothing_else_decides(name, cycle, items):
    scores = []
    for seed, disturbance in ((0, 1), (0, 2), (1, 1)):
        recommender = MODELS[name](max_epochs=2)
        with torch.random.fork_rng():
            torch.manual_seed(disturbance)
            recommender.fit(cycle(seed=seed))
        scores.append(recommender.scores(items([1, 2]), items(range(12)))[0].tolist())
    assert scores[0] == scores[1] != scores[2]


@every_model
def test_scoring_while_training_leaves_dropout_on(name, cycle, items):
    recommender = MODELS[name](max_epochs=1)
    modes = []

    def measure() -> float:
        modes.append(recommender.network.training)
        rows = [recommender.scores(items([1, 2]), items(range(12)))[0].tolist() for _ in range(2)]
        modes.append(recommender.network.training)
        assert rows[0] == rows[1]
        return 0.0

    recommender.fit(cycle(measure=measure))
    assert modes == [True, True]


@every_model
def test_all_weights_are_learnt(name, cycle):
    recommender = MODELS[name]()
    inputs = cycle()
    network = recommender.build(12, recommender.features(inputs))
    items, lengths = torch.tensor([[1, 2, 3], [4, 5, 0]]), torch.tensor([3, 2])
    network.loss(items, lengths).backward()
    assert [part for part, weight in network.named_parameters() if weight.grad is None] == []


@every_model
def test_padding_takes_no_part_in_the_loss(name, cycle):
    recommender = MODELS[name](
        dropout=0.0, **({"masked_share": 0.0, "last_share": 0.999999} if name == "bert4rec" else {})
    )
    network = recommender.build(12, recommender.features(cycle()))
    items, lengths = torch.tensor([[1, 2, 3, 0], [4, 5, 0, 0]]), torch.tensor([3, 2])
    padded_elsewise = torch.tensor([[1, 2, 3, 7], [4, 5, 8, 9]])
    assert network.loss(items, lengths).item() == pytest.approx(
        network.loss(padded_elsewise, lengths).item(), abs=1e-6
    )


@pytest.mark.parametrize("measured", [False, True])
@every_model
def test_a_training_that_diverges_says_where_and_what_to_lower(name, measured, cycle, cycle_hits):
    # 60 sequences in batches of 20: after one or two steps of this size, weights are no longer numbers.
    recommender = MODELS[name](learning_rate=1e30, max_epochs=3)
    message = rf"{name} diverged at step [1-4] \(epoch [12]\): .*lower method.item_vectors.learning_rate \(now 1e\+30\)"
    with pytest.raises(UserError, match=message):
        recommender.fit(
            cycle(
                section="method.item_vectors", measure=(lambda: cycle_hits(recommender)) if measured else None
            )
        )


@every_model
def test_weights_that_are_lost_in_the_last_step_are_no_result(name, cycle, items):
    recommender = MODELS[name](learning_rate=1e30, batch_size=60, max_epochs=1)
    recommender.fit(cycle())
    for result in (lambda: recommender.scores(items([3, 1]), items([0, 2])), recommender.item_vectors):
        with pytest.raises(UserError, match=rf"{name} diverged at step \d \(epoch 1\): its weights give no"):
            result()


def test_sequences_of_one_item_teach_nothing_and_are_refused(make_inputs):
    with pytest.raises(UserError, match="no training sequence has two items"):
        MODELS["sasrec"]().fit(make_inputs([[1], [2]], 3))


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden_size": 5},
        {"num_heads": 0},
        {"dropout": 1.0},
        {"max_length": 0},
        {"patience": 0},
        {"every": 0},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["sasrec", "bert4rec", "sasrec_text"])
def test_settings_out_of_range_are_refused(name, settings):
    with pytest.raises(UserError, match=f"{next(iter(settings))}={next(iter(settings.values()))}"):
        MODELS[name](**settings)


@pytest.mark.parametrize("settings", [{"state_size": 0}, {"dropout": -0.1}, {"batch_size": 0}], ids=str)
def test_gru4rec_refuses(settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        Gru4Rec(**settings)
