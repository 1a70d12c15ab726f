from __future__ import annotations

import signal
import time

import pytest
import requests

import mllmrec.data.download
from mllmrec.data.download import download, download_images, http_session
from mllmrec.errors import UserError
from mllmrec.stopping import Stopped


def test_broken_transfer_is_continued_where_it_stopped(site, tmp_path):
    content = bytes(range(256)) * 4096  # 1 MiB; only half arrives at first
    site.files["/data.gz"] = content
    site.cut.add("/data.gz")
    target = tmp_path / "below" / "data.gz"
    with pytest.raises(UserError, match=r"cannot download http.*put it at .*data\.gz"):
        download(site.address + "/data.gz", target)
    assert not target.exists()
    assert target.with_name("data.gz.part").stat().st_size == 2**19
    site.cut.clear()
    download(site.address + "/data.gz", target)
    assert target.read_bytes() == content
    assert site.requests[-1] == ("/data.gz", "bytes=524288-")
    assert not target.with_name("data.gz.part").exists()
    asked = len(site.requests)
    download(site.address + "/data.gz", target)
    assert len(site.requests) == asked


def test_part_that_is_already_whole_is_taken(site, tmp_path):
    site.files["/a"] = b"12345"
    (tmp_path / "a.part").write_bytes(b"12345")
    assert download(site.address + "/a", tmp_path / "a").read_bytes() == b"12345"


def test_part_that_does_not_fit_is_not_taken_for_whole(site, tmp_path):
    site.files["/a"] = b"12345"
    (tmp_path / "a.part").write_bytes(b"1234567")
    with pytest.raises(UserError, match="did not fit"):
        download(site.address + "/a", tmp_path / "a")
    assert download(site.address + "/a", tmp_path / "a").read_bytes() == b"12345"


def test_no_server_and_no_file(site, tmp_path):
    with pytest.raises(UserError, match="404"):
        download(site.address + "/none", tmp_path / "none")
    site.server.server_close()
    with pytest.raises(UserError, match="fetch the file by hand"):
        download("http://127.0.0.1:9/none", tmp_path / "none")
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []


def test_images_good_missing_truncated_and_none(site, tmp_path, picture):
    site.files |= {
        "/1.jpg": picture("red", "JPEG"),
        "/3": picture("blue", "WEBP"),
        "/4": b"<html>",
        "/5": picture("red"),
    }
    site.cut.add("/5")
    urls = {
        item: f"{site.address}/{name}"
        for item, name in [("1", "1.jpg"), ("2", "2"), ("3", "3"), ("4", "4"), ("5", "5")]
    }
    urls |= {"../6": f"{site.address}/3", "7": "no url"}
    counts = download_images(urls, tmp_path, workers=3)
    # 2 is a 404, 4 is not an image, 7 is not a URL, 5 arrived in half, ../6 is not a file name
    assert counts == {
        "images refused by the server or not an image": 3,
        "images lost in transfer (tried again at the next start)": 1,
        "images of items whose id is no file name": 1,
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.jpg", "3.webp", "failed.jsonl"]

    site.cut.clear()
    asked = len(site.requests)
    again = download_images(urls, tmp_path, workers=3)
    assert site.requests[asked:] == [("/5", None)]
    assert again["images refused by the server or not an image"] == 3
    assert (tmp_path / "5.png").read_bytes() == picture("red")


def test_a_broken_image_on_disk_is_fetched_again(site, tmp_path, picture, caplog):
    site.files |= {"/1": picture("red"), "/2": picture("blue")}
    urls = {item: f"{site.address}/{item}" for item in ("1", "2")}
    (tmp_path / "1.png").write_bytes(picture("red")[:60])
    (tmp_path / "2.png").write_bytes(picture("green"))
    assert download_images(urls, tmp_path) == {}
    assert site.requests == [("/1", None)]
    assert (tmp_path / "1.png").read_bytes() == picture("red")
    assert "1 broken images in" in caplog.text
    assert "such as 1.png" in caplog.text


def test_an_image_without_end_is_refused(site, tmp_path, picture, monkeypatch):
    monkeypatch.setattr(mllmrec.data.download, "LARGEST_IMAGE", 1000)
    site.files |= {"/1": picture("red") + bytes(1000), "/2": picture("blue")}
    counts = download_images({item: f"{site.address}/{item}" for item in ("1", "2")}, tmp_path)
    assert counts == {"images refused by the server or not an image": 1}
    assert "larger than 1000 bytes" in (tmp_path / "failed.jsonl").read_text(encoding="utf-8")
    assert not list(tmp_path.glob("1.*"))


def test_line_of_failures_cut_short_costs_one_try(site, tmp_path, picture):
    site.files["/1"] = picture("red")
    (tmp_path / "failed.jsonl").write_text('{"url": "' + site.address, encoding="utf-8")
    assert download_images({"1": site.address + "/1"}, tmp_path) == {}
    assert (tmp_path / "1.png").is_file()


def test_a_missing_network_is_reported_after_a_few_images(tmp_path, monkeypatch):
    monkeypatch.setattr(mllmrec.data.download, "UNREACHABLE_LIMIT", 2)
    with pytest.raises(UserError, match=r"none of the first 2 item images.*dataset\.download_images=false"):
        download_images({str(item): "http://127.0.0.1:9/x" for item in range(3)}, tmp_path, workers=3)
    assert (tmp_path / "failed.jsonl").read_text(encoding="utf-8") == ""


def test_a_stop_does_not_wait_for_the_rest_of_the_images(tmp_path, monkeypatch):
    asked = []

    def fetch(session, url, folder, item):
        asked.append(item)
        time.sleep(0.01)

    def stopped(jobs, *arguments, **settings):
        yield next(iter(jobs))
        raise Stopped(signal.SIGTERM)

    monkeypatch.setattr(mllmrec.data.download, "_fetch_image", fetch)
    monkeypatch.setattr(mllmrec.data.download, "track", stopped)
    with pytest.raises(Stopped):
        download_images({str(item): "http://127.0.0.1:9/x" for item in range(400)}, tmp_path, workers=2)
    assert len(asked) < 200


def test_a_file_that_was_exchanged_is_not_taken(site, tmp_path):
    site.files["/a"] = b"hello"
    published = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"  # of hello
    assert download(site.address + "/a", tmp_path / "a", published).read_bytes() == b"hello"
    site.files["/a"] = b"hullo"
    with pytest.raises(
        UserError, match=rf"sent another file than was published .*{published}.*put it at .*b"
    ):
        download(site.address + "/a", tmp_path / "b", published)
    assert {path.name for path in tmp_path.iterdir()} <= {"a", "a.lock", "b.lock"}


def test_an_encrypted_address_does_not_lead_to_a_plain_one():
    answer = requests.Response()
    answer.status_code, answer.headers["Location"] = 302, "http://elsewhere.example/a"
    answer.url = "https://files.example/a"
    with pytest.raises(requests.RequestException, match=r"files\.example/a leads to http://.*not encrypted"):
        http_session().get_redirect_target(answer)
    answer.url = "http://files.example/a"
    assert http_session().get_redirect_target(answer) == "http://elsewhere.example/a"
