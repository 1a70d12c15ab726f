from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from mllmrec.baselines.sasrec_text import SasRecText
from mllmrec.baselines.text_features import sentence_features, word_features
from mllmrec.errors import UserError
from mllmrec.models.tokenizer import train_tokenizer

TEXTS = ["red lamp", "lamp red", "blue chair", "chair blue wood", ""]
SMALL = {"hidden_size": 16, "num_layers": 1, "feedforward_size": 32, "max_epochs": 1}


@pytest.fixture
def encoder(tmp_path) -> str:
    """A folder with a small random BERT."""
    tokenizer = train_tokenizer(TEXTS * 3, [], 300)
    tokenizer.save_pretrained(tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertModel(
            BertConfig(
                vocab_size=len(tokenizer),
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=300,
            )
        )
    model.save_pretrained(tmp_path)
    return str(tmp_path)


def test_texts_with_the_same_words_have_the_same_vector():
    features = word_features(TEXTS, 3, seed=0)
    assert features.shape == (5, 3)
    assert features.dtype == np.float32
    # Four texts have words and vectors of length 1; the empty text's vector is 0.
    assert np.linalg.norm(features, axis=1) == pytest.approx([1, 1, 1, 1, 0], abs=1e-6)
    cosines = features @ features.T
    assert cosines[0, 1] == pytest.approx(1)
    assert cosines[0, 2] == pytest.approx(0, abs=1e-6)
    assert cosines[2, 3] > 0.5


def test_there_are_no_more_numbers_than_words():
    assert word_features(TEXTS, 100, seed=0).shape == (5, 5)


def test_texts_without_words_are_refused():
    with pytest.raises(UserError, match="no words"):
        word_features(["", "!"], 4, seed=0)


def test_a_text_is_the_mean_over_its_tokens_whatever_the_batch(encoder):
    texts = [*TEXTS[:4], "a much longer text about a lamp and a chair"]
    features = sentence_features(texts, encoder)
    assert features.shape == (5, 16)
    for row, text in zip(features, texts, strict=True):
        (alone,) = sentence_features([text], encoder)
        assert row == pytest.approx(alone, abs=1e-5)
    from transformers import AutoModel, AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(encoder)(texts[0], return_tensors="pt")
    with torch.no_grad():
        mean = AutoModel.from_pretrained(encoder)(**tokens).last_hidden_state[0].mean(0).numpy()
    assert features[0] == pytest.approx(mean / np.linalg.norm(mean), abs=1e-5)


def test_an_encoder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"encoder=.*nowhere cannot be loaded"):
        sentence_features(["a"], str(tmp_path / "nowhere"))


def test_items_with_similar_texts_score_alike_where_nothing_else_is_known(make_inputs, items):
    # Items 2 and 3 occur nowhere. Item 2 is worded like item 1, which follows item 0.
    texts = ["lamp red", "chair blue wood", "chair blue wood", "rug silk"]
    recommender = SasRecText(**{**SMALL, "max_epochs": 40}, learning_rate=0.01, text_size=3, dropout=0.0)
    recommender.fit(make_inputs([[0, 1]] * 8 + [[1, 0]] * 8, 4, texts=texts))
    (scores,) = recommender.scores(items([0]), items(range(4)))
    assert scores[2] > scores[3] + 1


def test_an_encoder_serves_the_recommender_and_is_not_needed_afterwards(cycle, encoder, items, tmp_path):
    recommender = SasRecText(**SMALL, encoder=encoder)
    recommender.fit(cycle())
    assert recommender.network.items.features.shape == (12, 16)
    recommender.save(tmp_path / "saved")
    loaded = SasRecText(**SMALL, encoder="no/longer/there")
    loaded.load(tmp_path / "saved", 12)
    asked = items([1, 2]), items(range(12))
    assert loaded.scores(*asked)[0].tolist() == recommender.scores(*asked)[0].tolist()
