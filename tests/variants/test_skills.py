from __future__ import annotations

import numpy as np
import pytest

from mllmrec.testing import check_sampler
from mllmrec.variants.skills import SkillTargeted, skills_of, targeted


def test_probabilities_follow_the_skills_of_hard_prompts():
    # Skill 0 is carried by 2 entries, skill 1 by 4; both hard entries have skill 1, one has skill 0.
    skills = np.array([[1, 1], [1, 0], [0, 1], [0, 1], [0, 1], [0, 0]], dtype=bool)
    hard = np.array([True, False, True, False, False, False])
    # c / n = 1/2 and 2/4; weights 1, 1/2, 1/2, 1/2, 1/2, 0 add up to 3.
    assert targeted(skills, hard).tolist() == pytest.approx([1 / 3, *[1 / 6] * 4, 0])
    assert targeted(skills, np.zeros(6, dtype=bool)).tolist() == pytest.approx([1 / 6] * 6)


def test_skills_of_targets_and_histories(make_pool):
    # Item 0 occurs four times, item 1 twice, items 2 and 3 once; thirds of popularity end at 2 and 4.
    pool = make_pool([[0, 1, 0], [0, 2, 1, 0, 3]])
    repeat, rare, popular, short, long = skills_of(pool).T.astype(int).tolist()
    assert repeat == [0, 0, 1, 0, 0, 0, 1, 0]
    assert rare == [0, 1, 0, 0, 1, 1, 0, 1]
    assert popular == [0] * 8
    # Histories 0, 1, 2, 0, 1, 2, 3, 4: thirds end at 1 and 2.
    assert short == [1, 1, 0, 1, 1, 0, 0, 0]
    assert long == [0, 0, 0, 0, 0, 0, 1, 1]


def test_failed_prompts_bring_prompts_like_them(make_pool, observed):
    part, pool = SkillTargeted(uniform=0.1), make_pool([list(range(12))], batch_size=3, steps=4)
    part.begin(pool)
    assert part.probabilities().tolist() == pytest.approx([1 / 12] * 12)
    # Entry 11 has a long history and is failed; entry 0 has a short one and is not.
    part.observe(np.array([0, 11]), observed([[1.0, 0.0], [0.0, 0.0]]))
    chances = part.probabilities()
    assert chances.sum() == pytest.approx(1)
    assert chances[8:].min() > chances[:4].max()
    again = SkillTargeted(uniform=0.1)
    again.begin(pool)
    again.load_state_dict(part.state_dict())
    assert again.plan(2).tolist() == part.plan(2).tolist()
    # It is answered right now.
    part.observe(np.array([11]), observed([[1.0, 1.0]]))
    assert part.probabilities().tolist() == pytest.approx([1 / 12] * 12)


def test_it_is_checked_and_says_what_is_wrong():
    check_sampler(SkillTargeted())
    with pytest.raises(ValueError, match="uniform"):
        SkillTargeted(uniform=0)
