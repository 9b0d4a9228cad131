"""Rectangles that cover an image, each with the surroundings it depends on."""

from __future__ import annotations

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
    """As `tiles`, but all of them have one shape with their surroundings, and as few as cover the image.

    What runs them is prepared for one shape only. size: about how many pixels a side are kept of each; block:
    the model's, of which low and high are multiples as well as start and stop.
    """
    rows, columns = (
        _windows(start, stop, length, size, halo, block)
        for (start, stop), length in zip(region or ((0, shape[0]), (0, shape[1])), shape, strict=True)
    )
    return [Tile(row, column) for row in rows for column in columns]


def _windows(start: int, stop: int, length: int, size: int, halo: int, block: int) -> list[Span]:
    first, last = max(start - halo, 0), min(stop + halo, length)
    count = -(-(stop - start) // size)
    # Neighbours share two halos.
    side = -(-(last - first + 2 * halo * (count - 1)) // (count * block)) * block
    if count == 1 or side >= last - first:
        return [Span(start, stop, first, last)]
    lows = [min(first + index * (side - 2 * halo), last - side) for index in range(count)]
    ends = [start, *(low + side - halo for low in lows[:-1]), stop]
    return [
        Span(begin, end, low, low + side)
        for low, begin, end in zip(lows, ends[:-1], ends[1:], strict=True)
        if begin < end
    ]
