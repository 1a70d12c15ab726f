"""The search tree of ReST-RL and its value model: numbers that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mllmrec.inference.tree import Node, back_up, expand, select, uct
from mllmrec.inference.values import ValueModel, prefix_returns


def test_the_term_of_a_node_is_that_of_the_authors():
    # 0.5 + 0.2 * sqrt((1 + ln 5) / (0.1 + 1))
    assert uct(0.5, 5, 1) == pytest.approx(0.808, abs=5e-4)
    # Nothing is added to the value of the only visit but its own term: 0.2 * sqrt(1 / 1.1).
    assert uct(0.0, 1, 1) == pytest.approx(0.1907, abs=5e-5)
    assert uct(0.5, 5, 1, exploration=0.4) - 0.5 == pytest.approx(2 * (uct(0.5, 5, 1) - 0.5))


def test_a_value_counts_at_all_nodes_above():
    root = Node(())
    child = Node((2,), root)
    back_up(child, 1.5, 3)
    back_up(root, 0.5, 1)
    assert (child.value, child.visits, child.total) == (0.5, 3, 1.5)
    assert (root.value, root.visits, root.total) == (0.5, 4, 2.0)


def test_steps_that_were_drawn_twice_count_twice_and_the_best_stay():
    root = Node(())
    expand(root, [7, 8, 7, 9], {7: 0.2, 8: 0.6, 9: 0.4}, most=2)
    assert [(child.path, child.value, child.visits) for child in root.children] == [
        ((8,), 0.6, 1),
        ((9,), 0.4, 1),
    ]
    # The values of all four draws: (0.2 + 0.6 + 0.2 + 0.4) / 4.
    assert (root.visits, root.value) == (4, pytest.approx(0.35))
    assert [leaf.path for leaf in root.leaves()] == [(8,), (9,)]
    equal = Node(())
    expand(equal, [5, 3, 4], {3: 1.0, 4: 1.0, 5: 1.0}, most=2)
    assert [child.path for child in equal.children] == [(5,), (3,)]


def grown() -> Node:
    """A root with the children 0 of value 0.6 and 1 of value 0.5, one visit each, and below 0 two of value 0."""
    root = Node(())
    expand(root, [0, 1], {0: 0.6, 1: 0.5}, most=2)
    assert select(root, 0.2, 0.1).path == (0,)
    expand(root.children[0], [1, 2], {1: 0.0, 2: 0.0}, most=2)
    return root


def test_a_search_leaves_a_branch_that_disappoints():
    root = grown()
    first, second = root.children
    # 0: (0.6 + 0 + 0) / 3; the root: (0.6 + 0.5 + 0 + 0) / 4.
    assert (first.value, first.visits) == (pytest.approx(0.2), 3)
    assert (root.value, root.visits) == (pytest.approx(0.275), 4)
    # 0.2 + 0.2 * sqrt((1 + ln 4) / 3.1) = 0.375 is less than 0.5 + 0.2 * sqrt((1 + ln 4) / 1.1) = 0.795.
    assert select(root, 0.2, 0.1) is second


def test_a_large_exploration_prefers_what_was_visited_less():
    root = Node(())
    expand(root, [0, 0, 0, 1], {0: 0.6, 1: 0.5}, most=2)
    # By value and a small term 0; 1 has one visit and 0 three: 0.1 is less than 0.2 * sqrt(2.386) * (0.953 - 0.568) = 0.119.
    assert select(root, 0.1, 0.1).path == (0,)
    assert select(root, 0.2, 0.1).path == (1,)


def test_a_prefix_is_worth_the_mean_of_the_lists_that_begin_with_it():
    found = prefix_returns([[1, 2], [1, 3], [2, 1], [1, 2]], [1.0, 0.0, -1.0, 0.5])
    assert found == {(1,): 0.5, (1, 2): 0.75, (1, 3): 0.0, (2,): -1.0, (2, 1): -1.0}


def test_a_value_model_learns_what_states_tell_of_other_prompts():
    states = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    groups = np.arange(60) // 3
    values = ValueModel(states, 2.0 * states[:, 1] - 1.0, groups)
    assert values.explained > 0.99
    np.testing.assert_allclose(values(np.array([[5.0, 0.5, -5.0]])), [0.0], atol=0.01)
    # Rewards that have nothing to do with the states are not explained; equal ones leave nothing to explain.
    assert ValueModel(states, np.random.default_rng(1).normal(size=60), groups).explained < 0.2
    assert ValueModel(states, np.full(60, 0.3), groups).explained == 0.0
