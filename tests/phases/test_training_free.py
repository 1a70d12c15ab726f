"""Practice without training: what a step compares, what prompts show afterwards, and which experience is kept."""

from __future__ import annotations

import copy

import pytest
import torch

from mllmrec.experience.base import ExperienceWriter
from mllmrec.experience.library import Library, Operation
from mllmrec.phases.heldout import HeldOutMeasure
from mllmrec.phases.training_free import PracticeSettings, TrainingFree, tokens_of
from mllmrec.reasoners.base import HistoryItem
from mllmrec.rewards.base import Reward, Rewards

SETTINGS = PracticeSettings(group_size=4, micro_batch_size=8, most_experiences=3, most_tokens=40)


class Counting(ExperienceWriter):
    """Adds ``step n`` in its n-th step."""

    def __init__(self):
        self.seen = []

    def operations(self, contrasts, library, domain):
        self.seen.append(contrasts)
        count = len(self.seen)
        return [Operation("add", str(count), f"step {count}", float(count))]


class ByRow(Reward):
    """Pays the rows of a group what it was made with, in turn."""

    parts = ()
    bounds = (0.0, 1.0)

    def __init__(self, *values):
        self.values = values

    def __call__(self, batch):
        return Rewards(torch.tensor([self.values[row % len(self.values)] for row in range(len(batch))]))


@pytest.fixture
def examples(tiny, make_examples):
    return make_examples(tiny.builder)


@pytest.fixture
def make_practice(tiny, make_collector, catalogue):
    def make(writer=None, settings=SETTINGS, reward=None):
        items = {
            code: HistoryItem(item, title, "", None)
            for code, (item, title) in enumerate(zip(catalogue.ids, catalogue.titles, strict=True))
        }
        collector = make_collector(reward=reward or ByRow(1.0, 0.0))
        return TrainingFree(collector, tiny.builder, writer or Counting(), items, settings, history_length=3)

    return make


def practised(practice, examples, steps, measure=None):
    practice.practise(lambda step: [examples[0], examples[1]], steps, [], measure)


def test_winners_and_losers_are_the_rows_above_and_below_their_group_s_mean(
    make_practice, make_batch, examples
):
    batch = make_batch(torch.tensor([[1.0, 0.0, 0.5], [0.3, 0.3, 0.3]]))
    names = [examples.builder.label(item) for item in (7, 8)]
    shown = {str(item): "" for item in (7, 8)}
    batch = copy.copy(batch)
    object.__setattr__(batch, "examples", [examples[0], examples[1]])
    object.__setattr__(batch, "texts", [names[0], names[1], "?", *names, "?"])
    for question in batch.questions:
        object.__setattr__(question, "titles", shown)
    (found,) = make_practice().contrasts(batch)
    # 0.5 is the mean itself.
    assert [answer.item.title for answer in found.winners] == ["Low Shelf"]
    assert [answer.item.title for answer in found.losers] == ["Round Table"]
    assert found.user_id == examples[0].user_id
    assert [item.item_id for item in found.history] == [str(code) for code in examples[0].history[-3:]]


def test_groups_of_equal_rewards_change_nothing(make_practice, examples, tiny, caplog):
    practice = make_practice(reward=ByRow(0.3))
    before = examples[0].prompt
    practised(practice, examples, 2)
    assert practice.writer.seen == []
    assert len(practice.library) == 0
    assert examples[0].prompt == before
    assert "no prompt had two answers with different rewards" in caplog.text


def test_experience_stands_first_in_every_prompt_and_no_weight_changes(make_practice, examples, tiny):
    before = examples[0].prompt
    weights = {name: weight.clone() for name, weight in tiny.policy.model.named_parameters()}
    practice = make_practice()
    numbers = practice.step([examples[0], examples[1]], 0)
    assert examples[0].prompt == f"Experience step 1 {before}"
    assert all(torch.equal(weight, weights[name]) for name, weight in tiny.policy.model.named_parameters())
    assert numbers["experience/size"] == numbers["experience/add"] == 1
    assert numbers["experience/compared"] == 1.0
    assert numbers["reward"] == 0.5
    assert numbers["num_tokens"] > 0


def test_the_library_keeps_to_its_number_and_to_its_tokens(make_practice, examples, tiny):
    practised(make_practice(), examples, 5)
    assert tiny.builder.experience == ("step 5", "step 4", "step 3")
    tiny.builder.experience = ()
    limit = tokens_of(tiny.policy, tiny.builder, ["step 5", "step 4"])
    room = len(tiny.policy.encode_prompts([examples[0].prompt])[0]) + limit
    practised(
        make_practice(settings=PracticeSettings(4, 8, most_experiences=3, most_tokens=limit)), examples, 5
    )
    assert tiny.builder.experience == ("step 5", "step 4")
    assert len(tiny.policy.encode_prompts([examples[0].prompt])[0]) <= room


@pytest.mark.parametrize(
    ("values", "keep_best", "kept"),
    [
        ((0.1, 0.3, 0.2), True, ("step 1",)),
        ((0.1, 0.3, 0.2), False, ("step 2", "step 1")),
        ((0.3, 0.3, 0.1), True, ()),
    ],
)
def test_the_experience_of_the_best_held_out_ranking_is_kept(
    make_practice, examples, tiny, tmp_path, caplog, values, keep_best, kept
):
    left = iter(values)
    measure = HeldOutMeasure(lambda: {"NDCG@3": next(left)}, lambda means: means["NDCG@3"])
    practice = make_practice(settings=PracticeSettings(4, 8, 3, 40, every=1, keep_best=keep_best))
    practised(practice, examples, 2, measure)
    practice.write(tmp_path)
    assert tiny.builder.experience == kept
    assert Library.read(tmp_path / "training_free.json").texts == kept
    last = tmp_path / "training_free_last.json"
    assert last.is_file() == keep_best
    if keep_best:
        assert Library.read(last).texts == ("step 2", "step 1")
    assert ("prompts show no experience" in caplog.text) == (kept == ())


def test_patience_ends_practice(make_practice, examples):
    measure = HeldOutMeasure(lambda: {"NDCG@3": 0.1}, lambda means: means["NDCG@3"])
    practice = make_practice(settings=PracticeSettings(4, 8, 3, 40, every=1, patience=2))
    practised(practice, examples, 9, measure)
    assert len(practice.writer.seen) == 2
