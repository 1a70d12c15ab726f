"""TAR-TVG: progress by hand, shortlists in texts, and what a row earns."""

from __future__ import annotations

import pytest

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.compose import compose_checked
from mllmrec.prompts.naming import Naming
from mllmrec.rl.batch import Question
from mllmrec.testing import check_shaper, toy_batch
from mllmrec.variants.tar_tvg import AnchorProgress, progress, shortlists

TITLES = {"1": "Red Lamp", "2": "Blue Lamp", "3": "Lamp"}


def test_progress_is_the_share_of_gains():
    assert progress([0.2, 0.5, 0.4, 0.8]) == pytest.approx(2 / 3)
    # Standing still is no gain, and one anchor has nowhere to come from.
    assert progress([1.0, 1.0]) == 0.0
    assert progress([1.0]) == progress([]) == 0.0


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Warm. Closest: [ITEM_1], [ITEM_2] and [ITEM_3]. So [ITEM_1]", ["123", "1"]),
        ("[ITEM_2] Blue Lamp, [ITEM_1] red lamp > but [ITEM_9] Old Clock", ["12"]),
        # The longer title counts, and no word within a word.
        ("a Red Lamp or a Lamp, lamps", ["1", "3"]),
        ("nothing", []),
    ],
)
def test_names_that_follow_each_other_are_one_shortlist(text, found):
    assert shortlists(text, Question("1", TITLES)) == [frozenset(one) for one in found]


def test_labels_by_place_are_not_read_in_prose():
    question = Question("1", TITLES, naming=Naming("letter"))
    assert shortlists("A lamp; [ITEM_2]", question) == [frozenset("3")]


def test_a_row_is_paid_for_the_steps_to_its_answer():
    said = "<think>\n[ITEM_2], [ITEM_1] so [ITEM_1]\n</think>\n"
    # Of two, of one, the answer: 0.63, 1, 1 gains once in two steps. A miss after the same reasoning gains once, too.
    batch = toy_batch([f"{said}[ITEM_1]", f"{said}[ITEM_2]", "[ITEM_1]", said], rewards=[1.0, 0.0, 1.0, -1.0])
    given = AnchorProgress(0.5)(batch)
    assert given.total.tolist() == pytest.approx([1.25, 0.25, 1.0, -1.0])
    assert given.parts["anchors"].tolist() == [2.0, 2.0, 0.0, 0.0]


def test_it_is_a_shaper():
    check_shaper(AnchorProgress())
    with pytest.raises(ValueError, match="at least 0"):
        AnchorProgress(weight=-1.0)


def test_the_variant_composes():
    composed = compose_checked("train", ["variant=tar_tvg"], CONFIG_DIR)
    assert composed.faults == []
    check_config(composed.config)
    assert [one if isinstance(one, str) else one.name for one in composed.config.method.phases] == [
        *("warmup", "sft", "grpo", "sft_on_grpo", "grpo_again")
    ]
