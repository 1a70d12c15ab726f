"""Operations on the library of experience, and its file."""

from __future__ import annotations

import pytest

from mllmrec.errors import UserError
from mllmrec.experience.library import Experience, Library, Operation


def test_operations_add_modify_delete_and_keep():
    library = Library(
        [Experience("a", "old", 1.0), Experience("b", "gone", 3.0), Experience("c", "same", 2.0)]
    )
    counts = library.apply(
        [
            Operation("add", "d", "new", 5.0),
            Operation("modify", "a", "better", 4.0),
            Operation("delete", "b"),
            Operation("keep", "c", support=2.5),
            Operation("modify", "nowhere", "lost"),
        ]
    )
    assert counts == {"add": 1, "modify": 1, "delete": 1, "keep": 1}
    assert library.texts == ("new", "better", "same")  # by support: 5, 4, 2.5


def test_the_least_supported_are_dropped_until_the_rest_fits():
    library = Library(
        Experience(name, name * 4, support)
        for name, support in zip("abcd", (1.0, 4.0, 3.0, 2.0), strict=True)
    )
    # Four at once would be allowed by length, and three by number; two have eight letters.
    assert library.trim(3, lambda texts: sum(map(len, texts)) <= 8) == 2
    assert library.texts == ("bbbb", "cccc")
    assert library.trim(3, lambda texts: False) == 2
    assert len(library) == 0


def test_a_library_is_read_as_it_was_written_and_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "experience" / "first.json"
    Library([Experience("a", "red", 0.5), Experience("b", "blue", 1.5)]).write(path)
    assert [(one.key, one.text, one.support) for one in Library.read(path)] == [
        ("b", "blue", 1.5),
        ("a", "red", 0.5),
    ]
    path.write_text('{"experiences": [{"key": "a"}]}')
    with pytest.raises(UserError, match=r"first\.json holds no experiences .* put a copy in its place"):
        Library.read(path)
