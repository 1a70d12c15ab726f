from __future__ import annotations

import os

from mllmrec.data.text import input_fingerprint


def test_a_large_file_edited_in_place_has_another_fingerprint(tmp_path):
    # 60 MB, the size and the time of the last change kept: only the content can tell.
    path = tmp_path / "ratings.csv"
    with path.open("wb") as stream:
        stream.truncate(60 * 2**20)
    before, times = input_fingerprint(path), (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    with path.open("r+b") as stream:
        stream.seek(40 * 2**20)
        stream.write(b"1")
    os.utime(path, ns=times)
    assert input_fingerprint(path) != before
