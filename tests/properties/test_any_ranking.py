"""Tries, candidates, metrics, advantages and losses keep their promises for any input, not only for that of other tests."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mllmrec.data.base import Interactions, Items
from mllmrec.data.candidates import CandidateSampler, Catalogue
from mllmrec.data.splits import LeaveOneOut
from mllmrec.evaluation.metrics import order_by_score, per_user_metrics
from mllmrec.prompts.trie import AnswerTrie, UnknownPrefix, choice_sets
from mllmrec.rl.advantages import group_relative, leave_one_out
from mllmrec.rl.groups import Groups
from mllmrec.rl.losses import AGGREGATIONS, ClippedRatio, LossInputs, aggregate

ANSWERS = st.lists(st.lists(st.integers(0, 4), max_size=5), max_size=8)


@given(ANSWERS, st.lists(st.integers(0, 5), max_size=6))
def test_a_trie_allows_exactly_its_answers(answers: list[list[int]], prefix: list[int]) -> None:
    begins = any(a == b[: len(a)] for i, a in enumerate(answers) for j, b in enumerate(answers) if i != j)
    if not answers or begins or [] in answers:
        with pytest.raises(ValueError, match=r"answer|trie"):
            AnswerTrie(answers)
        return
    trie = AnswerTrie(answers)
    behind = [answer[len(prefix) :] for answer in answers if answer[: len(prefix)] == prefix]
    if not behind:
        with pytest.raises(UnknownPrefix):
            trie.walk(prefix)
    else:
        assert trie.allowed(prefix) == sorted({rest[0] for rest in behind if rest})
        assert (trie.walk(prefix).answer is not None) == (behind == [[]])
    sets, decisions = choice_sets([trie] * len(answers), answers)
    for row, answer in enumerate(answers):
        for place, token in enumerate(answer):
            own = [one for one in sets.tokens[sets.set_of[row, place]].tolist() if one >= 0]
            assert own == trie.allowed(answer[:place])
            assert token in own
            assert bool(decisions[row, place]) == (len(own) > 1)


@st.composite
def catalogues(draw: st.DrawFn):
    size = draw(st.integers(4, 30))
    users = draw(st.lists(st.lists(st.integers(0, size - 1), min_size=5, max_size=8), min_size=2, max_size=5))
    names = draw(st.permutations([f"i{number}" for number in range(size)]))
    untitled = draw(st.sets(st.integers(0, size - 1), max_size=3))
    titles = np.array(["" if code in untitled else f"title {code}" for code in range(size)], dtype=object)
    items = Items(np.array(names), titles, np.full(size, "", dtype=object))
    data = Interactions(
        np.array([f"u{number}" for number in range(len(users))]),
        np.cumsum([0, *map(len, users)]).astype(np.int64),
        np.array([item for own in users for item in own], dtype=np.int32),
    )
    return items, data


@given(catalogues(), st.integers(1, 6), st.sampled_from(["uniform", "popularity"]), st.integers(0, 3))
def test_candidates_hold_the_target_once_and_nothing_known(
    drawn, negatives: int, weighting: str, seed: int
) -> None:
    items, data = drawn
    splits = LeaveOneOut()(data)
    samples = splits["test"]
    source = CandidateSampler(negatives, weighting, seed).bind(Catalogue(data, items), splits["train"])
    assume((source._pool_sizes >= negatives).all())
    frozen = source.freeze(samples, "test")
    again = (
        CandidateSampler(negatives, weighting, seed)
        .bind(Catalogue(data, items), splits["train"])
        .freeze(samples, "test")
    )
    assert np.array_equal(frozen.items, again.items)
    for row in range(len(samples)):
        codes, target = frozen.items[row], samples.target(row)
        assert len({*codes.tolist()}) == negatives + 1
        assert codes[frozen.target_column[row]] == target
        known = set(data.of_user(int(samples.users[row])).tolist())
        assert not known & ({*codes.tolist()} - {target})
        assert all(items.titles[code] for code in codes if code != target)
        one, column = source.candidates_of(samples, row, "test")
        assert (one.tolist(), column) == (codes.tolist(), frozen.target_column[row])


RANKS = arrays(
    np.float64, st.integers(1, 20), elements=st.integers(1, 1000).map(float) | st.just(float("nan"))
)


@given(RANKS, st.lists(st.integers(1, 50), min_size=1, max_size=4), st.randoms())
def test_metrics_lie_between_0_and_1_and_grow_with_k(ranks: np.ndarray, ks: list[int], random) -> None:
    found = per_user_metrics(ranks, ks)
    for values in found.values():
        assert ((values >= 0) & (values <= 1)).all()
    for kind in ("HR", "NDCG"):
        grown = [found[f"{kind}@{k}"] for k in sorted(set(ks)) if f"{kind}@{k}" in found]
        assert all((later >= before).all() for before, later in pairwise(grown))
    for k in set(ks) - {1}:
        assert (found[f"NDCG@{k}"] <= found[f"HR@{k}"]).all()
    order = list(range(len(ranks)))
    random.shuffle(order)
    shuffled = per_user_metrics(ranks[order], ks)
    assert all(np.array_equal(shuffled[name], values[order]) for name, values in found.items())


SCORES = arrays(
    np.float64, st.tuples(st.integers(1, 4), st.integers(1, 6)), elements=st.floats(allow_nan=False)
)


@given(SCORES, st.integers(0, 5))
def test_an_order_holds_every_candidate_once_best_first(scores: np.ndarray, seed: int) -> None:
    order = order_by_score(scores, [f"u{row}" for row in range(len(scores))], seed)
    ranked = np.take_along_axis(scores, order, axis=1)
    assert (np.sort(order, axis=1) == np.arange(scores.shape[1])).all()
    assert (ranked[:, :-1] >= ranked[:, 1:]).all()


FLOATS = st.floats(-1e6, 1e6, width=32)


@st.composite
def rewards(draw: st.DrawFn) -> tuple[torch.Tensor, Groups]:
    sizes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    values = draw(st.lists(FLOATS, min_size=sum(sizes), max_size=sum(sizes)))
    order = draw(st.permutations(range(sum(sizes))))
    group_of = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return torch.tensor(values), Groups(group_of[list(order)])


ESTIMATORS = {
    "grpo": group_relative,
    "batch": lambda values, groups: group_relative(values, groups, "batch"),
    "dr_grpo": lambda values, groups: group_relative(values, groups, "none"),
    "rloo": leave_one_out,
}


@pytest.mark.parametrize("name", ESTIMATORS)
@given(drawn=rewards(), shift=st.floats(-100, 100), scale=st.sampled_from([0.5, 2.0, 8.0]))
def test_advantages_are_finite_and_know_no_zero_point(name: str, drawn, shift: float, scale: float) -> None:
    values, groups = drawn
    estimate = ESTIMATORS[name]
    found = estimate(values, groups)
    assert found.shape == values.shape
    assert torch.isfinite(found).all()
    equal = groups.rows(groups.all_equal(values))
    assert (found[equal] == 0).all()
    if values.abs().max() < 1e3:
        single = torch.zeros(groups.count).index_add(0, groups.group_of, found)
        assert torch.allclose(
            single, torch.zeros(groups.count), atol=1e-3 * max(1.0, float(found.abs().max()))
        )
    # In doubles, where neither a mean nor a shift loses digits: single precision knows rewards near 1e6 to 0.06.
    exact, wide = estimate(values.double(), groups), values.double()
    within = exact.new_zeros(groups.count).index_add(0, groups.group_of, exact)
    assert torch.allclose(within, torch.zeros_like(within), atol=1e-6 * max(1.0, float(exact.abs().max())))
    moved = estimate(wide + shift, groups)
    same = ~groups.rows(groups.all_equal(wide)) | groups.rows(groups.all_equal(wide + shift))
    assert torch.allclose(
        moved[same], exact[same], rtol=1e-4, atol=1e-4 * max(1.0, float(wide.abs().max()) * 1e-6)
    )
    if name in ("dr_grpo", "rloo"):
        kept = ~groups.rows(groups.all_equal(wide)) & ~groups.rows(groups.all_equal(scale * wide))
        assert torch.allclose(estimate(scale * wide, groups)[kept], scale * exact[kept])


@given(
    st.data(),
    st.sampled_from(["token", "sequence"]),
    st.sampled_from(AGGREGATIONS),
    st.sampled_from([None, 4.0]),
)
def test_the_loss_and_its_gradient_are_finite(
    data: st.DataObject, level: str, how: str, delta: float | None
) -> None:
    shape = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 4)))

    def table(low: float, high: float) -> torch.Tensor:
        return torch.tensor(data.draw(arrays(np.float32, shape, elements=st.floats(low, high, width=32))))

    mask = torch.tensor(data.draw(arrays(bool, shape)))
    logprobs = table(-1e4, 0).requires_grad_()
    inputs = LossInputs(logprobs, table(-1e4, 0), table(-100, 100)[:, :1], mask, torch.zeros(shape))
    terms = ClippedRatio(level=level, delta=delta)(inputs).terms
    counted = max(int(mask.sum()), 1)
    loss = aggregate(terms, mask, how, tokens=counted, sequences=shape[0], max_length=shape[1])
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logprobs.grad).all()
    assert (logprobs.grad[~mask] == 0).all()


@given(st.lists(st.floats(-10, 10, width=32), min_size=2, max_size=6))
def test_where_nothing_moved_the_loss_is_minus_the_advantage(advantages: list[float]) -> None:
    logprobs = -torch.rand(len(advantages), 3)
    mask = torch.ones_like(logprobs, dtype=torch.bool)
    weights = torch.tensor(advantages)[:, None]
    terms = ClippedRatio()(LossInputs(logprobs, logprobs, weights, mask, torch.zeros_like(logprobs))).terms
    assert torch.equal(terms, -weights.expand_as(terms))
