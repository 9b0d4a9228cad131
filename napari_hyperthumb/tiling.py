"""Rectangles that cover an image, each with the surroundings it depends on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """One axis of a tile, in HR pixels: results are kept for start..stop, computed from low..high."""

    start: int
    stop: int
    low: int
    high: int

    def inner(self, unit: int) -> slice:
        """Where start..stop lies inside a result for low..high whose samples are `unit` pixels apart."""
        return slice((self.start - self.low) // unit, (self.stop - self.low) // unit)

    def core(self, unit: int) -> slice:
        """start..stop in samples of `unit` pixels."""
        return slice(self.start // unit, self.stop // unit)

    def outer(self, unit: int) -> slice:
        """low..high in samples of `unit` pixels."""
        return slice(self.low // unit, self.high // unit)


@dataclass(frozen=True)
class Tile:
    """A rectangle of the padded image; all numbers are multiples of the model's block."""

    rows: Span
    columns: Span


def _spans(start: int, stop: int, length: int, size: int, halo: int) -> list[Span]:
    return [
        Span(at, min(at + size, stop), max(at - halo, 0), min(at + size + halo, length))
        for at in range(start, stop, size)
    ]


def tiles(
    shape: tuple[int, int],
    size: int,
    halo: int,
    region: tuple[tuple[int, int], tuple[int, int]] | None = None,
) -> Iterator[Tile]:
    """Tiles of at most `size` pixels a side that cover an image, or a region of it.

    shape: padded height and width. region: ((top, bottom), (left, right)). All numbers must be
    multiples of the model's block; so are those that come out.
    """
    height, width = shape
    (top, bottom), (left, right) = region or ((0, height), (0, width))
    for rows in _spans(top, bottom, height, size, halo):
        for columns in _spans(left, right, width, size, halo):
            yield Tile(rows, columns)


def windows(
    shape: tuple[int, int],
    size: int,
    halo: int,
    block: int,
    region: tuple[tuple[int, int], tuple[int, int]] | None = None,
) -> list[Tile]:
    """As `tiles`, but all of them have one shape with their surroundings, and the fewest pixels in all.

    What runs them is prepared for one shape only. size: each keeps about size**2 pixels, in any shape; block:
    the model's, of which low and high are multiples as well as start and stop.
    """
    axes = list(zip(region or ((0, shape[0]), (0, shape[1])), shape, strict=True))
    height, width = (stop - start for (start, stop), _ in axes)
    count = max(1, -(-height * width // size**2))
    rows = range(1, min(count, -(-height // block)) + 1)
    grids = [(n, min(-(-count // n), -(-width // block))) for n in rows]

    def sides(grid: tuple[int, int]) -> list[int]:
        return [_side(axis, count, halo, block) for axis, count in zip(axes, grid, strict=True)]

    grid = min(grids, key=lambda grid: math.prod(grid) * math.prod(sides(grid)))
    down, across = (
        _windows(axis, count, side, halo) for axis, count, side in zip(axes, grid, sides(grid), strict=True)
    )
    return [Tile(row, column) for row in down for column in across]


Axis = tuple[tuple[int, int], int]
"""What is wanted of it, start to stop, and its length."""


def _ends(axis: Axis, halo: int) -> tuple[int, int]:
    (start, stop), length = axis
    return max(start - halo, 0), min(stop + halo, length)


def _side(axis: Axis, count: int, halo: int, block: int) -> int:
    """Of each of `count` windows in a row, with surroundings; neighbours share two halos."""
    first, last = _ends(axis, halo)
    return min(last - first, -(-(last - first + 2 * halo * (count - 1)) // (count * block)) * block)


def _windows(axis: Axis, count: int, side: int, halo: int) -> list[Span]:
    (start, stop), _ = axis
    first, last = _ends(axis, halo)
    if side == last - first:
        return [Span(start, stop, first, last)]
    lows = [min(first + index * (side - 2 * halo), last - side) for index in range(count)]
    ends = [start, *(low + side - halo for low in lows[:-1]), stop]
    return [
        Span(begin, end, low, low + side)
        for low, begin, end in zip(lows, ends[:-1], ends[1:], strict=True)
        if begin < end
    ]
