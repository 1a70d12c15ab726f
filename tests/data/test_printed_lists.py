from __future__ import annotations

import pytest

from mllmrec.data.printed_lists import printed_list


@pytest.mark.parametrize(
    ("text", "elements"),
    [
        ("[3112]", ["3112"]),
        ("[3437, 642, 642]", ["3437", "642", "642"]),
        ("[]", []),
        ("", []),
        ("['a', \"b's\", 'c, d']", ["a", "b's", "c, d"]),
        # numpy prints no commas; Python would read these two strings as one.
        ("['a' 'b'\n 'c']", ["a", "b", "c"]),
        ("[1 2 3]", ["1", "2", "3"]),
        ("[1. 2.]", ["1", "2"]),
        ("[np.int64(7), np.str_('x')]", ["7", "x"]),
        ("1 2 3", ["1", "2", "3"]),
        ("1,2, 3", ["1", "2", "3"]),
        ("[1.0, 2.5]", ["1", "2.5"]),
        ("['1.0']", ["1.0"]),
        (r"['it\'s', 'é\\']", ["it's", "é\\"]),
        ('["caf\\u00e9", "a\\"b"]', ["café", 'a"b']),
        ("[B00-X, B01.Y]", ["B00-X", "B01.Y"]),
    ],
)
def test_lists_as_programs_print_them(text, elements):
    assert printed_list(text) == elements


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, [2]]", r"not a list at '\[2\]'"),
        ("[1, 2", r"not a list at '\[1, 2'"),
        ("['a'b]", "not a list at 'b'"),
        ("[1 2 ... 8 9]", "cut short"),
        ("['a, 'b']", "not a list"),
        ("{1: 2}", "not a list"),
        ("[__import__('os')]", "not a list"),
        (r"['\x']", "holds '"),
    ],
)
def test_what_is_no_list(text, message):
    with pytest.raises(ValueError, match=message):
        printed_list(text)
