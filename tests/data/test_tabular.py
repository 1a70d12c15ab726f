from __future__ import annotations

import gzip

import pyarrow.csv
import pyarrow.parquet
import pytest

from mllmrec.data.tabular import Tabular
from mllmrec.errors import UserError

INTERACTIONS = "user_id,item_id,timestamp,stars\nb,2,30,4.5\na,1,10,1\nb,1,20,2\n"
ITEMS = "item_id,title,brand,kind,photo\n1,Red  shoe,Acme,,pics/one.png\n2,Hat,,Wool,../hat.png\n"


@pytest.fixture
def files(tmp_path):
    (tmp_path / "interactions.csv").write_text(INTERACTIONS, encoding="utf-8")
    (tmp_path / "items.csv").write_text(ITEMS, encoding="utf-8")
    return tmp_path


def load(folder, interactions="interactions.csv", items="items.csv", **settings):
    files = {"interactions": str(folder / interactions), "items": str(folder / items)}
    return Tabular(**files, **settings).load()


def convert(folder, kind):
    """Write both tables of the fixture in another format and return their names."""
    names = []
    for name in ("interactions", "items"):
        table = pyarrow.csv.read_csv(folder / f"{name}.csv")
        target = folder / f"{name}.{kind}"
        if kind == "parquet":
            pyarrow.parquet.write_table(table, target)
        elif kind == "jsonl":
            target.write_text(table.to_pandas().to_json(orient="records", lines=True), encoding="utf-8")
        elif kind == "tsv":
            target.write_text(
                (folder / f"{name}.csv").read_text(encoding="utf-8").replace(",", "\t"), encoding="utf-8"
            )
        else:
            target.write_bytes(gzip.compress((folder / f"{name}.csv").read_bytes()))
        names.append(target.name)
    return names


@pytest.mark.parametrize("kind", ["tsv", "parquet", "jsonl", "csv.gz"])
def test_every_format_says_the_same(files, kind):
    settings = {"rating_column": "stars", "details_columns": ["brand", "kind"]}
    for data in (load(files, **settings), load(files, *convert(files, kind), **settings)):
        assert data.interactions.user_ids.tolist() == ["b", "a"]
        assert data.interactions.users.tolist() == [0, 1, 0]
        assert data.interactions.items.tolist() == [1, 0, 0]
        assert data.interactions.timestamps.tolist() == [30, 10, 20]
        assert data.interactions.ratings.tolist() == [4.5, 1.0, 2.0]
        assert data.items.ids.tolist() == ["1", "2"]
        assert data.items.titles.tolist() == ["Red shoe", "Hat"]
        assert data.items.details.tolist() == ["Acme", "Wool"]


def test_unknown_items(files):
    (files / "interactions.csv").write_text(INTERACTIONS + "\nc,9,1,1\nc,8,1,1\n", encoding="utf-8")
    # header 1, rows 2-4, blank 5, so item 9 is on line 6
    with pytest.raises(
        UserError,
        match=r"2 interactions with items .*9 \(.*interactions\.csv:6\), 8 \(.*:7\).*unknown_items=drop",
    ):
        load(files)
    data = load(files, unknown_items="drop")
    assert len(data.interactions.items) == 3
    assert data.skipped == {"interactions with unknown items": 2}
    with pytest.raises(UserError, match="use drop or error"):
        load(files, unknown_items="ignore")


@pytest.mark.parametrize(
    ("here", "there"),
    [("cafe\u0301", "caf\u00e9"), ("1.0", "1"), ("007", "7"), ("b00x", "B00X"), ("\uff11", "1")],
)
def test_ids_that_are_written_in_two_ways(files, here, there):
    (files / "interactions.csv").write_text(f"user_id,item_id,timestamp\na,{here},1\n", encoding="utf-8")
    (files / "items.csv").write_text(f"item_id,title\n{there},Hat\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load(files)
    # Escaped, since the two may look alike.
    assert f"{here!a} may mean {there!a}" in str(caught.value)


def test_duplicate_item_ids(files):
    (files / "items.csv").write_text("item_id,title\n1,a\n\n2,b\n1,c\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"1 repeated item ids: 1 \(.*items\.csv:2 and .*items\.csv:5\)"):
        load(files)


def test_wrong_column_time_and_empty_id(files):
    with pytest.raises(UserError, match=r"no column when: it has user_id, item_id, timestamp, stars"):
        load(files, time_column="when")
    (files / "interactions.csv").write_text("user_id,item_id,timestamp\na,1,yesterday\n", encoding="utf-8")
    with pytest.raises(
        UserError, match=r"interactions\.csv:2: column timestamp: 'yesterday' is not a number"
    ):
        load(files)
    assert load(files, time_column=None).interactions.timestamps is None
    (files / "interactions.csv").write_text("user_id,item_id,timestamp\na,1,1\n ,1,2\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"interactions\.csv:3: column user_id: ' ' is empty"):
        load(files)


def test_missing_files_and_unknown_kind(files):
    with pytest.raises(UserError, match=r"not both set"):
        Tabular().load()
    with pytest.raises(UserError, match=r"missing files .*x\.csv, .*y\.csv"):
        load(files, "x.csv", "y.csv")
    (files / "items.xlsx").write_bytes(b"")
    with pytest.raises(UserError, match=r"items\.xlsx: unknown kind of table"):
        load(files, items="items.xlsx")


def test_images_by_id_or_by_column(files, picture):
    (files / "images" / "pics").mkdir(parents=True)
    (files / "images" / "2.png").write_bytes(picture("red"))
    (files / "images" / "1.png").write_bytes(b"broken")
    (files / "images" / "pics" / "one.png").write_bytes(picture("blue"))
    data = load(files, images=str(files / "images"))
    assert list(data.items.images) == ["2"]
    assert data.skipped == {"unreadable images": 1}
    with pytest.raises(UserError, match=r"items\.csv:3: image '\.\./hat\.png' lies outside"):
        load(files, images=str(files / "images"), image_column="photo")
    (files / "items.csv").write_text(ITEMS.replace("../hat.png", ""), encoding="utf-8")
    data = load(files, images=str(files / "images"), image_column="photo")
    assert data.items.images == {"1": files / "images" / "pics" / "one.png"}
    with pytest.raises(UserError, match=r"dataset\.images is not"):
        load(files, image_column="photo")


def test_a_column_of_images_that_are_not_there(files, picture, caplog):
    (files / "images").mkdir()
    (files / "items.csv").write_text(ITEMS.replace("../hat.png", "hat.png"), encoding="utf-8")
    with pytest.raises(
        UserError, match=r"none of the 2 images that column photo names is in .*: pics/one\.png, hat\.png"
    ):
        load(files, images=str(files / "images"), image_column="photo")
    (files / "images" / "hat.png").write_bytes(picture("red"))
    data = load(files, images=str(files / "images"), image_column="photo")
    assert list(data.items.images) == ["2"]
    assert data.skipped == {"images that are not there": 1}
