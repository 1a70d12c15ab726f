from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mllmrec.engine.shared_prefix import SharedPrefix
from mllmrec.phases.base import Learner, OptimizerSettings
from mllmrec.phases.sft import Sft, hybrid_share
from mllmrec.prompts.markup import item_mark

MARKS = [item_mark(str(item)) for item in range(12)]


@pytest.mark.parametrize(
    ("step", "steps", "share"),
    [(0, 5, 0.0), (1, 5, 0.25), (2, 5, 0.5), (4, 5, 1.0), (0, 1, 1.0), (1, 2, 1.0)],
)
def test_the_share_rises_by_the_same_each_step(step, steps, share):
    assert hybrid_share(step, steps) == share


@pytest.fixture
def make_stage(tiny, make_builder, make_examples):
    """An SFT phase over 11 steps and one of the six examples, whose prompt has item tokens."""

    def make(curriculum: str, seed: int = 0):
        tiny.policy.begin_phase("sft", keep_reference=False)
        stage = Sft(
            Learner(tiny.policy, SharedPrefix(), micro_batch_size=8),
            tiny.answers,
            OptimizerSettings(1e-2),
            updates=11,
            curriculum=curriculum,
            seed=seed,
        )
        return stage, make_examples(make_builder(answer="id", marked=[str(number) for number in range(12)]))[
            2
        ]

    tiny.policy.add_marks(MARKS)
    tiny.policy.read_items(torch.randn(12, 4, generator=torch.Generator().manual_seed(1)), seed=0)
    return make


def test_prompts_go_from_text_alone_to_item_tokens(make_stage, make_examples):
    stage, example = make_stage("linear")
    batch = [example] * 400
    counts = [sum("<|item:" in shown.prompt for shown in stage.shown(batch, step)) for step in range(11)]
    assert counts[0] == 0
    assert counts[10] == 400
    # Step t of 0 to 10 shows them with probability t / 10; the deviation of 400 draws is at most 10.
    assert all(abs(count - 40 * step) < 50 for step, count in enumerate(counts))
    # Prompts without item tokens are exactly the prompts of a run without item tokens.
    assert stage.shown([example], 0)[0].prompt == make_examples()[2].prompt


def test_the_draws_are_those_of_seed_and_step(make_stage):
    stage, example = make_stage("linear")
    batch = [replace(example, sample_id=str(row)) for row in range(64)]
    other, _ = make_stage("linear", seed=1)
    shown = [[row.prompt for row in made.shown(batch, 5)] for made in (stage, stage, other)]
    assert shown[0] == shown[1] != shown[2]
    assert [row.prompt for row in stage.shown(batch, 6)] != shown[0]


def test_without_a_curriculum_all_prompts_are_as_they_were_built(make_stage):
    stage, example = make_stage("none")
    assert stage.shown([example, example], 0) == [example, example]


def test_text_alone_leaves_the_projector_and_hybrid_prompts_train_it(make_stage, fit):
    stage, example = make_stage("linear")
    projector = [weight for name, weight in stage.model.named_parameters() if "item_projector" in name]
    embedding = stage.model.get_input_embeddings()
    vectors = embedding.item_vectors.clone()
    before = [weight.detach().clone() for weight in projector]
    fit(stage, [[example] * 4])  # step 0 of 11
    assert all(torch.equal(weight, old) for weight, old in zip(projector, before, strict=True))
    again, _ = make_stage("none")
    fit(again, [[example] * 4])
    assert not any(torch.equal(weight, old) for weight, old in zip(projector, before, strict=True))
    assert torch.equal(embedding.item_vectors, vectors)
