from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mllmrec.data.drawing import HUES, PATTERNS, SHAPES
from mllmrec.data.synthetic import BRANDS, CATEGORIES, Synthetic
from mllmrec.errors import UserError

ATTRIBUTES = ("colour", "pattern", "shape")


def _small(cache_dir: Path, **settings: object) -> Synthetic:
    return Synthetic(cache_dir, **{"num_users": 50, "num_items": 40, **settings})  # type: ignore[arg-type]


def _sequences(source: Synthetic) -> list[np.ndarray]:
    """Items of each user; no images are drawn."""
    rows = source._interactions(source._attributes())
    return np.split(rows.items, np.flatnonzero(np.diff(rows.users)) + 1)


def test_users_have_the_lengths_asked_for_and_never_repeat_an_item(tmp_path: Path) -> None:
    sequences = _sequences(_small(tmp_path, min_length=3, max_length=6))
    assert len(sequences) == 50
    assert {len(sequence) for sequence in sequences} == {3, 4, 5, 6}
    assert all(len(np.unique(sequence)) == len(sequence) for sequence in sequences)


def test_the_same_seed_gives_the_same_data_whatever_the_global_generators_say(tmp_path: Path) -> None:
    first = _small(tmp_path / "a").load()
    np.random.seed(7)  # noqa: NPY002
    again, other = _small(tmp_path / "b").load(), _small(tmp_path / "c", seed=1).load()
    np.testing.assert_array_equal(first.interactions.items, again.interactions.items)
    assert first.items.titles.tolist() == again.items.titles.tolist()
    assert all(
        path.read_bytes() == again.items.images[item].read_bytes()
        for item, path in first.items.images.items()
    )
    assert first.items.titles.tolist() != other.items.titles.tolist()


def test_a_user_stays_the_same_when_there_are_more_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mllmrec.data.synthetic.BLOCK", 16)
    few, many = _sequences(_small(tmp_path, num_users=20)), _sequences(_small(tmp_path, num_users=45))
    for sequence, same in zip(few, many, strict=False):
        np.testing.assert_array_equal(sequence, same)


def test_titles_are_unique_and_name_no_attribute(tmp_path: Path) -> None:
    source = _small(tmp_path, num_items=6000)
    titles = source._titles(source._attributes()["category"]).tolist()
    assert len(set(titles)) == 6000
    words = {word.lower() for title in titles for word in title.split()}
    assert not words & {*HUES, *PATTERNS, *SHAPES}
    assert all(title.split()[0] in BRANDS and title.split()[1] in CATEGORIES for title in titles)


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_brand_and_category_tell_nothing_of_an_attribute(tmp_path: Path, attribute: str) -> None:
    source = _small(tmp_path, num_items=6000)
    codes = source._attributes()
    names = [title.split()[:2] for title in source._titles(codes["category"]).tolist()]
    for position, values in ((0, BRANDS), (1, CATEGORIES)):
        rows = np.array([values.index(name[position]) for name in names])
        counts = np.zeros((len(values), codes[attribute].max() + 1))
        np.add.at(counts, (rows, codes[attribute]), 1)
        expected = counts.sum(1, keepdims=True) * counts.sum(0) / counts.sum()
        freedom = (counts.shape[0] - 1) * (counts.shape[1] - 1)
        # Under independence chi² has mean `freedom` and standard deviation sqrt(2 · freedom).
        assert ((counts - expected) ** 2 / expected).sum() < freedom + 4 * np.sqrt(2 * freedom)


def test_images_are_drawn_once_and_only_the_missing_ones_again(tmp_path: Path) -> None:
    source = _small(tmp_path, num_items=20)
    images = source.load().items.images
    folder = images["1"].parent
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{item}.png" for item in range(1, 21))
    assert (folder.parent / "complete.json").is_file()
    with Image.open(images["1"]) as picture:
        assert picture.size == (64, 64)
    kept, drawn = images["1"].stat().st_mtime_ns, images["2"].read_bytes()
    images["2"].unlink()
    source.load()
    assert images["1"].stat().st_mtime_ns == kept
    assert images["2"].read_bytes() == drawn


