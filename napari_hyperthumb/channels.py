"""Axes, channels and their value ranges, and what coding does to values in the image's own units."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import ImageError
from .pixels import Array, ValueRange, sampled, warn_of_outliers

AXES = "TCZYXS"
"""Time, channel, depth, rows, columns; S: the three samples of an RGB pixel."""
Index = tuple[int, ...]


@dataclass(frozen=True)
class Percentile:
    """A value range by rank: a few hot pixels don't spend the codec's steps. Values beyond are clipped."""

    low: float = 0.1
    high: float = 99.9

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 100:
            raise ImageError(
                f"percentiles must be from 0 to 100, low first, not {self.low:g} and {self.high:g}"
            )


Ranges = None | str | Percentile | ValueRange | Sequence[ValueRange]
"""None: 0 .. 255 for uint8, else "data"; "data": least and greatest value of each channel; a Percentile of
each channel; one pair for all channels; or a pair for each channel."""


@dataclass(frozen=True)
class Layout:
    """The axes of an array: which of them make a plane, and which one is the channel."""

    axes: str
    """Such as "CZYX"; planes last: "...YX" or "...YXS"."""
    shape: tuple[int, ...]

    @property
    def rgb(self) -> bool:
        """Whether the planes are colour pictures."""
        return self.axes.endswith("S")

    @property
    def stacked(self) -> tuple[int, ...]:
        """Lengths of the axes in front of a plane's; () for one plane."""
        return self.shape[: len(self.axes) - (3 if self.rgb else 2)]

    @property
    def plane(self) -> tuple[int, int]:
        """Height and width."""
        at = len(self.stacked)
        return self.shape[at], self.shape[at + 1]

    @property
    def channels(self) -> int:
        """How many channels there are; an RGB picture is one."""
        return self.shape[self.axes.index("C")] if "C" in self.axes else 1

    def channel(self, index: Index) -> int:
        """The channel that the plane at an index of `stacked` belongs to."""
        return index[self.axes.index("C")] if "C" in self.axes else 0

    def indices(self, channel: int | None = None) -> Iterator[Index]:
        """Every plane's index, or those of a channel."""
        for index in np.ndindex(self.stacked):
            if channel is None or self.channel(index) == channel:
                yield index


def with_planes_last(array: Any, axes: str | None) -> tuple[Any, Layout]:
    """The array (numpy, dask, Zarr, ...) with the axes of its planes last, not copied, and its layout.

    axes: a letter of "TCZYXS" for each axis. None is allowed for two axes only: what a third one means is
    never guessed. Raises ImageError.
    """
    shape = tuple(int(side) for side in array.shape)
    if axes is None:
        if len(shape) != 2:
            raise ImageError(
                f"an array of shape {shape} may be a stack, channels or colours: say which "
                '(axes="ZYX", "CYX", "YXS", ...; --axes)'
            )
        axes = "YX"
    axes = axes.upper()
    bad = len(axes) != len(shape) or len(set(axes)) != len(axes) or not set("YX") <= set(axes) <= set(AXES)
    if bad:
        raise ImageError(
            f"axes {axes!r} don't fit an array of shape {shape}: one letter of {AXES} for each axis, "
            "each once, with Y and X"
        )
    if 0 in shape:
        raise ImageError(f"the image is empty: shape {shape}")
    if "S" in axes and shape[axes.index("S")] != 3:
        raise ImageError(
            f"colours (axis S) must be three, not {shape[axes.index('S')]}: drop an alpha channel first; "
            "other channels are axis C"
        )
    order = "".join(a for a in axes if a not in "YXS") + ("YXS" if "S" in axes else "YX")
    if order != axes:
        try:
            array = array.transpose([axes.index(a) for a in order])
        except AttributeError as error:
            raise ImageError(f"axes {axes!r}: Y and X must be the last axes of a lazy array") from error
    return array, Layout(order, tuple(int(side) for side in array.shape))


def plane_at(array: Any, index: Index) -> Array:
    """One plane in memory; the work of a lazy array happens here."""
    return np.asarray(array[index] if index else array[...])


def _finite(plane: Array) -> Array:
    if plane.dtype.kind == "f" and not np.isfinite(plane).all():
        raise ImageError("the image has NaN or infinite values; replace them first (numpy.nan_to_num)")
    if plane.dtype.kind not in "iuf":
        raise ImageError(f"values of type {plane.dtype} have no range: masks and the like aren't coded")
    return plane


