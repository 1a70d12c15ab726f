from __future__ import annotations

import numpy as np
import pytest

from mllmrec.data.base import TEST, TRAIN
from mllmrec.data.microlens import MicroLens
from mllmrec.data.movielens import MovieLens
from mllmrec.data.netflix import Netflix
from mllmrec.data.released import read_titles
from mllmrec.data.sequences import read_sequences
from mllmrec.errors import UserError


@pytest.fixture
def root(tmp_path, picture):
    folder = tmp_path / "netflix"
    (folder / "images").mkdir(parents=True)
    # users u1 (short) and u3; line 2 is blank; u1 is in both files
    (folder / "train.tsv").write_text("u1\t10\n\nu3\t20 10 30\n", encoding="utf-8")
    (folder / "test.tsv").write_text("u3\t30 20\nu4\t10\n", encoding="utf-8")
    (folder / "netflix_titles.csv").write_text(
        'item,title\n10,"One, Two"\n20,Second\n30,Third\n40,Never\n', encoding="utf-8"
    )
    (folder / "images" / "20.jpg").write_bytes(picture("red", "JPEG"))
    return folder


def test_both_splits_with_one_code_per_user_and_file(root):
    data = Netflix(str(root)).load()
    rows = data.interactions
    assert rows.user_ids.tolist() == ["u1", "u3", "u3", "u4"]
    assert rows.users.tolist() == [0, 1, 1, 1, 2, 2, 3]
    assert data.items.ids[rows.items].tolist() == ["10", "20", "10", "30", "30", "20", "10"]
    assert rows.split.tolist() == [TRAIN] * 4 + [TEST] * 3
    assert data.items.titles.tolist() == ["One, Two", "Second", "Third", "Never"]
    assert list(data.items.images) == ["20"]


@pytest.mark.parametrize("loader", [lambda root: MovieLens(root, "unused"), MicroLens, Netflix])
def test_all_three_datasets_read_the_layout(root, loader):
    assert len(loader(str(root)).load().interactions.items) == 7


def test_blank_lines_and_short_users_shift_nobody(root):
    sequences, codes = read_sequences(root / "train.tsv")
    # the released code counted kept users instead of lines, so u3 (line 3) got another user's reasoning
    assert dict(zip(sequences.user_ids, sequences.lines.tolist(), strict=True)) == {"u1": 1, "u3": 3}
    assert np.array(list(codes))[sequences.items[sequences.users == 1]].tolist() == ["20", "10", "30"]


def test_unknown_item_names_line_and_id(root):
    (root / "test.tsv").write_text("\nu3\t30 99\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"test\.tsv:2: item 99 of user u3"):
        Netflix(str(root)).load()


def test_user_on_two_lines(root):
    (root / "train.tsv").write_text("u1\t10\n\nu2\t20\nu1\t30\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"train\.tsv:4: user u1 is already on line 1"):
        Netflix(str(root)).load()


def test_line_without_tab_and_empty_file(root):
    (root / "train.tsv").write_text("u1 10 20\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"train\.tsv:1: expected user"):
        Netflix(str(root)).load()
    (root / "train.tsv").write_text("\n\n", encoding="utf-8")
    with pytest.raises(UserError, match="has no interactions"):
        Netflix(str(root)).load()


def test_missing_files_are_all_named(tmp_path):
    with pytest.raises(UserError, match=r"train\.tsv.*test\.tsv.*_titles\.csv"):
        Netflix(str(tmp_path)).load()
    with pytest.raises(UserError, match=r"dataset\.root is not set"):
        Netflix(None).load()


def test_titles_with_and_without_header(tmp_path):
    file = tmp_path / "x_titles.csv"
    file.write_text('1,Tea, and "more"\n\n2,"Quoted, too"\n', encoding="utf-8")
    assert read_titles(file) == {"1": 'Tea, and "more"', "2": "Quoted, too"}
    file.write_text("item,title\n1,Tea, and more\n2,\n", encoding="utf-8")
    assert read_titles(file) == {"1": "Tea, and more", "2": ""}
    file.write_text("asin_code,Title\n1,Tea\n", encoding="utf-8")
    assert read_titles(file) == {"1": "Tea"}
    file.write_text("item,title,year\n1,Tea,1999\n", encoding="utf-8")
    assert read_titles(file) == {"1": "Tea"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("item,title\n1,a\n\n1,b\n", r":4: item 1 is already on line 2"),
        ("item,title\n1\n", r":2: 1 fields where the header has 2"),
        ("1,a\n2\n", r":2: expected item,title"),
        ("item,title\n,a\n", r":2: no item id"),
        ('item,title\n1,"a\n2,b\n', r":2: .*quotation mark"),
        ("item,title\n", "has no items"),
    ],
)
def test_bad_titles(tmp_path, content, message):
    file = tmp_path / "x_titles.csv"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_titles(file)


def test_a_title_of_any_length_is_read(root):
    (root / "netflix_titles.csv").write_text(
        f'item,title\n10,"One, {"x" * 200_000}"\n20,b\n30,c\n', encoding="utf-8"
    )
    assert len(read_titles(root / "netflix_titles.csv")["10"]) == 200_005
