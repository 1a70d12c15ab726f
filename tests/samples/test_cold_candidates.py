"""``split=cold_items`` from the data to the candidates, and what counting is worth there."""

from __future__ import annotations

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from mllmrec.baselines.base import FitInputs
from mllmrec.baselines.item_knn import ItemKnn
from mllmrec.baselines.popularity import Popularity
from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.evaluation.metrics import order_by_score
from mllmrec.jobs.main import next_steps
from mllmrec.jobs.recommendation import history_of
from mllmrec.run.folder import RunFolder
from mllmrec.samples.prepare import prepare
from mllmrec.samples.prepared import Prepared


def opened(cache, *overrides: str) -> tuple[DictConfig, Prepared]:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        cfg = compose(
            "train",
            overrides=[
                f"cache_dir={cache}",
                "dataset.num_users=400",
                "dataset.num_items=100",
                "caption=none",
                "cot_policy=none",
                "eval.weighting=uniform",
                *overrides,
            ],
        )
    return cfg, prepare(cfg)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def cold(cache) -> tuple[DictConfig, Prepared]:
    return opened(cache, "split=cold_items", "split.share=0.3")


def scores_of(cfg: DictConfig, prepared: Prepared, recommender) -> list[np.ndarray]:
    """The scores of each test user's candidates."""
    recommender.fit(
        FitInputs(
            prepared.samples["train"].parts(), len(prepared.items), [], seed=0, make_trainer=lambda: None
        )
    )
    examples, positions, _ = prepared.evaluation(cfg.eval)
    histories = [examples.samples.history(position) for position in positions]
    return recommender.scores(histories, [examples.candidates_of(position)[0] for position in positions])


def test_training_never_shows_a_cold_item_and_evaluation_offers_nothing_else(cold):
    cfg, prepared = cold
    codes = prepared.interactions.cold
    assert len(codes) == prepared.summary["cold_items"] == 30
    for draw in ("train", "another"):
        train = prepared.redraw(draw)
        for index in range(len(train)):
            assert not np.isin(train.candidates_of(index)[0], codes).any()
            assert not np.isin(train.samples.history(index), codes).any()
    for split in ("test", "validation"):
        for weighting, num_negatives in (("uniform", 9), ("popularity", 9), ("uniform", "full")):
            settings = cfg.eval.copy()
            settings.split, settings.weighting, settings.num_negatives = split, weighting, num_negatives
            examples, positions, _ = prepared.evaluation(settings)
            assert len(positions) > 50
            for position in positions:
                assert np.isin(examples.candidates_of(position)[0], codes).all()
                assert not np.isin(examples.samples.history(position), codes).any()
    unseen = prepared.summary["samples"]["test"]["targets_unseen_in_training"]
    assert unseen == len(prepared.samples["test"])


def test_what_the_split_took_out_of_a_sequence_is_not_recommended(cold):
    _, prepared = cold
    interactions = prepared.interactions
    place = int(interactions.hidden_users[0])
    hidden = interactions.hidden_items[interactions.hidden_users == place].tolist()
    history, excluded, _ = history_of(prepared, interactions.user_ids[place], None)
    assert history == interactions.of_user(place).tolist()
    assert excluded == {*history, *hidden} > set(history)


def test_the_other_protocol_that_a_run_names_needs_no_hundred_cold_items(cold, tmp_path):
    cfg, prepared = cold
    _, commands = next_steps(RunFolder(tmp_path), prepared, "likelihood")
    settings = OmegaConf.from_dotlist(commands[1][1].split()[4:])
    assert OmegaConf.to_container(settings) == {"eval": {"split": "validation"}}
    # Neither letters nor orders go with a catalogue that no prompt lists.
    check_config(OmegaConf.merge(cfg, settings, {"eval": {"calibrate": "permute"}}))


@pytest.mark.parametrize("recommender", [ItemKnn(), Popularity()])
def test_counting_cannot_tell_cold_candidates_apart(cold, cache, recommender):
    # Equal scores for all candidates of every user: ties are broken at random, so every metric is at chance.
    found = scores_of(*cold, recommender)
    assert max(np.ptp(scores) for scores in found) == 0
    examples, positions, _ = cold[1].evaluation(cold[0].eval)
    columns = [examples.candidates_of(position)[1] for position in positions]
    users = [examples.samples.user_id(position) for position in positions]
    best = order_by_score(np.stack(found), users, seed=0)[:, 0]
    assert len(users) > 200
    assert abs(np.mean(best == columns) - 0.1) < 0.064  # three standard deviations
    warm = scores_of(*opened(cache), recommender)
    assert np.mean([np.ptp(scores) > 0 for scores in warm]) > 0.99


def test_negatives_of_the_whole_catalogue_give_the_target_away(cache):
    # With split.negatives=all, "was in no training sequence" leaves the target and the few cold negatives: 1 + 9 x 0.3.
    cfg, prepared = opened(cache, "split=cold_items", "split.share=0.3", "split.negatives=all")
    left = [np.sum(scores == 0) for scores in scores_of(cfg, prepared, Popularity())]
    assert 2.5 < np.mean(left) < 4.5
