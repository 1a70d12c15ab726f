from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from mllmrec.errors import UserError
from mllmrec.randomness import derive_seed
from mllmrec.text_encoders.tfidf import Tfidf

TEXTS = ["red lamp", "lamp red", "blue chair", "chair blue wood", ""]


def test_texts_with_the_same_words_have_the_same_vector():
    vectors = Tfidf(3).encode(TEXTS)
    assert vectors.shape == (5, 3)
    assert vectors.dtype == np.float32
    # Four texts have words and vectors of length 1; the empty text's vector is 0.
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1, 1, 0], abs=1e-6)
    cosines = vectors @ vectors.T
    assert cosines[0, 1] == pytest.approx(1)
    assert cosines[0, 2] == pytest.approx(0, abs=1e-6)
    assert cosines[2, 3] > 0.5


@pytest.mark.parametrize("seed", [0, 3])
def test_the_numbers_are_those_of_every_earlier_version(seed):
    # Shared recommenders and published tables rest on them, to the last bit.
    texts = [f"word{item} thing{item % 3} of {item % 5} parts" for item in range(40)]
    weights = TfidfVectorizer(sublinear_tf=True).fit_transform(texts)
    rows = TruncatedSVD(8, random_state=derive_seed(seed, "text features") % 2**32).fit_transform(weights)
    expected = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    assert np.array_equal(Tfidf(8).encode(texts, seed), expected)


def test_there_are_no_more_numbers_than_words():
    assert Tfidf(100).encode(TEXTS).shape == (5, 5)


def test_texts_without_words_are_refused():
    with pytest.raises(UserError, match="no words"):
        Tfidf(4).encode(["", "!"])


def test_a_size_of_nothing_is_refused():
    with pytest.raises(UserError, match=r"text_encoder\.size=0 must be above 0"):
        Tfidf(0)