def data_range(planes: Iterator[Array], wanted: Percentile | None, count: int) -> ValueRange:
    """Least and greatest value of some planes, or percentiles of them. Reads one plane at a time.

    count: how many planes there are. Warns (HyperThumbWarning) of a range that a few outliers have made.
    Raises ImageError for values that have no range.
    """
    low, high, samples = math.inf, -math.inf, []
    for plane in planes:
        _finite(plane)
        samples.append(sampled(plane, count))
        if wanted is None:
            low, high = min(low, float(plane.min())), max(high, float(plane.max()))
    together = np.concatenate(samples)
    if wanted is None:
        warn_of_outliers(together, low, high)
    else:
        low, high = (float(x) for x in np.percentile(together, [wanted.low, wanted.high]))
    return low, high


def value_ranges(array: Any, layout: Layout, wanted: Ranges = None) -> tuple[ValueRange, ...]:
    """The values that become black and white, for each channel. Raises ImageError."""
    if wanted is None:
        if np.dtype(array.dtype) == np.uint8:
            return ((0.0, 255.0),) * layout.channels
        wanted = "data"
    if isinstance(wanted, Percentile) or wanted == "data":
        rule = wanted if isinstance(wanted, Percentile) else None
        per_channel = int(np.prod(layout.stacked)) // layout.channels
        return tuple(
            data_range((plane_at(array, i) for i in layout.indices(channel)), rule, per_channel)
            for channel in range(layout.channels)
        )
    if isinstance(wanted, str):
        raise ImageError(f'value_range must be "data", a Percentile or numbers, not {wanted!r}')
    pairs: list[Any] = [wanted] * layout.channels if np.ndim(wanted) == 1 else list(wanted)
    try:
        out = tuple((float(low), float(high)) for low, high in pairs)
    except (TypeError, ValueError) as error:
        raise ImageError(f"value_range must be pairs of numbers, not {wanted!r}") from error
    if len(out) != layout.channels:
        raise ImageError(f"{len(out)} value ranges for {layout.channels} channels: give one for each")
    return out


@dataclass(frozen=True)
class Cost:
    """What coding does to values, in the image's own units. Clipping to the value range counts."""

    maximum: float
    """Largest error of any sample."""
    rms: float
    """Root of the mean squared error."""
    clipped: float
    """Share of samples that lay outside of the value range, 0 .. 1."""
    samples: int

    def __str__(self) -> str:
        text = f"error at most {self.maximum:.4g}, RMS {self.rms:.4g}"
        return text + (f", {self.clipped:.2%} of the values clipped" if self.clipped else "")


def cost_of(original: Array, decoded: Array, value_range: ValueRange) -> Cost:
    """The error between two arrays of one shape. value_range: what was black and white."""
    if original.shape != decoded.shape:
        raise ImageError(f"shapes differ: {original.shape} and {decoded.shape}")
    low, high = value_range
    # Squares of the values themselves may overflow, or vanish; a power of two rounds nothing.
    unit = 2.0 ** min(math.frexp(max(abs(low), abs(high)))[1], 1023)
    total, largest, outside = 0.0, 0.0, 0
    for start in range(0, len(original), 256):  # in strips: no copy of the whole image
        ours = original[start : start + 256].astype(np.float64)
        error = np.abs(ours / unit - decoded[start : start + 256].astype(np.float64) / unit)
        total += float(np.vdot(error, error))
        largest = max(largest, float(error.max()))
        outside += int(np.count_nonzero((ours < low) | (ours > high)))
    count = original.size
    return Cost(largest * unit, math.sqrt(total / count) * unit, outside / count, count)


def joined(costs: Sequence[Cost]) -> Cost:
    """The cost of several planes together."""
    count = sum(cost.samples for cost in costs)
    largest = max((cost.rms for cost in costs), default=0.0) or 1.0
    mean = sum((cost.rms / largest) ** 2 * cost.samples for cost in costs) / max(count, 1)
    return Cost(
        max((cost.maximum for cost in costs), default=0.0),
        largest * math.sqrt(mean),
        sum(cost.clipped * cost.samples for cost in costs) / max(count, 1),
        count,
    )
