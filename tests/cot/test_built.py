from __future__ import annotations

import dataclasses
import itertools

import pytest
from scribe import ITEMS, Scribe

from mllmrec.cot import Built, Confident, CotKey
from mllmrec.errors import UserError
from mllmrec.reasoners.base import Written

GOOD = "Signals: red in {0}. Preference: mostly red lamps. Look for: red and caption{0} lamps."


class Author(Scribe):
    """Writes the text that it is given for each user, as draft and as refinement."""

    def __init__(self, name: str, texts: dict[str, str]) -> None:
        super().__init__(name)
        self.texts = texts

    def write(self, requests):
        for request in requests:
            yield (
                request,
                Written(self.texts[request.user_id], problem="" if self.texts[request.user_id] else "empty"),
            )


def test_drafts_and_refinements_are_two_policies(make_pipeline, keys):
    pipeline = make_pipeline()
    draft, refined = Built(pipeline, "draft"), Built(pipeline)
    draft.make(keys)
    refined.make(keys)
    assert [draft.reasoning(key) for key in keys] == ["draft of 0 1 2", "draft of 1 2 3", "draft of 2 3 4"]
    assert refined.reasoning(keys[0]) == "refinement of 0 1 2"
    assert refined.records[keys[0]].draft == "draft of 0 1 2"
    assert refined.records[keys[0]].thoughts == "thought"
    assert refined.coverage(keys) == {"matched": 3}


def test_nothing_is_given_that_was_not_made(make_pipeline, keys):
    policy = Built(make_pipeline())
    policy.make(keys[:1])
    assert policy.reasoning(keys[1]) is None
    assert policy.coverage(keys) == {"matched": 1, "not made": 2}


def test_a_sample_without_draft_or_text_has_none(make_pipeline, keys):
    policy = Built(make_pipeline(Scribe("d", refuses=("u0",)), Scribe("r", refuses=("u1",))))
    policy.make(keys)
    assert [policy.reasoning(key) is None for key in keys] == [True, True, False]
    assert policy.coverage(keys) == {"no draft": 1, "no text": 1, "matched": 1}


def test_the_leak_is_in_every_record(make_pipeline, keys):
    policy = Built(make_pipeline(), leak="target")
    policy.make(keys)
    assert {record.leak for record in policy.records.values()} == {"target"}
    assert set(policy.report()) == {"draft", "leaky"}
    with pytest.raises(UserError, match="only refinements are told the target"):
        Built(make_pipeline(), "draft", "target")


def confident(make_pipeline, texts, drafts=None, **settings):
    return Confident(make_pipeline(Author("d", drafts or texts), Author("r", texts)), **settings)


def test_form_vetoes_and_the_rest_is_ranked(make_pipeline, keys):
    texts = {
        "u0": GOOD.format(1),
        "u1": "Signals: <b>red</b> in all of the lamps. Preference: red. Look for: red lamps again.",
        "u2": GOOD.format(2),
    }
    # User 2's draft says nothing that its refinement says.
    drafts = {**texts, "u2": "Signals: wood. Preference: oak or beech. Look for: a long and low oaken table."}
    policy = confident(make_pipeline, texts, drafts, top_share=1 / 3)
    policy.make(keys)
    assert policy.coverage(keys) == {"matched": 1, "form: no_markup": 1, "less confident": 1}
    assert policy.reasoning(keys[0]) == texts["u0"]
    first, second, third = policy.confidences(keys)
    assert second is None
    assert third < first


def test_a_text_as_trusted_as_one_that_is_kept_is_not_called_less_confident(make_pipeline, keys):
    # All texts name item 1, which is in the histories of users 0 and 1. The draw keeps one of these two users.
    kept = set()
    for seed in range(10):
        texts = dict.fromkeys(("u0", "u1", "u2"), GOOD.format(1))
        policy = confident(make_pipeline, texts, top_share=1 / 3, seed=seed)
        policy.make(keys)
        *equals, third = (policy.records[key].dropped for key in keys)
        assert sorted(equals) == ["", "as confident, but beyond the share"]
        assert third == "less confident"
        kept.add(equals.index(""))
    assert kept == {0, 1}


def test_a_threshold_keeps_all_above_it(make_pipeline, keys):
    texts = {user: GOOD.format(number) for number, user in enumerate(("u0", "u1", "u2"), 1)}
    # Draft and refinement of users 0 and 1 are equal: agreement 1. User 2's share no word: below 0.9 on average.
    drafts = {**texts, "u2": "Oak or beech, and a long and low oaken table to go with all of that."}
    for threshold, kept in ((0.0, 3), (0.9, 2)):
        policy = confident(make_pipeline, texts, drafts, threshold=threshold, top_share=None)
        policy.make(keys)
        assert policy.coverage(keys)["matched"] == kept, threshold


def test_what_is_kept_does_not_depend_on_how_the_samples_came(make_pipeline, keys):
    texts = {"u0": GOOD.format(1), "u1": GOOD.format(2), "u2": GOOD.format(9)}
    whole, parts = (confident(make_pipeline, texts, top_share=2 / 3) for _ in range(2))
    whole.make(keys)
    parts.make(keys[2:])
    parts.make(keys[:2])
    assert [whole.reasoning(key) for key in keys] == [parts.reasoning(key) for key in keys]
    assert whole.coverage(keys)["matched"] == 2


