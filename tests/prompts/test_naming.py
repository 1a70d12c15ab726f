from __future__ import annotations

import pytest

from mllmrec.models.completions import learnt_tokens
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.prompts.answers import parse_answer
from mllmrec.prompts.naming import LABELS, Naming, distinct_titles
from mllmrec.rewards.hit_format import HitFormat
from mllmrec.rl.batch import Question

TITLES = {"7": "Red Lamp", "8": "Blue Lamp", "9": "Old Clock"}  # in the order of the list


@pytest.mark.parametrize(
    ("label", "history", "listed", "form"),
    [
        ("id", "1. [ITEM_4] Old Clock", "[ITEM_0] Red Lamp\n[ITEM_3] Blue Chair", "[ITEM_<id>] title"),
        ("letter", "1. Old Clock", "A. Red Lamp\nB. Blue Chair", "<letter>. title"),
        ("number", "1. Old Clock", "1. Red Lamp\n2. Blue Chair", "<number>. title"),
        ("none", "1. Old Clock", "Red Lamp\nBlue Chair", "title"),
    ],
)
def test_prompts_name_candidates(make_builder, label, history, listed, form):
    builder = make_builder("instruct", label=label)
    assert builder.prompt([4], [0, 3]) == (
        f"A user chose these items, oldest first:\n{history}\nCandidate items:\n{listed}\n"
        f"Which one does the user choose next? Answer with one line and nothing else, in the form {form}"
    )


def test_a_question_about_one_item_names_no_place(make_builder):
    from mllmrec.prompts.questions import Questions, load_question_wording

    builder = make_builder("instruct", label="letter")
    asked = Questions(builder, load_question_wording("instruct"), 9).prompt([4], 3)
    assert "Candidate item:\nBlue Chair\n" in asked
    assert builder.prompt([], [3]).count("A. Blue Chair") == 1


@pytest.mark.parametrize(
    ("label", "answer"),
    [*((label, "id_title") for label in LABELS), *((label, "id") for label in LABELS[:3])],
)
@pytest.mark.parametrize("places", [1, 2])
def test_answers_are_read_as_they_are_written(make_builder, label, answer, places):
    builder = make_builder("instruct", label=label, answer=answer, places=places)
    candidates = [11, 3, 5]
    titles = {builder.ids[item]: builder.titles[item] for item in candidates}
    for column, item in enumerate(candidates):
        question = Question(str(item), titles, places, builder.naming)
        said = builder.answer(item, column) if places == 1 else builder.ranked_answer(item, candidates)
        read = question.read(said)
        title = "" if answer == "id" else builder.titles[item]
        assert read.items[0] == (str(item), title)
        assert question.well_formed(read)
        assert HitFormat().judge(said, question)["hit"] == 1.0


@pytest.mark.parametrize(
    ("label", "said", "expected"),
    [
        ("letter", "B", [("8", "")]),
        ("letter", "B.", [("8", "")]),
        ("letter", "B) Blue Lamp", [("8", "Blue Lamp")]),
        ("letter", "<think>\nA or C\n</think>\nC", [("9", "")]),
        ("letter", "D", [("not listed: D", "")]),  # three are listed
        ("letter", "b", []),
        ("letter", "A Blue Lamp", []),
        ("letter", "Blue Lamp", []),
        ("number", "3. Old Clock", [("9", "Old Clock")]),
        ("number", "7", [("not listed: 7", "")]),  # a place, although there is an item with this id
        ("number", "0", []),
        ("none", "blue  LAMP", [("8", "blue  LAMP")]),
        ("none", "Green Lamp", [("not listed: Green Lamp", "Green Lamp")]),
        ("none", "[ITEM_8] Blue Lamp", [("not listed: [ITEM_8] Blue Lamp", "[ITEM_8] Blue Lamp")]),
    ],
)
def test_names_are_read(label, said, expected):
    answer = parse_answer(said, read=Naming(label).reader(TITLES))
    assert list(answer.items) == expected
    assert answer.stray_lines == (not expected)
    hit = HitFormat(invalid=-1.0).judge(said, Question("8", TITLES, naming=Naming(label)))
    assert hit["hit"] == float([item for item, _ in expected] == ["8"])


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        ("id", "[ITEM_8] Blue Lamp"),
        ("letter", "B. Blue Lamp"),
        ("number", "2. Blue Lamp"),
        ("none", "Blue Lamp"),
    ],
)
def test_hints_show_a_candidate_as_the_prompt_does(label, shown):
    assert Question("8", TITLES, naming=Naming(label)).shown("8") == shown


