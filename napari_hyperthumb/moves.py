"""Whole-numbered moves of quantised coefficients: one more or one less where error and bits together fall.

Rounding each coefficient to the nearest step is blind to what the decoder makes of it. A move's effect on
the error is estimated to second order from the decoder's gradient and a curvature, its effect on the file
from the Huffman code: rate-distortion optimised quantisation (Ramchandran and Vetterli, IEEE Trans. Image
Processing 3(5), 1994) with the decoder in the loop.

Shapes: coefficients (N, C, 64, h, w), whole numbers, natural order. Errors are sums over an image of squared
differences in 8-bit levels, averaged over the colours; bits are those of an image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from . import huffman
from .jpeg import COEFFICIENTS

CAUTION = 2.6
"""How much more bits count than they are worth: moves bring less error than was estimated, since those are
picked whose estimate is best (docs/experiments.md)."""
DECAY = 0.7
"""Of the share of moves that a round makes, from one round to the next."""
TOGETHER = {2: (0.5, 1.5), 4: (1.0, 1.0)}
"""By scale, what to multiply the curvature of luma and chroma by where many coefficients move at once."""
STRIP = 2**18
"""Coefficients that are looked at together: a large image is taken in strips of blocks."""


def per_block(scale: int, level: Tensor, share: float = 1.0) -> Tensor:
    """Moves worth making at once in the planes of one 8x8 block, (N,): more of them disturb each other.

    The finer the steps and the larger the part of the image behind a block, the more; measured at
    levels -1, 0 and 1 (docs/experiments.md). share: to make fewer.
    """
    most = (2 * scale * torch.exp2(level)).round().clamp(1, COEFFICIENTS)
    return (most * share).round().long().clamp_min(1)


def thumbnail_terms(quantised: Tensor, step: Tensor, wanted: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient in `quantised` and curvature of the thumbnail's own error.

    step: of each coefficient. wanted: the coefficients of the thumbnail that the encoder started from.
    weight: of an error of the thumbnail beside one of the image. Without these terms moves would pay with
    the thumbnail's looks.
    """
    stiffness = 2 * weight * step
    return stiffness * (quantised * step - wanted), stiffness * step


class Prices(NamedTuple):
    """Bits that a move costs, all others held."""

    up: Tensor
    """Of adding one."""
    down: Tensor
    """Of taking one away."""


def groups(coefficients: Tensor) -> list[Tensor]:
    """Planes that share Huffman tables: luma, and chroma where there is some."""
    parts = [coefficients[:, :1], coefficients[:, 1:]]
    return parts[:1] if coefficients.shape[1] == 1 else parts


