from __future__ import annotations

import numpy as np
import pytest
from hydra.utils import instantiate

from mllmrec.baselines.sasrec_text import SasRecText
from mllmrec.config import CONFIG_DIR
from mllmrec.config.compose import compose_checked
from mllmrec.errors import UserError
from mllmrec.text_encoders.sentence import SentenceEncoder
from mllmrec.text_encoders.tfidf import Tfidf

SMALL = {"hidden_size": 16, "num_layers": 1, "feedforward_size": 32, "max_epochs": 1}


def test_items_with_similar_texts_score_alike_where_nothing_else_is_known(make_inputs, items):
    # Items 2 and 3 occur nowhere. Item 2 is worded like item 1, which follows item 0.
    texts = ["lamp red", "chair blue wood", "chair blue wood", "rug silk"]
    recommender = SasRecText(Tfidf(3), **{**SMALL, "max_epochs": 40}, learning_rate=0.01, dropout=0.0)
    recommender.fit(make_inputs([[0, 1]] * 8 + [[1, 0]] * 8, 4, texts=texts))
    (scores,) = recommender.scores(items([0]), items(range(4)))
    assert scores[2] > scores[3] + 1


def test_an_encoder_serves_the_recommender_and_is_not_needed_afterwards(
    cycle, sentence_folder, items, tmp_path
):
    recommender = SasRecText(SentenceEncoder(str(sentence_folder)), **SMALL)
    recommender.fit(cycle())
    assert recommender.network.items.features.shape == (12, 16)
    recommender.save(tmp_path / "saved")
    loaded = SasRecText(SentenceEncoder("no/longer/there"), **SMALL)
    loaded.load(tmp_path / "saved", 12)
    asked = items([1, 2]), items(range(12))
    assert loaded.scores(*asked)[0].tolist() == recommender.scores(*asked)[0].tolist()


def test_words_are_counted_unless_an_encoder_is_chosen(cycle):
    expected = Tfidf(256).encode(cycle().texts, seed=0)
    config = compose_checked("train", ["method=sasrec_text"], CONFIG_DIR).config
    for recommender in (SasRecText(), instantiate(config.method.recommender)):
        assert np.array_equal(recommender.features(cycle()), expected)


def test_a_path_in_the_place_of_an_encoder_is_refused_with_the_way_out():
    with pytest.raises(
        UserError, match=r"encoder=minilm is no encoder .* text_encoder=sentence text_encoder.path"
    ):
        SasRecText("minilm")
