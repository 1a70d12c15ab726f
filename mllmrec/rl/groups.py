"""Statistics within groups of rollouts, which may differ in size. Values are (R,) or (R, K): one row for each rollout."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor


class Groups:
    """R rows in N groups.

    Groups of equal size whose rows lie together are computed as one (N, G) tensor; others as a padded one. Both give the
    same numbers up to rounding.
    """

    def __init__(self, group_of: Tensor, weights: Tensor | None = None) -> None:
        """Take the rows' groups.

        Args:
            group_of: (R,) the group of each row, from 0 to N - 1; every group has a row.
            weights: (R,) probability of each row, if a group's rows are all possible answers and not draws. Means and
                deviations are then exact for the policy; those of draws approach them as groups grow.
        """
        self.group_of, self.weights = group_of, weights
        self.count = int(group_of.max()) + 1 if len(group_of) else 0

    @cached_property
    def sizes(self) -> Tensor:
        """(N,) rows of each group."""
        return torch.bincount(self.group_of, minlength=self.count)

    @cached_property
    def size(self) -> int | None:
        """G, if all groups have the same size and each group's rows lie together, in order; otherwise None."""
        if self.count == 0 or len(self.group_of) % self.count:
            return None
        size = len(self.group_of) // self.count
        even = torch.arange(self.count, device=self.group_of.device).repeat_interleave(size)
        return size if torch.equal(self.group_of, even) else None

    def mean(self, values: Tensor) -> Tensor:
        """(R, ...) → (N, ...)."""
        table, weights = self._table(values)
        if weights is None:
            return table.mean(1)
        return (table * weights).sum(1) / weights.sum(1)

    def std(self, values: Tensor, unbiased: bool = True) -> Tensor:
        """(R, ...) → (N, ...): with divisor G - 1 over draws, zero for a group of one; exact if rows have weights.

        Unless ``unbiased``, the divisor is G.
        """
        table, weights = self._table(values)
        if self.weights is not None:
            assert weights is not None
            distance = (table - self.mean(values)[:, None]).square()
            return ((distance * weights).sum(1) / weights.sum(1)).sqrt()
        if weights is None:
            divisor = table.shape[1] - int(unbiased)
            return table.std(1, correction=int(unbiased)) if divisor else torch.zeros_like(table[:, 0])
        distance = (table - self.mean(values)[:, None]).square()
        return ((distance * weights).sum(1) / (weights.sum(1) - int(unbiased)).clamp_min(1)).sqrt()

    def most(self, values: Tensor) -> Tensor:
        """(R, ...) → (N, ...): the largest value of each group."""
        return self._filled(values, -float("inf")).amax(1)

    def least(self, values: Tensor) -> Tensor:
        """(R, ...) → (N, ...): the smallest value of each group."""
        return self._filled(values, float("inf")).amin(1)

    def any(self, rows: Tensor) -> Tensor:
        """(R,) bool → (N,) bool: groups that have such a row."""
        found = torch.zeros(self.count, dtype=torch.bool, device=rows.device)
        return found.index_fill(0, self.group_of.to(rows.device)[rows], True)

    def rows(self, of_groups: Tensor) -> Tensor:
        """(N, ...) → (R, ...): each row's group's value."""
        return of_groups[self.group_of.to(of_groups.device)]

    def all_equal(self, values: Tensor, tolerance: float = 1e-6) -> Tensor:
        """(R,) → (N,) bool: groups in which all values are equal, so that they carry no signal."""
        return (self.most(values) - self.least(values)) <= tolerance

    def centred(self, values: Tensor) -> Tensor:
        """(R, ...) → (R, ...): values minus the mean of their group; exactly zero where all of a group are equal."""
        # Rounding may shift the mean of equal values, and dividing by a tiny deviation would turn the shift into a signal.
        return (values - self.rows(self.mean(values))).masked_fill(self.rows(self.all_equal(values)), 0.0)

    @cached_property
    def _places(self) -> tuple[Tensor, Tensor]:
        """(R,) row and column of each value in a padded table: its group, and how many of it came before."""
        order = torch.argsort(self.group_of, stable=True)
        starts = self.sizes.cumsum(0) - self.sizes
        columns = torch.empty_like(self.group_of)
        columns[order] = torch.arange(len(order), device=order.device) - starts[self.group_of[order]]
        return self.group_of, columns

    def _filled(self, values: Tensor, filling: float) -> Tensor:
        if self.size is not None:
            return values.view(self.count, self.size, *values.shape[1:])
        table = values.new_full((self.count, int(self.sizes.max()), *values.shape[1:]), filling)
        return table.index_put(self._places, values)

    def _table(self, values: Tensor) -> tuple[Tensor, Tensor | None]:
        """(N, G, ...) values, and weights of a shape that multiplies them; None if every place counts once."""
        table = self._filled(values, 0.0)
        if self.size is not None and self.weights is None:
            return table, None
        counted = values.new_ones(len(values)) if self.weights is None else self.weights
        weights = self._filled(counted.to(values.dtype), 0.0)
        return table, weights.view(*weights.shape, *[1] * (values.dim() - 1))