def strips(coefficients: Tensor) -> list[slice]:
    """Rows of blocks, `STRIP` coefficients at a time."""
    height = coefficients.shape[3]
    rows = max(1, STRIP // (coefficients.numel() // height))
    return [slice(start, start + rows) for start in range(0, height, rows)]


def _ac(group: Tensor) -> Tensor:
    return huffman.scan_order(group)[..., 1:]


def ac_code(group: Tensor) -> tuple[Tensor, Tensor]:
    """Code lengths (N, 256) and bits (N,) of the AC coefficients of planes with one Huffman table."""
    counts = torch.zeros(group.shape[0], 256, device=group.device)
    extra = torch.zeros(group.shape[0], device=group.device)
    for rows in strips(group):
        runs = huffman.run_lengths(_ac(group[:, :, :, rows]).abs())
        counts += huffman.ac_counts(runs)
        extra += runs.size.flatten(1).sum(1)
    lengths = huffman.code_lengths(counts)
    return lengths, (counts * lengths).sum(1) + extra


def _dc(group: Tensor) -> Tensor:
    return group[:, :, 0].flatten(2)  # (N, C, h*w), in the order of the scan


def count_bits(quantised: Tensor) -> Tensor:
    """Bits of the entropy-coded data, counted, (N,)."""
    parts = [ac_code(group)[1] + huffman.dc_code(_dc(group)).bits for group in groups(quantised)]
    return torch.stack(parts).sum(0)


def _dc_prices(group: Tensor) -> Prices:
    """(N, C, h, w). A DC coefficient stands in its own difference and, negated, in the next one."""
    dc = _dc(group)
    lengths = huffman.dc_code(dc).lengths
    difference = huffman.dc_differences(dc)

    def bits(change: int) -> Tensor:
        size = huffman.size_category((difference + change).abs())
        return (lengths.gather(1, size.flatten(1)) + size.flatten(1)).reshape(size.shape)

    now = bits(0)
    last = torch.zeros_like(now[..., :1])

    def price(change: int) -> Tensor:
        following = torch.cat([(bits(-change) - now)[..., 1:], last], -1)
        return (bits(change) - now + following).reshape(group[:, :, 0].shape)

    return Prices(price(1), price(-1))


def slopes(scaled: Tensor) -> Tensor:
    """Bits that each AC coefficient costs per unit of magnitude before rounding, (N, C, 64, h, w); DC: 0.

    See `huffman.AcCode.slope`.
    """
    rounded = scaled.round()
    out = torch.zeros_like(scaled)
    start = 0
    for group in groups(rounded):
        planes = slice(start, start + group.shape[1])
        lengths = ac_code(group)[0]
        for rows in strips(group):
            part = group[:, :, :, rows]
            slope = huffman.AcCode(_ac(part), lengths).slope(_ac(scaled[:, planes, :, rows]))
            both = torch.cat([torch.zeros_like(slope[..., :1]), slope], -1)
            out[:, planes, :, rows] = huffman.natural_order(both, *part.shape[3:])
        start = planes.stop
    return out


def _prices(quantised: Tensor) -> Prices:
    """Of every move under the image's own Huffman code, each (N, C, 64, h, w)."""
    out = Prices(torch.empty_like(quantised), torch.empty_like(quantised))
    start = 0
    for group in groups(quantised):
        planes = slice(start, start + group.shape[1])
        lengths, dc = ac_code(group)[0], _dc_prices(group)
        for rows in strips(group):
            part = group[:, :, :, rows]
            for whole, d, a in zip(out, dc, huffman.AcCode(_ac(part), lengths).prices(), strict=True):
                both = torch.cat([d[:, :, rows].flatten(2)[..., None], a], -1)
                whole[:, planes, :, rows] = huffman.natural_order(both, *part.shape[3:])
        start = planes.stop
    return out


@dataclass(frozen=True)
class Offers:
    """What the moves of a round would bring, whatever a bit costs."""

    quantised: Tensor
    gradient: Tensor
    """d error / d quantised, same shape."""
    curvature: Tensor
    """Second derivative, (N, C, 64, 1, 1)."""
    prices: Prices
    """Each (N, C, 64, h, w)."""

    @classmethod
    def at(cls, quantised: Tensor, gradient: Tensor, curvature: Tensor) -> Offers:
        """Price the moves of these coefficients."""
        return cls(quantised, gradient, curvature, _prices(quantised))

    def taken(self, weight: Tensor, count: Tensor, *, kept: Tensor | None = None) -> Tensor:
        """The coefficients after the most promising moves of every block.

        weight: (N,), how much error one bit is worth. count: (N,), moves of a block at most.
        kept: (N, C, 1, 1, 1), false where planes must stay as they are.
        """
        lam = weight.reshape(-1, 1, 1, 1, 1)
        out = torch.empty_like(self.quantised)
        for rows in strips(self.quantised):
            here, slope = self.quantised[:, :, :, rows], self.gradient[:, :, :, rows]
            up = slope + self.curvature / 2 + lam * self.prices.up[:, :, :, rows]
            down = -slope + self.curvature / 2 + lam * self.prices.down[:, :, :, rows]
            gain, direction = torch.minimum(up, down), torch.where(up <= down, 1.0, -1.0)
            if kept is not None:
                gain = torch.where(kept, gain, math.inf)
            flat = gain.flatten(1, 2)  # (N, C*64, h, w)
            best = flat.topk(int(count.max()), 1, largest=False).values
            last = (count - 1).reshape(-1, 1, 1, 1).expand(-1, 1, *best.shape[2:])
            picked = (flat <= best.gather(1, last)) & (flat < 0)
            out[:, :, :, rows] = here + torch.where(picked.reshape(here.shape), direction, 0.0)
        return out
