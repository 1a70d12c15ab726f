from __future__ import annotations

import pytest

from mllmrec.testing import check_sampler
from mllmrec.variants.rapo_prune import Pruned


def run_pass(part, observed, steps, rewards):
    """The entries of each of some steps, in which every entry's answers earn what ``rewards`` says."""
    shown = []
    for step in steps:
        entries = part.plan(step)
        part.observe(entries, observed([rewards[entry] for entry in entries.tolist()], step))
        shown.append(entries.tolist())
    return shown


def flat(steps):
    return sorted(entry for step in steps for entry in step)


def test_solved_prompts_leave_at_the_end_of_a_pass(make_pool, observed):
    part = Pruned()
    part.begin(make_pool([list(range(5))], batch_size=2, steps=9))
    solved, nearly, hard = [1.0] * 10, [1.0] * 8 + [0.0, 0.9], [0.0] * 10
    at_the_limit = [1.0] * 9 + [0.0]
    first = run_pass(part, observed, range(3), [solved, nearly, hard, at_the_limit, hard])
    assert [len(step) for step in first] == [2, 2, 1]
    assert flat(first) == [0, 1, 2, 3, 4]
    # Nine of ten and ten of ten are removed; eight of ten stay.
    second = run_pass(part, observed, range(3, 5), [solved] * 5)
    assert flat(second) == [1, 2, 4]
    # All that are left are solved now: they stay.
    assert flat(run_pass(part, observed, range(5, 7), [hard] * 5)) == [1, 2, 4]


def test_state_goes_on_within_a_pass(make_pool, observed):
    part, again = Pruned(), Pruned()
    pool = make_pool([list(range(6))], batch_size=2, steps=9)
    part.begin(pool)
    right, wrong = [1.0, 1.0], [0.0, 0.0]
    run_pass(part, observed, range(4), [right, wrong, wrong, wrong, wrong, wrong])
    again.begin(pool)
    again.load_state_dict(part.state_dict())
    rest = [run_pass(one, observed, range(4, 7), [wrong] * 6) for one in (part, again)]
    assert rest[0] == rest[1]
    assert 0 not in flat(rest[0])


def test_it_is_checked_and_says_what_is_wrong():
    check_sampler(Pruned())
    with pytest.raises(ValueError, match="solved"):
        Pruned(solved=0)
