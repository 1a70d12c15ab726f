from __future__ import annotations

import zipfile

import numpy as np
import pytest

from mllmrec.data import movielens
from mllmrec.data.movielens import MovieLens, natural_title
from mllmrec.errors import UserError

RATINGS = "userId,movieId,rating,timestamp\n1,10,4.0,100\n2,20,0.5,50\n1,20,3.5,90\n"
MOVIES = 'movieId,title,genres\n10,"Matrix, The (1999)",Action|Sci-Fi\n20,Unknown (2000),(no genres listed)\n30,Never,Drama\n'


@pytest.mark.parametrize(
    ("raw", "title"),
    [
        ("Matrix, The (1999)", "The Matrix (1999)"),
        ("Good, the Bad and the Ugly, The (1966)", "The Good, the Bad and the Ugly (1966)"),
        ("Postman, The (Postino, Il) (1994)", "The Postman (Il Postino) (1994)"),
        ("Appartement, L' (1996)", "L'Appartement (1996)"),
        ("Bug's Life, A", "A Bug's Life"),
        ("I, Robot (2004)", "I, Robot (2004)"),
        ("Play It Again, Sam (1972)", "Play It Again, Sam (1972)"),
    ],
)
def test_natural_title(raw, title):
    assert natural_title(raw) == title


def test_folder_of_latest_small(tmp_path, picture):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "ratings.csv").write_text(RATINGS, encoding="utf-8")
    (tmp_path / "raw" / "movies.csv").write_text(MOVIES, encoding="utf-8")
    (tmp_path / "posters").mkdir()
    (tmp_path / "posters" / "20.jpg").write_bytes(picture("red", "JPEG"))
    data = MovieLens(str(tmp_path), "unused").load()
    assert data.items.ids.tolist() == ["10", "20", "30"]
    assert data.items.titles.tolist() == ["The Matrix (1999)", "Unknown (2000)", "Never"]
    assert data.items.details.tolist() == ["Action, Sci-Fi", "", "Drama"]
    rows = data.interactions
    assert rows.users.tolist() == [0, 1, 0]
    assert rows.items.tolist() == [0, 1, 1]
    assert rows.timestamps.tolist() == [100, 50, 90]
    assert rows.ratings.tolist() == [4.0, 0.5, 3.5]
    assert data.items.images == {"20": tmp_path / "posters" / "20.jpg"}


def test_archive_is_downloaded_and_unpacked_once(site, tmp_path, monkeypatch):
    source = tmp_path / "source.zip"
    with zipfile.ZipFile(source, "w") as packed:
        packed.writestr("ml-latest-small/ratings.csv", RATINGS)
        packed.writestr("ml-latest-small/movies.csv", MOVIES)
    site.files["/ml-latest-small.zip"] = source.read_bytes()
    monkeypatch.setattr(movielens, "SHA256", dict.fromkeys(movielens.SHA256))  # the archive is made here
    monkeypatch.setattr(movielens, "ARCHIVES", site.address)
    for _ in range(2):
        data = MovieLens(None, str(tmp_path / "cache")).load()
        assert len(data.interactions.items) == 3
    assert len(site.requests) == 1


def test_ml_1m_from_an_archive_in_root(tmp_path):
    with zipfile.ZipFile(tmp_path / "ml-1m.zip", "w") as packed:
        packed.writestr("ml-1m/ratings.dat", "1::10::5::9\n\n2::10::3::8\n")
        packed.writestr("ml-1m/movies.dat", "10::Misérables, Les (1995)::Drama|Musical\n".encode("latin-1"))
    data = MovieLens(str(tmp_path), str(tmp_path / "cache"), variant="ml-1m").load()
    assert data.items.titles.tolist() == ["Les Misérables (1995)"]
    assert data.interactions.ratings.tolist() == [5.0, 3.0]

    folder = tmp_path / "ml-1m"
    folder.mkdir()
    (folder / "ratings.dat").write_text("1::10::5::9\n\n2::11::3::8\n")
    (folder / "movies.dat").write_text("10::A::Drama\n")
    with pytest.raises(UserError, match=r"ratings\.dat:3: movie 11 is not in"):
        MovieLens(str(tmp_path), "unused", variant="ml-1m").load()
    (folder / "ratings.dat").write_text("1::10::5::9\n2::11\n")
    with pytest.raises(UserError, match=r"ratings\.dat:2: expected userId::movieId"):
        MovieLens(str(tmp_path), "unused", variant="ml-1m").load()


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no ratings\.csv and movies\.csv in .*ml-latest-small\.zip"):
        MovieLens(str(tmp_path), "unused").load()
    with pytest.raises(UserError, match="use ml-1m or ml-latest-small"):
        MovieLens(str(tmp_path), "unused", variant="ml-9").load()
    (tmp_path / "ml-1m.zip").write_bytes(b"PK broken")
    with pytest.raises(UserError, match="not the whole archive"):
        MovieLens(str(tmp_path), str(tmp_path / "cache"), variant="ml-1m").load()


def test_shared_posters(shared):
    data = MovieLens(str(shared / "movielens_posters"), "unused").load()
    rows = data.interactions
    assert (len(rows.user_ids), len(np.unique(rows.items)), len(rows.items)) == (610, 9724, 100836)
    assert len(data.items.images) == 600
    assert data.skipped == {}
    assert (data.items.details == "").sum() == 34
    assert data.items.titles[data.items.ids.tolist().index("2571")] == "The Matrix (1999)"


def test_an_archive_that_unpacks_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(movielens, "MOST_UNPACKED", 1000)
    with zipfile.ZipFile(tmp_path / "ml-latest-small.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("ml-latest-small/movies.csv", MOVIES)
        # 69 bytes, and then a hundred lines of 13
        packed.writestr("ml-latest-small/ratings.csv", RATINGS + "1,10,4.0,100\n" * 100)
    with pytest.raises(UserError, match=r"ml-latest-small\.zip: .*ratings\.csv .*1369 bytes.*1000"):
        MovieLens(str(tmp_path), str(tmp_path / "cache")).load()
    assert not list((tmp_path / "cache").rglob("ratings.csv"))


def test_an_archive_with_a_password_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "ml-latest-small.zip", "w") as packed:
        packed.writestr("ml-latest-small/ratings.csv", RATINGS)
        packed.writestr("ml-latest-small/movies.csv", MOVIES)
    content = bytearray((tmp_path / "ml-latest-small.zip").read_bytes())
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # of each file, and in the directory
        place = content.find(mark)
        while place >= 0:
            content[place + flags] |= 1
            place = content.find(mark, place + 1)
    (tmp_path / "ml-latest-small.zip").write_bytes(content)
    with pytest.raises(UserError, match=r"not the whole archive .*encrypted"):
        MovieLens(str(tmp_path), str(tmp_path / "cache")).load()
