from __future__ import annotations

import pytest

from mllmrec.data.microlens import MicroLens
from mllmrec.errors import UserError


@pytest.fixture
def root(tmp_path, picture):
    (tmp_path / "covers").mkdir()
    (tmp_path / "covers" / "7.jpg").write_bytes(picture("red", "JPEG"))
    (tmp_path / "MicroLens-100k_title_en.csv").write_text(
        "\ufeff7,Cats, and dogs\n8,Soup\n", encoding="utf-8"
    )
    (tmp_path / "MicroLens-100k_pairs.tsv").write_text("5\t7 9\n\n6\t8\n", encoding="utf-8")
    return tmp_path


def test_pairs_with_times_go_before_pairs_without(root):
    data = MicroLens(str(root)).load()
    assert data.interactions.timestamps is None
    assert data.items.ids[data.interactions.items].tolist() == ["7", "9", "8"]
    (root / "MicroLens-100k_pairs.csv").write_text(
        "user,item,timestamp\n6,8,1583378629552\n5,9,3\n5,7,2\n", encoding="utf-8"
    )
    data = MicroLens(str(root)).load()
    assert data.interactions.user_ids[data.interactions.users].tolist() == ["6", "5", "5"]
    assert data.items.ids[data.interactions.items].tolist() == ["8", "9", "7"]
    assert data.interactions.timestamps.tolist() == [1583378629552, 3, 2]
    assert data.items.ids.tolist() == ["7", "8", "9"]
    assert data.items.titles.tolist() == ["Cats, and dogs", "Soup", ""]
    assert list(data.items.images) == ["7"]


def test_csv_name_with_tab_content(root):
    (root / "MicroLens-100k_pairs.tsv").rename(root / "MicroLens-100k_pairs.csv")
    assert MicroLens(str(root)).load().interactions.user_ids.tolist() == ["5", "6"]


def test_missing_files(tmp_path):
    with pytest.raises(UserError, match=r"no \*_pairs\.csv or \*_pairs\.tsv and no \*_titles\.csv"):
        MicroLens(str(tmp_path)).load()
    with pytest.raises(UserError, match=r"dataset\.root is not set"):
        MicroLens(None).load()


def test_csv_without_header(root):
    (root / "MicroLens-100k_pairs.csv").write_text("6,8,15\n", encoding="utf-8")
    with pytest.raises(UserError, match="expected the header user,item,timestamp"):
        MicroLens(str(root)).load()