@pytest.mark.parametrize("damage", ["cut", "empty", "changed", "other"])
def test_a_damaged_image_is_drawn_again(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = _small(tmp_path, num_items=20)
    image = source.load().items.images["2"]
    whole = image.read_bytes()
    if damage == "other":
        Image.new("RGB", (8, 8)).save(image)
    else:
        middle = len(whole) // 2
        changed = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        image.write_bytes({"cut": whole[:-40], "empty": b"", "changed": changed}[damage])
    assert source.load().items.images["2"].read_bytes() == whole
    assert "1 cached image is damaged and drawn again" in caplog.text
    caplog.clear()
    source.load()
    assert caplog.text == ""


def _hit_rate_at_3(scores: np.ndarray) -> float:
    """Mean HR@3 of rows with the target's score in the first column; ties share their places evenly."""
    better = (scores[:, 1:] > scores[:, :1]).sum(1)
    equal = (scores[:, 1:] == scores[:, :1]).sum(1)
    return float(np.clip((3 - better) / (equal + 1), 0, 1).mean())


def _oracle_hit_rates(source: Synthetic) -> dict[str, float]:
    """HR@3 over 1 + 9 uniform candidates, for the last item of 1,500 users. Three rankers: an oracle that sees the
    images, an oracle that sees categories, and co-occurrence counted over all users without their last items."""
    codes = source._attributes()
    sequences = _sequences(source)
    seen = np.zeros((len(sequences), source.num_items), np.float32)
    for user, sequence in enumerate(sequences):
        seen[user, sequence[:-1]] = 1
    together = seen.T @ seen
    np.fill_diagonal(together, 0)
    generator = np.random.default_rng(0)

    def match(name: str, history: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        size = codes[name].max() + 1
        return np.log(np.bincount(codes[name][history], minlength=size) + 0.5)[codes[name][candidates]]

    scores: dict[str, list[np.ndarray]] = {"visual": [], "category": [], "together": []}
    for sequence in sequences[:1500]:
        history = sequence[:-1][-9:]
        others = np.setdiff1d(np.arange(source.num_items), sequence)
        candidates = np.append(sequence[-1], generator.choice(others, 9, replace=False))
        colour, pattern, shape, category = (
            match(name, history, candidates) for name in (*ATTRIBUTES, "category")
        )
        scores["visual"].append(colour + pattern + 0.5 * shape)
        scores["category"].append(category)
        scores["together"].append(together[np.ix_(history, candidates)].sum(0))
    return {name: _hit_rate_at_3(np.array(rows)) for name, rows in scores.items()}


def test_taste_shows_in_the_images_and_hardly_in_the_titles(tmp_path: Path) -> None:
    rates = _oracle_hit_rates(Synthetic(tmp_path))
    assert 0.82 < rates["visual"] < 0.91
    assert rates["category"] < 0.50


def test_on_a_sparse_catalogue_other_users_do_not_replace_the_images(tmp_path: Path) -> None:
    # The docstring of `Synthetic` names these sizes. At the default sizes co-occurrence comes close to the images.
    rates = _oracle_hit_rates(Synthetic(tmp_path, num_users=3000, num_items=2000, temperature=0.42))
    assert rates["visual"] > 0.70
    assert rates["together"] < 0.48


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"num_users": 0}, "num_users=0"),
        ({"min_length": 5, "max_length": 4}, "min_length=5"),
        ({"num_items": 10}, "num_items=10"),
        ({"image_size": 16}, "image_size=16"),
        ({"visual_share": 1.5}, "visual_share=1.5"),
        ({"temperature": 0.0}, "temperature=0.0"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    tmp_path: Path, setting: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        _small(tmp_path, **setting)
