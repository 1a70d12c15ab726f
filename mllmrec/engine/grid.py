"""Packed tokens and the grid in which attention sees them."""

from __future__ import annotations

from torch import Tensor


class Recorded(Exception):
    """Ends the encoding of prompts once the keys and values of the last layer are known."""


class Grid:
    """Where N packed tokens lie in a grid of (rows, width), filled row by row."""

    def __init__(self, rows: int, width: int, places: Tensor | None, columns: Tensor) -> None:
        self.rows, self.width = rows, width
        self.places = places  # (N,) flat positions; None if the grid is full
        self.columns = columns  # (N,)

    @classmethod
    def of(cls, filled: Tensor) -> Grid:
        """The grid with tokens where ``filled``, (rows, width) bool, is true."""
        rows, width = filled.shape
        places = filled.flatten().nonzero()[:, 0]
        return cls(rows, width, None if len(places) == rows * width else places, places % width)

    def spread(self, packed: Tensor) -> Tensor:
        """(1, H, N, D) → (rows, H, width, D), zero where there is no token."""
        heads, size = packed.shape[1], packed.shape[3]
        tokens = packed[0].transpose(0, 1)
        if self.places is not None:
            tokens = tokens.new_zeros(self.rows * self.width, heads, size).index_copy(0, self.places, tokens)
        return tokens.view(self.rows, self.width, heads, size).transpose(1, 2)

    def collect(self, grid: Tensor) -> Tensor:
        """(rows, H, width, D) → (1, N, H, D)."""
        tokens = grid.transpose(1, 2).reshape(self.rows * self.width, grid.shape[1], grid.shape[3])
        return (tokens if self.places is None else tokens[self.places])[None]
