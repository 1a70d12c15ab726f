from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.compose import compose_checked
from mllmrec.engine.shared_prefix import SharedPrefix
from mllmrec.rl.losses import LossInputs
from mllmrec.rollout.base import Turn
from mllmrec.rollout.constrained import Constrained
from mllmrec.step.names import Names
from mllmrec.step.speaker import Speaker
from mllmrec.testing import check_regularizer, toy_batch
from mllmrec.variants.kdrl import Informed, TeacherKl, TeacherKlOfFailingGroups


def inputs(rewards, group_of):
    rows = len(rewards)
    logprobs = torch.full((rows, 1), -1.0, requires_grad=True)
    return LossInputs(
        logprobs=logprobs,
        old=logprobs.detach(),
        advantages=torch.zeros(rows, 1),
        mask=torch.ones(rows, 1, dtype=torch.bool),
        entropy=torch.zeros(rows, 1),
        rewards=torch.tensor(rewards),
        group_of=torch.tensor(group_of),
        teacher=torch.full((rows, 1), -1.5),
    )


def test_a_term_and_its_gradient_by_hand():
    given, part = inputs([0.0], [0]), TeacherKl(beta=5e-3)
    # Half a nat apart: 0.005 · 0.5² / 2, and 0.005 · 0.5.
    loss = (part.weight(0) * part(given)).sum()
    assert loss.item() == pytest.approx(0.000625)
    loss.backward()
    assert given.logprobs.grad.item() == pytest.approx(0.0025)


def test_the_weight_falls_and_stays():
    weights = [TeacherKl(steps=200).weight(step) for step in (0, 100, 200, 900)]
    assert weights == pytest.approx([5e-3, 3e-3, 1e-3, 1e-3])


def test_right_rows_or_groups_without_a_wrong_row_are_left_alone():
    given = inputs([1.0, 0.0, 1.0, 1.0, 0.0], [3, 3, 5, 5, 8])
    by_row, by_group = TeacherKl(rows="wrong"), TeacherKlOfFailingGroups(rows="wrong")
    assert (by_row(given)[:, 0] > 0).tolist() == [False, True, False, False, True]
    assert (by_group(given)[:, 0] > 0).tolist() == [True, True, False, False, True]


@pytest.mark.parametrize(
    "part", [TeacherKl(), TeacherKl(rows="wrong"), TeacherKlOfFailingGroups(rows="wrong")]
)
def test_they_are_regularizers(part):
    check_regularizer(part)


def test_the_teacher_is_the_policy_of_the_start_and_reads_the_answer(tiny, make_examples):
    names = Names(tiny.builder.ids, tiny.builder.titles)
    speaker = Speaker(tiny.policy, tiny.answers, SharedPrefix(), Constrained(), names)
    tiny.policy.begin_phase("grpo", keep_reference=True)
    examples = make_examples(tiny.builder)
    batch = speaker.complete([examples[0], examples[3]], Turn(0, 4))
    told = [f"The user chose {said}.\n{example.prompt}" for said, example in zip(
        ("[ITEM_3] Blue Chair", "[ITEM_6] Tall Shelf"), batch.examples, strict=True
    )]  # fmt: skip
    expected, uninformed = speaker.score(batch, prompts=told), speaker.score(batch)
    with torch.no_grad():
        for weight in tiny.policy.model.parameters():
            weight.mul_(0.5)
    found = Informed()(batch, speaker)
    assert_close(found, expected)
    assert (found - uninformed).abs().max() > 0.1
    # Only the rows that are asked for are scored.
    assert Informed()(batch, speaker, torch.tensor([1])).any(1).nonzero().tolist() == [[1]]


def test_the_teacher_reads_the_example_of_each_prompt():
    batch = toy_batch(["[ITEM_1]", "[ITEM_2]"], group_of=[0, 1])
    batch = replace(batch, prompt_of=torch.tensor([1, 0]))
    hint = "Hint [ITEM_1] Red Lamp "
    assert Informed("Hint {answer} ").prompts(batch) == [
        hint + "likes lamps likes lamps ",
        hint + "likes lamps ",
    ]


def test_a_hint_without_the_answer_is_refused():
    with pytest.raises(ValueError, match="answer"):
        Informed("Think hard.")


def test_the_variant_composes():
    composed = compose_checked("train", ["variant=kdrl"], CONFIG_DIR)
    assert composed.faults == []
    check_config(composed.config)
    assert composed.config.grpo.beta == 0
    composed = compose_checked("train", ["variant=kdrl", "teacher=null"], CONFIG_DIR)
    with pytest.raises(Exception, match=r"regularizers\.teacher_kl.* needs a teacher"):
        check_config(composed.config)
