from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.compose import compose_checked
from mllmrec.testing import check_advantage, toy_batch
from mllmrec.variants.riskpo import BundleRisk


def judged(rewards, group_of):
    return toy_batch(["a"] * len(rewards), rewards=rewards, group_of=group_of)


def begun(part, q_low, q_high):
    part.load_state_dict({"tracked": torch.tensor([q_low, q_high])})
    return part


def test_the_value_of_papers_by_hand():
    scores = torch.tensor([0.0, 1, 2, 3, 5])
    # RVaR 0, 0, 1/0.6, 2/0.6, 3/0.6; CVaR -1/0.2 for the first; (1.5 · CVaR + RVaR) / 2.5.
    assert_close(BundleRisk().value(scores, 1, 4), torch.tensor([-3.0, 0, 2 / 3, 4 / 3, 2]))
    # Its baseline is -3 / 0.6 / 2.5 for all.
    assert_close(BundleRisk(baseline=True).value(scores, 1, 4), torch.tensor([-5.0, -2, -4 / 3, -2 / 3, 0]))


def test_papers_have_one_answer_of_each_group_and_share_an_advantage():
    # Papers of two prompts: 0 + 0, 1 + 0, 1 + 1, 1 + 2, 2 + 3.
    batch = judged([0.0, 1, 1, 1, 2, 0, 0, 1, 2, 3], [0] * 5 + [1] * 5)
    given = begun(BundleRisk(bundle=2, credit="uniform"), 1.0, 4.0)(batch)
    # The deviation of the five scores is the root of 14.8 / 4, 1.9235.
    expected = torch.tensor([-1.5596, 0, 0.3466, 0.6932, 1.0398])
    assert_close(given, expected.repeat(2), atol=1e-4, rtol=0)


def test_quantiles_follow_the_scores():
    part = begun(BundleRisk(bundle=1), 1.0, 4.0)
    part(judged([0.0, 1, 2, 3, 5], [0] * 5))
    # One score of five is below 1, four are below 4: both are where they belong.
    assert part.metrics() == pytest.approx({"riskpo/q_low": 1.0, "riskpo/q_high": 4.0})
    part(judged([5.0, 5, 5, 5, 5], [0] * 5))
    assert part.metrics() == pytest.approx({"riskpo/q_low": 1.02, "riskpo/q_high": 4.08})
    other = BundleRisk(bundle=1)
    other.load_state_dict(part.state_dict())
    assert other.metrics() == part.metrics()


def test_the_first_step_takes_its_own_quantiles():
    batch = judged([0.0, 1, 2, 3, 4], [0] * 5)
    first, of_the_batch = BundleRisk(bundle=1), BundleRisk(bundle=1, quantiles="batch")
    assert_close(first(batch), of_the_batch(batch))


@pytest.mark.parametrize(
    ("credit", "expected"),
    [
        # Means 0.5, so gains of 0.5 and 0.5 in the first paper, -0.5 and -0.5 in the other.
        ("share", [0.5, 0.5, 0.5, 0.5]),
        ("score", [0.5, 1.5, 0.5, 1.5]),
        # The root of 1/2 is the deviation of 0 and 1.
        ("std", [2**0.5] * 4),
        ("uniform", [1.0] * 4),
    ],
)
def test_credit_of_the_rows_of_a_paper(credit, expected):
    batch = judged([1.0, 0, 1, 0], [0, 0, 1, 1])
    part, whole = (begun(BundleRisk(bundle=2, credit=way), 1.0, 2.0) for way in (credit, "uniform"))
    assert_close(part(batch), whole(batch) * torch.tensor(expected))


def test_a_paper_without_a_gain_is_shared_evenly():
    # In the first paper gains of 0.5 and -0.5 add up to nothing; the others' are one row's alone.
    batch = judged([1.0, 0, 0.5, 0, 0.5, 1], [0, 0, 0, 1, 1, 1])
    part, whole = (begun(BundleRisk(bundle=2, credit=way), 0.0, 2.0) for way in ("share", "uniform"))
    shares = torch.tensor([0.5, 1.0, 0.0, 0.5, 0.0, 1.0])
    assert_close(part(batch), whole(batch) * shares)


def test_papers_that_all_score_alike_tell_nothing():
    # Both papers score 1, below the lower quantile.
    assert begun(BundleRisk(bundle=2), 2.0, 3.0)(judged([1.0, 0, 0, 1], [0, 0, 1, 1])).tolist() == [0.0] * 4


def test_a_last_bundle_with_fewer_prompts_counts_like_a_full_one():
    three = judged([0.0, 2, 0, 2, 0, 2], [0, 0, 1, 1, 2, 2])
    given = begun(BundleRisk(bundle=2, credit="uniform"), 1.0, 3.0)(three)
    # All bundles have the scores 0 and 4.
    assert_close(given[4:], given[:2])


def test_groups_of_different_sizes_meet_the_means_of_the_others():
    # Means 1 and 0.5: scores 0.5, 2.5 and 1, 2, 1, 2.
    ragged = judged([0.0, 2, 0, 1, 0, 1], [0, 0, 1, 1, 1, 1])
    scores = torch.tensor([0.5, 2.5, 1, 2, 1, 2])
    part = begun(BundleRisk(bundle=2, credit="uniform"), 1.0, 3.0)
    assert_close(part(ragged), part.value(scores, 1.0, 3.0) / scores.std())


@pytest.mark.parametrize("credit", ["uniform", "std", "score", "share"])
@pytest.mark.parametrize("quantiles", ["track", "batch", "mix"])
def test_it_is_an_advantage(credit, quantiles):
    check_advantage(BundleRisk(credit=credit, quantiles=quantiles))


def test_answers_that_were_not_drawn_are_refused():
    with pytest.raises(ValueError, match="draws"):
        check_advantage(BundleRisk(), weighted=True)


def test_the_variant_composes():
    composed = compose_checked("train", ["variant=riskpo"], CONFIG_DIR)
    assert composed.faults == []
    check_config(composed.config)
    assert composed.config.grpo.prompts_per_step % composed.config.advantage.bundle == 0
    assert composed.config.sampler.bundle == composed.config.advantage.bundle
