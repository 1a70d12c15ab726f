from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mllmrec.text_encoders import described
from mllmrec.text_encoders.base import TextEncoder
from mllmrec.text_encoders.described import DescribedItems, text_vectors
from mllmrec.text_encoders.tfidf import Tfidf


class Counted(TextEncoder):
    """Lengths of texts, with a 1 beside; counts how often it encodes."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale, self.calls = scale, 0

    def encode(self, texts, seed=0):
        self.calls += 1
        return np.array([[self.scale * len(text), 1.0] for text in texts], dtype=np.float32)

    def identity(self):
        return {"scale": self.scale}


def test_texts_are_encoded_once(tmp_path):
    encoder = Counted()
    first = text_vectors(encoder, ["a", "bcd"], 0, tmp_path)
    again = text_vectors(encoder, ["a", "bcd"], 0, tmp_path)
    assert first.tolist() == again.tolist() == [[1, 1], [3, 1]]
    assert again.dtype == np.float32
    assert encoder.calls == 1


@pytest.mark.parametrize(
    ("encoder", "texts", "seed"),
    [
        (Counted(2.0), ["a", "bcd"], 0),
        (Counted(), ["a", "bce"], 0),
        (Counted(), ["ab", "cd"], 0),  # the same letters in other texts
        (Counted(), ["bcd", "a"], 0),
        (Counted(), ["a", "bcd"], 1),
    ],
)
def test_anything_else_is_encoded_anew(tmp_path, encoder, texts, seed):
    text_vectors(Counted(), ["a", "bcd"], 0, tmp_path)
    found = text_vectors(encoder, texts, seed, tmp_path)
    assert found[:, 0].tolist() == [encoder.scale * len(text) for text in texts]
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2


def test_damaged_vectors_are_made_again(tmp_path, caplog):
    encoder = Counted()
    text_vectors(encoder, ["a", "bcd"], 0, tmp_path)
    (kept,) = tmp_path.rglob("*.safetensors")
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-3])
    assert text_vectors(encoder, ["a", "bcd"], 0, tmp_path).tolist() == [[1, 1], [3, 1]]
    assert "encoded again" in caplog.text
    assert kept.read_bytes() == whole


def test_vectors_under_the_name_of_others_are_not_taken(tmp_path, caplog):
    text_vectors(Counted(), ["a", "bcd"], 0, tmp_path)
    (kept,) = tmp_path.rglob("*.safetensors")
    text_vectors(Counted(2.0), ["a", "bcd"], 0, tmp_path)
    (other,) = set(tmp_path.rglob("*.safetensors")) - {kept}
    kept.replace(other)
    assert text_vectors(Counted(2.0), ["a", "bcd"], 0, tmp_path).tolist() == [[2, 1], [6, 1]]
    assert "made from something else" in caplog.text


def test_a_writer_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def half(arrays, path, metadata):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(described, "save_file", half)
    with pytest.raises(KeyboardInterrupt):
        text_vectors(Counted(), ["a"], 0, tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_word_counts_are_not_kept(tmp_path):
    items = DescribedItems(["1", "2"], ["red lamp", "blue chair"], 0, tmp_path)
    assert np.array_equal(items.vectors(Tfidf(2)), Tfidf(2).encode(items.texts, 0))
    assert list(tmp_path.iterdir()) == []
