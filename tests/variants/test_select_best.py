"""WebGen-Agent's way to rank: rounds that see an earlier answer, and go back after failures."""

from __future__ import annotations

import numpy as np
import pytest

from mllmrec.inference.drawn import Drawn
from mllmrec.testing.inference import toy_inputs
from mllmrec.testing.toys import toy_examples
from mllmrec.variants.select_best import SelectBest, next_state


def one(text, score, named=(0,)):
    return Drawn([list(named)], np.array([score]), [text])


@pytest.mark.parametrize(
    ("patience", "expected"),
    [
        (1, [0, 0, 2, 2, 2, 5]),  # every failure goes back at once
        (2, [0, 1, 2, 3, 2, 5]),  # the second failure in a row does
        (3, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_failures_lead_back_to_the_best_round(patience, expected):
    scores = [2.0, 1.0, 3.0, 0.0, 1.0, 4.0]
    assert [next_state(scores[:count], patience) for count in range(1, 7)] == expected


def test_failures_are_counted_anew_after_going_back():
    assert [next_state([1.0, *[0.0] * count], 2) for count in range(6)] == [0, 1, 0, 3, 0, 5]


def test_the_answer_shown_has_no_reasoning_and_one_that_names_nothing_is_never_the_best():
    part = SelectBest(n=3, patience=1)
    rounds = [one("<think>\nred\n</think>\n[ITEM_1] Red\nLamp", -2.0), one("a lamp", 0.0, named=())]
    assert part.shown(rounds) == "[ITEM_1] Red Lamp"


def test_rounds_are_ranked_by_score():
    drawn = Drawn([[1], [2], [1], []], np.array([-3.0, -1.0, -2.0, 0.0]), ["a", "b", "c", "d"])
    assert SelectBest(n=4).order(drawn) == [2, 1]


def test_later_prompts_show_the_last_answer_and_scores_do_not_see_it():
    part, inputs, examples = SelectBest(n=3, note="Was {answer}."), toy_inputs(), toy_examples(2)
    speaker, asked, scored = inputs.speaker(), [], []
    complete, prompt_batch = speaker.complete, speaker.policy.prompt_batch
    speaker.complete = lambda *given, **how: asked.append(how["prompts"]) or complete(*given, **how)
    speaker.policy.prompt_batch = lambda prompts: scored.append(list(prompts)) or prompt_batch(prompts)
    drawn = part.draw(examples, speaker, inputs)
    assert [len(one.texts) for one in drawn] == [3, 3]
    assert asked[0] is None
    for number in (1, 2):
        assert asked[number] == [
            f"Was {answers.texts[number - 1]}.\n{example.prompt}"
            for answers, example in zip(drawn, examples, strict=True)
        ]
    own = [example.prompt for example in examples]
    # In each round the prompts that are completed, and those that answers are scored under.
    assert scored == [own, own, asked[1], own, asked[2], own]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"patience": 0}, "patience=0"), ({"note": "Again."}, "must hold {answer}"), ({"n": 0}, "n=0")],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SelectBest(**{"n": 2, **settings})