def test_names_by_place_need_a_place():
    with pytest.raises(ValueError, match="no letter outside a list"):
        Naming("letter").answer_text("7", "Red Lamp")
    with pytest.raises(ValueError, match="26 letters, too few for place 27"):
        Naming("letter").name("7", 26)
    assert Naming("number").name("7", 26) == "27"


def test_equal_titles_are_told_apart_where_nothing_else_does(make_builder):
    titles = ["Lamp", "lamp", "", "Lamp (2)", "Lamp", "item 3", ""]
    ids = ["1", "2", "3", "4", "5", "6", "7"]
    expected = ["Lamp", "lamp (3)", "item 3 (2)", "Lamp (2)", "Lamp (4)", "item 3", "item 7"]
    assert distinct_titles(ids, titles) == expected
    assert make_builder("instruct", ids=ids, titles=titles, label="none").titles == expected
    assert make_builder("instruct", ids=ids, titles=titles, label="letter").titles == titles


def test_the_letter_to_learn_is_that_of_the_place(make_pretrained, make_builder, make_examples):
    policy = make_pretrained()
    builder = make_builder("instruct", label="letter", answer="id")
    answers = AnswerTokens(builder, policy.encode_answers, policy.end_token)
    examples = make_examples(builder)
    batch = [examples[index] for index in range(4)]
    assert [example.target_column for example in batch] == [0, 1, 2, 3]
    tokens, begins = learnt_tokens(policy, answers, batch)
    assert policy.tokenizer.batch_decode([row[:-1] for row in tokens]) == ["A", "B", "C", "D"]
    assert {row[-1] for row in tokens} == {policy.end_token}
    assert begins == [0] * 4


def test_reasoning_is_learnt_before_the_letter_of_the_place(make_builder, make_examples):
    from mllmrec.prompts.examples import CotUse

    examples = make_examples(
        make_builder("instruct", label="letter", answer="id"), cot=CotUse(placement="completion")
    )
    assert examples.with_reasoning(2, "lamps").reasoned_answer == "<think>\nlamps\n</think>\nC"


def test_answers_of_a_list_follow_its_order(make_pretrained, make_builder):
    policy = make_pretrained()
    builder = make_builder("instruct", label="letter")
    answers = AnswerTokens(builder, policy.encode_answers, policy.end_token)

    def texts(rows):
        return policy.tokenizer.batch_decode([row[:-1] for row in rows])

    assert texts(answers.among([3, 0])) == ["A. Blue Chair", "B. Red Lamp"]
    assert texts(answers.among([0, 3])) == ["A. Red Lamp", "B. Blue Chair"]
    assert texts(answers.among([0, 3, 5], [5])) == ["C. New Clock"]
    (line,) = answers.lines.among([0, 3], [3])
    assert policy.tokenizer.decode(line) == " B. Blue Chair"


def test_no_answer_is_longer_than_the_longest(make_pretrained, make_builder):
    policy = make_pretrained()
    builder = make_builder("instruct", label="number")
    answers = AnswerTokens(builder, policy.encode_answers, policy.end_token)
    # Each item in the twelfth place, which has two digits.
    last = [answers.among([*(other for other in range(12) if other != item), item])[-1] for item in range(12)]
    assert [len(row) for row in last] == [len(answers.of(item)) + 1 for item in range(12)]
    assert answers.longest == max(map(len, last))
