"""The search tree of ReST-RL (arXiv 2508.19576, github.com/THUDM/ReST-RL): nodes are prefixes, and a value model takes the place of simulations."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass
class Node:
    """A prefix, and what the search knows of it."""

    path: tuple[int, ...]  # what was named so far
    parent: Node | None = None
    value: float = 0.0  # by the value model, until descendants are known; then the mean of theirs
    visits: int = 0
    total: float = 0.0  # of all values that were backed up through it
    children: list[Node] = field(default_factory=list)  # the ones that the search may enter

    def leaves(self) -> Iterator[Node]:
        """The nodes below it, and itself, that have no children."""
        if not self.children:
            yield self
        for child in self.children:
            yield from child.leaves()


def uct(value: float, parent_visits: int, visits: int, exploration: float = 0.2, eps: float = 0.1) -> float:
    """``value + exploration * sqrt((1 + ln parent_visits) / (eps + visits))``."""
    return value + exploration * math.sqrt((1 + math.log(parent_visits)) / (eps + visits))


def select(root: Node, exploration: float, eps: float) -> Node:
    """The node that is reached by entering the child of largest `uct` each time; of equal ones the first."""
    node = root
    while node.children:
        visits = node.visits
        node = max(node.children, key=lambda child: uct(child.value, visits, child.visits, exploration, eps))
    return node


def expand(node: Node, drawn: Sequence[int], values: Mapping[int, float], most: int) -> None:
    """Give a node its children, and back their values up.

    Args:
        node: without children.
        drawn: what was drawn as the next step; what was drawn twice counts as two visits.
        values: of the prefix after each distinct step.
        most: the children of largest value that stay; of equal ones the first drawn.
    """
    counts = Counter(drawn)
    found = [
        Node((*node.path, step), node, values[step], count, count * values[step])
        for step, count in counts.items()
    ]
    node.children = sorted(found, key=lambda child: -child.value)[:most]
    back_up(node, sum(values[step] for step in drawn), len(drawn))


def back_up(node: Node | None, total: float, visits: int) -> None:
    """Count values at a node and all above it."""
    while node is not None:
        node.total += total
        node.visits += visits
        node.value = node.total / node.visits
        node = node.parent
