from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from mllmrec.engine.shared_prefix import SharedPrefix
from mllmrec.evaluation.evaluate import evaluate
from mllmrec.evaluation.ranking import Likelihood, RankedExample, Ranker
from mllmrec.evaluation.records import read_stage, write_stage

ENGINE = SharedPrefix()

CUTS = {
    "all at once": [[0, 1, 2, 3, 4, 5]],
    "one by one": [[0], [1], [2], [3], [4], [5]],
    "backwards": [[5, 4, 3], [2, 1, 0]],
    "uneven": [[3, 0], [5, 1, 2, 4]],
}


def ranks_by_user(tiny, examples, batches, constrained=False, writer=None):
    ranker = Likelihood(tiny.policy, tiny.answers, ENGINE, 0, constrained)
    result = evaluate(examples, ranker, batches, writer)
    users = [examples[index].user_id for batch in batches for index in batch]
    return dict(zip(users, result.ranks.tolist(), strict=True)), result


@pytest.mark.parametrize("constrained", [False, True])
def test_results_do_not_depend_on_how_users_are_batched(tiny, make_examples, constrained):
    examples = make_examples(tiny.builder, split="test")
    found = [ranks_by_user(tiny, examples, batches, constrained) for batches in CUTS.values()]
    ranks, result = found[0]
    assert len(set(ranks.values())) > 1
    for others, its_result in found[1:]:
        assert others == ranks
        assert its_result.validity == result.validity
        assert its_result.means([1, 3]) == pytest.approx(result.means([1, 3]))


def test_all_cutoffs_are_read_off_one_ranking(tiny, make_examples):
    # Fault 25: the release makes a new prompt and generation for each K, so HR@3 may exceed HR@5.
    _, result = ranks_by_user(tiny, make_examples(tiny.builder), CUTS["all at once"])
    means = result.means([1, 2, 3, 4])
    assert means["HR@1"] <= means["HR@2"] <= means["HR@3"] <= means["HR@4"] == 1
    assert means["HR@1"] < 1
    assert means["HR@1"] == np.mean(result.ranks == 1)
    assert result.per_user([3])["HR@3"].tolist() == (result.ranks <= 3).tolist()


def test_records_belong_to_their_users(tiny, make_examples, tmp_path):
    examples = make_examples(tiny.builder, split="test")
    path = tmp_path / "per_user.parquet"
    with write_stage(path, "sft", keep_top=2) as writer:
        ranks, _ = ranks_by_user(tiny, examples, CUTS["uneven"], writer=writer)
    records = read_stage(path, "sft")
    assert sorted(records.user_ids) == [f"u{user}" for user in range(6)]
    for user, target, rank, ranking, count in zip(
        records.user_ids,
        records.target_ids,
        records.ranks,
        records.rankings,
        records.num_candidates,
        strict=True,
    ):
        assert rank == ranks[user]
        assert target == str((int(user[1:]) + 5) % 12)  # user u's last item
        assert len(ranking) == 2
        assert count == 4
        assert (target in list(ranking)) == (rank <= 2)
        if rank <= 2:
            assert ranking[int(rank) - 1] == target
    assert records.texts is None
    ranker = Likelihood(tiny.policy, tiny.answers, ENGINE, 0, constrained=False)
    for user, ranking, scores in zip(records.user_ids, records.rankings, records.scores, strict=True):
        example = examples[int(user[1:])]
        ids = [str(item) for item in example.candidates]
        with ranker.ready():
            (expected,) = ranker.scores([example])
        best = [float(expected[ids.index(item)]) for item in ranking]
        np.testing.assert_allclose(scores, best, atol=1e-4)
        assert scores[0] >= scores[1]


def test_records_carry_the_slices_in_the_order_of_the_batches(tiny, make_examples, tmp_path):
    examples = make_examples(tiny.builder, split="test")
    path = tmp_path / "per_user.parquet"
    order = [index for batch in CUTS["uneven"] for index in batch]
    ranker = Likelihood(tiny.policy, tiny.answers, ENGINE, 0, constrained=False)
    with write_stage(path, "sft") as writer:
        evaluate(examples, ranker, CUTS["uneven"], writer, [[f"slice of u{index}"] for index in order])
    records = read_stage(path, "sft")
    assert sorted(records.user_ids) == [f"u{user}" for user in range(6)]
    assert records.slices == [[f"slice of {user}"] for user in records.user_ids]


@pytest.mark.parametrize("training", [True, False])
def test_the_model_keeps_its_mode_and_weights(tiny, make_examples, training):
    tiny.policy.model.train(training)
    before = {name: weight.clone() for name, weight in tiny.policy.model.named_parameters()}
    ranks_by_user(tiny, make_examples(tiny.builder), [[0, 1]])
    assert tiny.policy.model.training is training
    for name, weight in tiny.policy.model.named_parameters():
        assert_array_equal(weight.detach(), before[name].detach())
        assert weight.grad is None


def test_mode_is_restored_after_a_failure(tiny, make_examples):
    tiny.policy.model.train()
    with pytest.raises(IndexError):
        ranks_by_user(tiny, make_examples(tiny.builder), [[99]])
    assert tiny.policy.model.training


def test_no_prompt_is_written_for_a_ranker_that_reads_none(
    make_builder, make_examples, tmp_path, monkeypatch
):
    class Longest(Ranker):
        """Ranks by item code, whatever the history, if the history is the right one."""

        def rank(self, examples):
            for example in examples:
                user = int(example.user_id[1:])
                assert example.history.tolist() == [(user + place) % 12 for place in range(5)]
                prompts.append(example.prompt)
            return [RankedExample(np.argsort(-example.candidates)) for example in examples]

    prompts: list[str] = []
    examples = make_examples(make_builder(answer="id"), split="test")
    read = evaluate(examples, Longest(), CUTS["uneven"])
    assert all(prompts)
    monkeypatch.setattr(Longest, "reads_prompts", False)
    monkeypatch.setattr(type(examples.builder), "prompt", None)  # calling it fails
    prompts.clear()
    with write_stage(tmp_path / "per_user.parquet", "longest") as writer:
        unread = evaluate(examples, Longest(), CUTS["uneven"], writer)
    assert prompts == [""] * 6
    assert_array_equal(unread.ranks, read.ranks)
    assert unread.validity == read.validity
    assert sorted(read_stage(tmp_path / "per_user.parquet", "longest").user_ids) == [
        f"u{u}" for u in range(6)
    ]
