from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mllmrec.cot import CotKey, PrecomputedCot
from mllmrec.errors import UserError


def _record(
    user: object, history: list[object], target: object, reasoning: object, line: int = 0
) -> dict[str, object]:
    return {
        "line_idx": line,
        "user_id": user,
        "history_items": history,
        "target_item": target,
        "reasoning": reasoning,
    }


def _write(path: Path, records: list[dict[str, object]]) -> Path:
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def test_every_kept_sample_receives_its_own_users_reasoning(tmp_path: Path) -> None:
    """Fault 8 of the release: texts were stored by raw line and looked up by position after filtering.

    Of 200 users every fourth, beginning with the first, is too short. 150 samples are kept, and 150 records belong to
    them. If they were joined by position, every sample would get another user's record.
    """
    lines = [
        (f"u{line}", [f"{line}-{step}" for step in range(3 if line % 4 == 0 else 10)]) for line in range(200)
    ]
    records = [
        _record(
            user,
            [{"item_id": item, "title": "t"} for item in items[:-1]],
            {"item_id": items[-1]},
            f"of {user}",
            line,
        )
        for line, (user, items) in enumerate(lines)
        if len(items) == 10
    ]
    policy = PrecomputedCot(_write(tmp_path / "movielens_deepseek_cot.json", records))
    kept = [(user, items) for user, items in lines if len(items) == 10]
    keys = [CotKey(user, tuple(items[:-1]), items[-1]) for user, items in kept]
    assert len(keys) == 150
    assert [policy.reasoning(key) for key in keys] == [f"of {user}" for user, _ in kept]
    assert policy.coverage(keys) == {"matched": 150}


def test_the_order_of_the_file_and_line_idx_do_not_matter(tmp_path: Path) -> None:
    records = [_record(user, [1, 2], 3, f"of {user}", line=9 - user) for user in range(10)]
    forwards = PrecomputedCot(_write(tmp_path / "a.json", records))
    backwards = PrecomputedCot(_write(tmp_path / "b.json", records[::-1]))
    for user in range(10):
        key = CotKey(str(user), ("1", "2"), "3")
        assert forwards.reasoning(key) == backwards.reasoning(key) == f"of {user}"


def test_another_target_or_another_history_finds_nothing(tmp_path: Path) -> None:
    policy = PrecomputedCot(_write(tmp_path / "cot.json", [_record("u", ["1", "2", "3"], "9", "text")]))
    exact, shorter, longer = ("1", "2", "3"), ("2", "3"), ("0", "1", "2", "3")
    assert [policy.reasoning(CotKey("u", history, "9")) for history in (exact, shorter, longer)] == [
        "text"
    ] * 3
    misses = [
        CotKey("u", exact, "8"),
        CotKey("v", exact, "9"),
        CotKey("u", ("1", "3", "2"), "9"),
        CotKey("u", ("1", "2"), "9"),
        CotKey("u", (), "9"),
    ]
    assert [policy.reasoning(key) for key in misses] == [None] * 5
    assert policy.coverage([*misses, CotKey("u", shorter, "9"), CotKey("u", exact, "9")]) == {
        "absent": 2,
        "history_mismatch": 3,
        "longer_history": 1,
        "matched": 1,
    }


def test_reasoning_about_items_that_the_prompt_does_not_show_can_be_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "cot.json", [_record("u", ["1", "2", "3"], "9", "text")])
    policy = PrecomputedCot(path, longer_history=False)
    assert policy.reasoning(CotKey("u", ("2", "3"), "9")) is None
    assert policy.reasoning(CotKey("u", ("1", "2", "3"), "9")) == "text"


def test_of_several_records_the_longest_fitting_history_wins(tmp_path: Path) -> None:
    records = [
        _record("u", ["3"], "9", "short"),
        _record("u", ["2", "3"], "9", "long"),
        _record("u", ["1"], "9", "no"),
    ]
    policy = PrecomputedCot(_write(tmp_path / "cot.json", records))
    assert policy.reasoning(CotKey("u", ("1", "2", "3"), "9")) == "long"


def test_empty_reasoning_is_absent_and_counted(tmp_path: Path) -> None:
    records = [
        _record("u", ["1"], "9", " "),
        _record("v", ["1"], "9", None),
        _record("w", ["1"], "9", "text"),
    ]
    policy = PrecomputedCot(_write(tmp_path / "cot.json", records))
    keys = [CotKey(user, ("1",), "9") for user in "uvw"]
    assert [policy.reasoning(key) for key in keys] == [None, None, "text"]
    assert policy.coverage(keys) == {"absent": 2, "matched": 1, "empty_record": 2}


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "cot.jsonl"
    path.write_text(json.dumps(_record(1, [2], 3, "text")) + "\n")
    assert PrecomputedCot(path).reasoning(CotKey("1", ("2",), "3")) == "text"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{]", "cot.json:1: not JSON"),
        ('[{"reasoning": "a", "reasoning": "b"}]', "cot.json: 'reasoning' appears twice"),
        ("[" * 100_000, "cot.json: nested too deeply"),
        ('{"a": 1}', "cot.json: expected a list"),
        ('[{"user_id": 1, "history_items": []}]', "cot.json record 1: no target_item, reasoning"),
        (json.dumps([_record(1, [2], 3, "a"), "text"]), "cot.json record 2: expected a record"),
        (json.dumps([{**_record(1, [2], 3, "a"), "history_items": "2 3"}]), "history_items is not a list"),
        (json.dumps([_record(1, [2], 3, 4)]), "reasoning is not text"),
        (json.dumps([_record(1, [None], 3, "a")]), "is not an item"),
        (json.dumps([_record(1, [2], {"title": "x"}, "a")]), "is not an item"),
    ],
)
def test_malformed_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "cot.json").write_text(content)
    with pytest.raises(UserError, match=re.escape(message)):
        PrecomputedCot(tmp_path / "cot.json")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing file .*none.json"):
        PrecomputedCot(tmp_path / "none.json")
