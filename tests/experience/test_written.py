"""Experience by a language model: what it is asked, how its replies are read, and how those of a step are merged."""

from __future__ import annotations

import json

import pytest

from mllmrec.config import CONFIG_DIR
from mllmrec.config.compose import compose_checked
from mllmrec.errors import UserError
from mllmrec.experience.base import Answer, Contrast
from mllmrec.experience.library import Experience, Library, Operation
from mllmrec.experience.written import WrittenExperience, merged
from mllmrec.reasoners.base import HistoryItem, Reasoner, Written
from mllmrec.reasoners.template import TemplateReasoner


class Scripted(Reasoner):
    """Gives prepared replies, the last request first."""

    def __init__(self, *replies):
        self.replies, self.asked = replies, []

    def identity(self):
        return {}

    def write(self, requests):
        self.asked = list(requests)
        for request, reply in reversed(list(zip(self.asked, self.replies, strict=True))):
            yield request, Written(reply)


LAMP, RUG = HistoryItem("1", "Red Lamp", "red, tall", None), HistoryItem("2", "Wool Rug", "", None)
GROUP = Contrast("s", "u", (RUG,), (Answer("[ITEM_1]", LAMP),), (Answer("what", None), Answer("what", None)))


def test_a_request_shows_the_group_and_the_library_and_replies_become_operations():
    add = {"operation": "add", "text": "Red things follow rugs"}
    model = Scripted(
        f"Sure: {json.dumps([add, {'operation': 'delete', 'id': 'E1'}])}",
        "no idea",
        json.dumps([add, add, add]),
    )
    writer = WrittenExperience(model)
    library = Library([Experience("E1", "Rugs follow lamps", 1.0)])
    # The same sample may stand in a step twice.
    operations = writer.operations([GROUP, GROUP, GROUP], library, "product")
    assert library.apply(operations) == {"add": 1, "modify": 0, "delete": 1, "keep": 0}
    assert [(one.text, one.support) for one in library] == [("Red things follow rugs", 3.0)]
    assert writer.metrics() == {"experience/no_reply": pytest.approx(1 / 3)}
    message = model.asked[0].message
    assert "- Wool Rug\n" in message
    assert "- Red Lamp | image: red, tall (answer: " in message
    assert message.count("(none) (answer: what)") == 1
    assert "E1: Rugs follow lamps" in message
    assert model.asked[0].leak == ""


@pytest.mark.parametrize(
    "reply",
    [
        '[{"operation": "add", "text": " "}]',
        '[{"operation": "modify", "id": "E9", "text": "x"}]',
        '[{"operation": "shout", "text": "x"}, "add"]',
        "[not json]",
        "] [",
    ],
)
def test_replies_without_a_usable_operation_change_nothing(reply):
    writer = WrittenExperience(Scripted(reply))
    assert writer.operations([GROUP], Library([Experience("E1", "old", 1.0)]), "item") == []


def test_texts_are_cut_and_cannot_imitate_labels():
    writer = WrittenExperience(
        Scripted('[{"operation": "add", "text": "a [ITEM_1] <think> c d e f"}]'), most_words=4
    )
    (one,) = writer.operations([GROUP], Library(), "item")
    assert len(one.text.split()) == 4
    assert "[ITEM_1]" not in one.text
    assert "<think>" not in one.text


def test_operations_of_a_step_are_merged_by_majority():
    library = Library([Experience("E1", "First", 1.0), Experience("E2", "Second", 1.0)])
    proposed = [
        Operation("delete", "E1"),
        Operation("keep", "E1"),
        Operation("delete", "E1"),
        Operation("modify", "E2", "Better"),
        Operation("add", "", "second"),  # is there already
        Operation("modify", "E2", "Best"),
        Operation("add", "", "Third"),
        Operation("add", "", "third"),
    ]
    assert merged(proposed, library, lambda _: "E3") == [
        Operation("delete", "E1", "", 2.0),
        Operation("modify", "E2", "Better", 4.0),
        Operation("add", "E3", "Third", 2),
    ]


def test_rules_that_read_no_question_cannot_compare_answers():
    with pytest.raises(UserError, match="choose experience=hf or openai, or experience=counted"):
        WrittenExperience(TemplateReasoner())


def test_an_endpoint_of_the_reasoners_writes_experience():
    composed = compose_checked(
        "train", ["variant=training_free", "experience=openai", "experience.inner.model=m"], CONFIG_DIR
    )
    assert composed.faults == []
    assert composed.config.experience.inner._target_ == "mllmrec.reasoners.openai.OpenAIReasoner"