def test_estimates_are_of_the_stages_that_are_made(make_pipeline, keys):
    estimates = {stage: Built(make_pipeline(), stage).estimates(keys) for stage in ("draft", "refined")}
    assert [*estimates["draft"]] == ["draft"]
    assert [*estimates["refined"]] == ["draft", "refined"]
    assert estimates["draft"]["draft"].requests == 3
    assert [*Built(make_pipeline(), leak="target").estimates(keys)] == ["draft", "leaky"]


def test_a_text_about_which_nothing_is_known_is_not_called_less_confident(make_pipeline, keys):
    items = {number: dataclasses.replace(item, title="", caption="") for number, item in ITEMS.items()}
    texts = dict.fromkeys(("u0", "u1", "u2"), GOOD.format(1))
    policy = Confident(make_pipeline(Author("d", texts), Author("r", texts), items), floors={})
    policy.make(keys)
    assert policy.coverage(keys) == {"nothing to judge by": 3}


def test_texts_from_a_file_may_have_been_told_anything(make_pipeline, keys):
    class FromFile(Scribe):
        told = "unknown"

    for pipeline, stage, told in (
        (make_pipeline(FromFile("d")), "draft", "unknown"),
        (make_pipeline(FromFile("d")), "refined", "unknown"),
        (make_pipeline(refine=FromFile("r")), "refined", "unknown"),
        (make_pipeline(refine=FromFile("r")), "draft", "none"),
    ):
        policy = Built(pipeline, stage)
        policy.make(keys)
        assert {record.leak for record in policy.records.values()} == {told}


def test_a_record_says_why_a_reasoner_wrote_nothing(make_pipeline, keys):
    policy = Built(make_pipeline(Scribe("d", refuses=("u0",)), Scribe("r", refuses=("u1",))))
    policy.make(keys)
    assert [(policy.records[key].dropped, policy.records[key].problem) for key in keys] == [
        ("no draft", "refused"),
        ("no text", "refused"),
        ("", ""),
    ]


MANY = [  # no two histories are alike, since equal ones would share a text
    CotKey(f"u{user}", history, "11", f"u{user}:3")
    for user, history in enumerate(itertools.islice(itertools.permutations(map(str, range(11)), 3), 40))
]
VETOED = "no steps at all in this one, which has words enough for any length"


def test_enough_are_written_to_keep_as_many_as_wanted(make_pipeline):
    policy = confident(make_pipeline, {key.user_id: GOOD.format(5) for key in MANY}, top_share=0.25)
    # A quarter of 12 is 3.
    assert len(policy.supply(iter(MANY), 3)) == 3
    assert len(policy.records) == 12


def test_texts_that_are_vetoed_are_made_up_for(make_pipeline):
    texts = {key.user_id: VETOED if place % 4 else GOOD.format(5) for place, key in enumerate(MANY)}
    policy = confident(make_pipeline, texts, top_share=None, threshold=0.0)
    places = policy.supply(iter(MANY), 5)
    # Every fourth is good; the fifth good one is at 16.
    assert places[:5] == [0, 4, 8, 12, 16]
    assert 17 <= len(policy.records) < 40
    assert all(policy.reasoning(MANY[place]) for place in places)


def test_a_share_of_texts_of_which_most_are_vetoed_is_the_share_of_all(make_pipeline):
    texts = {key.user_id: VETOED if place % 4 else GOOD.format(5) for place, key in enumerate(MANY)}
    policy = confident(make_pipeline, texts, top_share=0.5)
    # Half of the first 10 would be 5, but 3 of them pass the floors.
    assert policy.supply(iter(MANY), 5)[:5] == [0, 4, 8, 12, 16]
    # Half of 40 would be 20, but 10 of them pass the floors.
    assert len(confident(make_pipeline, texts, top_share=0.5).supply(iter(MANY), 20)) == 10


def test_a_reasoner_of_whose_texts_none_can_be_used_is_not_paid_for_more(make_pipeline):
    texts = {key.user_id: VETOED for key in MANY}
    paid = confident(make_pipeline, texts, top_share=0.5)
    assert paid.supply(iter(MANY), 2) == []
    assert len(paid.records) == 4
    for_nothing = confident(make_pipeline, texts, top_share=0.5)
    for stage in ("draft", "refined"):
        for_nothing.pipeline.reasoner(stage).free = True
    assert for_nothing.supply(iter(MANY), 2) == []
    assert len(for_nothing.records) == 40


def test_a_sample_that_gets_no_text_makes_room_for_the_next(make_pipeline, keys):
    drafts = Scribe("d", refuses=("u0",))
    policy = Built(make_pipeline(drafts))
    assert policy.supply(iter(keys), 1) == []  # texts cost something, and the first sample gives none
    more = Built(make_pipeline(Scribe("d", refuses=("u1",))))
    assert more.supply(iter(keys), 2) == [0, 2]


def test_exactly_one_of_threshold_and_share_is_set(make_pipeline):
    for settings in ({"threshold": 0.5}, {"top_share": None}):
        with pytest.raises(UserError, match="threshold or a top_share"):
            Confident(make_pipeline(), **settings)
