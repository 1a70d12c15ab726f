from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mllmrec.rl.batch import Question
from mllmrec.rollout.base import Turn
from mllmrec.rollout.constrained import Constrained
from mllmrec.testing import check_rollout, toy_speaker
from mllmrec.testing.toys import toy_examples
from mllmrec.variants.difficulty_hints import EASED, HARDENED, DifficultyHints


def judge(rewards):
    """Answers to an example's own prompt earn what is given for it, answers after a hint 1."""

    def apply(batch):
        own = torch.tensor([rewards[place] for place in batch.example_of.tolist()])
        return replace(batch, rewards=torch.where(batch.by(EASED), 1.0, own))

    return apply


def test_a_prompt_gets_words_in_proportion_to_its_difficulty():
    part = DifficultyHints(Constrained(), scale=4)
    question = Question("7", {"7": "Small Red Desk Lamp", "8": "Clock"})
    assert part.hint(0.5, question) == "Hint: its title begins with Small Red"
    assert part.hint(9, question) == "Hint: its title begins with Small Red Desk Lamp"
    assert part.hint(0.1, question) == part.hint(-1, question) == ""


def test_hard_prompts_are_asked_again_with_a_hint():
    part, examples = DifficultyHints(Constrained(), window=2), toy_examples(3)
    speaker = toy_speaker(part)
    # Nothing is known before the first step; its mean is 0.5.
    first = part(examples, speaker, judge([0.0, 0.5, 1.0]), Turn(0, 4))
    assert not first.by(EASED).any()
    assert part.metrics() == {"hints/eased": 0, "hints/hardened": 0, "hints/own_reward": 0.5}
    batch = part(examples, speaker, judge([0.0, 0.5, 1.0]), Turn(1, 4)).by_group()
    assert batch.by(EASED).tolist() == [True] * 4 + [False] * 8
    assert batch.groups.sizes.tolist() == [4, 4, 4]
    assert batch.rewards.tolist() == [1.0] * 4 + [0.5] * 4 + [1.0] * 4
    # The hint is in the prompt under which its answers are learnt: a toy prompt's words are its tokens.
    hinted, plain = (int(batch.prompts.mask[batch.prompt_of[row]].sum()) for row in (0, 8))
    assert hinted == plain + len(["Hint:", "its", "title", "begins", "with", "Red", "Lamp"])
    assert part.metrics() == pytest.approx(
        {"hints/eased": 1 / 3, "hints/hardened": 0, "hints/own_reward": 0.5}
    )
    # All of them may be hard.
    assert part(examples, speaker, judge([0.0, 0.0, 0.0]), Turn(2, 4)).by(EASED).all()


def test_easy_prompts_are_asked_again_with_less_history():
    part, examples = DifficultyHints(Constrained(), scale=4, noise=2), toy_examples(3)
    speaker = toy_speaker(part)
    part(examples, speaker, judge([0.5, 0.5, 0.5]), Turn(0, 4))
    # The third is easier by 0.5: one of its two items is hidden. The second by 0.125, a quarter of an item, which is none.
    batch = part(examples, speaker, judge([0.0, 0.625, 1.0]), Turn(1, 4)).by_group()
    assert batch.by(EASED).tolist() == [True] * 4 + [False] * 8
    assert batch.by(HARDENED).tolist() == [False] * 8 + [True] * 4
    assert part.metrics()["hints/hardened"] == pytest.approx(1 / 3)
    # "likes" and a title of two words.
    assert int(batch.prompts.mask[batch.prompt_of[8]].sum()) == 3


def test_as_many_items_are_hidden_as_a_prompt_is_easier_but_one_stays():
    part, (example,) = DifficultyHints(Constrained(), noise=2), toy_examples(1)
    speaker = toy_speaker(part)
    seen = {part.harder(0.5, example, speaker, step) for step in range(20)}
    assert seen == {"likes Blue Lamp", "likes Old Clock"}
    assert part.harder(9.0, example, speaker, 0) in seen
    assert part.harder(0.2, example, speaker, 0) == part.harder(-1.0, example, speaker, 0) == ""
    assert DifficultyHints(Constrained()).harder(9.0, example, speaker, 0) == ""
    # Nothing to hide.
    one = replace(example, history=example.history[:1])
    assert part.harder(9.0, one, speaker, 0) == ""


def test_the_window_and_the_state():
    part, again = DifficultyHints(Constrained(), window=2), DifficultyHints(Constrained(), window=2)
    examples, speaker = toy_examples(1), toy_speaker(part)
    for step, reward in enumerate((0.0, 0.25, 1.0)):
        part(examples, speaker, judge([reward]), Turn(step, 2))
    assert part.state_dict() == {"means": [0.25, 1.0]}
    again.load_state_dict(part.state_dict())
    # 0.625 - 0.5 is half a word, which rounds to none; 0.625 - 0.125 is two words.
    assert not again(examples, speaker, judge([0.5]), Turn(3, 2)).by(EASED).any()
    again.load_state_dict(part.state_dict())
    assert again(examples, speaker, judge([0.125]), Turn(3, 2)).by(EASED).all()


def test_it_is_checked_and_says_what_is_wrong():
    check_rollout(DifficultyHints(Constrained(), noise=2.0))
    with pytest.raises(ValueError, match="window"):
        DifficultyHints(Constrained(), window=0)
    with pytest.raises(ValueError, match="scale"):
        DifficultyHints(Constrained(), scale=0)
    with pytest.raises(ValueError, match="noise"):
        DifficultyHints(Constrained(), noise=-1)
