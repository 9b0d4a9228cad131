"""Run-length and Huffman coding of JPEG coefficients, counted instead of written.

Symbols are formed as ITU T.81 F.1.2 does and priced with ideal code lengths from the image's own
statistics, which is what an encoder with optimised tables comes to within a percent or two.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .jpeg import ZIGZAG

EOB, ZRL = 0x00, 0xF0
SIZES = 16
PRIOR_WEIGHT = 32.0
"""Symbols' worth of the whole batch's statistics that every image's are smoothed with."""


class RunLengths(NamedTuple):
    run: Tensor
    """Zeros between this coefficient and the nonzero one before it, (N, C, B, 63)."""
    after: Tensor
    """Zeros between this coefficient and the nonzero one after it."""
    after_size: Tensor
    """Size category of that one; 0 where there is none."""
    size: Tensor
    """Size category of this one; 0 for a zero."""


def size_category(magnitude: Tensor) -> Tensor:
    """Bits of a magnitude (ITU T.81, table F.1): 0 for 0, 1 for 1, 2 for 2..3, ..."""
    exponent = (magnitude.float().view(torch.int32) >> 23) - 126  # that of IEEE 754
    return exponent.clamp_(0, SIZES - 1).long()


def run_lengths(ac: Tensor) -> RunLengths:
    """ac: magnitudes in zigzag order, (N, C, B, 63). The results are int16."""
    # Blocks innermost, as they lie in memory.
    size = size_category(ac.transpose(2, 3)).short()
    length = size.shape[2]
    at = torch.arange(1, length + 1, dtype=torch.int16, device=ac.device)[:, None]
    nonzero = size > 0
    last = _running(torch.where(nonzero, at, 0), torch.maximum)
    last = F.pad(last[:, :, :-1], (0, 0, 1, 0))
    # Where the next one stands and its size, in one number.
    none = (length + 1) * SIZES
    first = torch.where(nonzero, at * SIZES + size, none)
    first = _running(first.flip(2), torch.minimum).flip(2)
    first = F.pad(first[:, :, 1:], (0, 0, 0, 1), value=none)
    runs = (at - last - 1, first // SIZES - at - 1, first % SIZES, size)
    return RunLengths(*(part.transpose(2, 3) for part in runs))


def _running(x: Tensor, extreme: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The greatest or the least so far along axis 2, by doubling: cummax and cummin are ten times slower."""
    step = 1
    while step < x.shape[2]:
        x = torch.cat([x[:, :, :step], extreme(x[:, :, step:], x[:, :, :-step])], 2)
        step *= 2
    return x


def histogram(symbols: Tensor, weights: Tensor, bins: int) -> Tensor:
    """Per row counts: (N, K) symbols and weights to (N, bins)."""
    out = torch.zeros(symbols.shape[0], bins, device=symbols.device)
    return out.scatter_add_(1, symbols, weights)


def code_lengths(counts: Tensor) -> Tensor:
    """Code lengths in bits from counts (N, bins), smoothed by the counts of the whole batch.

    Ideal ones, but for the one bit that every Huffman code has at least: it matters where nearly all
    blocks are empty.
    """
    prior = counts.sum(0, keepdim=True) + 0.05
    smoothed = counts + PRIOR_WEIGHT * prior / prior.sum()
    ideal = torch.log2(smoothed.sum(1, keepdim=True)) - torch.log2(smoothed)
    return ideal.clamp_min(1.0)


def scan_order(coefficients: Tensor) -> Tensor:
    """(N, C, 64, h, w), natural order, to (N, C, h*w, 64), zigzag order: blocks as a scan has them."""
    order = torch.tensor(ZIGZAG, device=coefficients.device)
    return coefficients.index_select(2, order).flatten(3).transpose(2, 3)


def natural_order(scanned: Tensor, height: int, width: int) -> Tensor:
    """Inverse of `scan_order`; height and width in blocks."""
    order = torch.argsort(torch.tensor(ZIGZAG, device=scanned.device))
    blocks = scanned.transpose(2, 3).index_select(2, order)
    return blocks.reshape(*blocks.shape[:3], height, width)


def ac_counts(runs: RunLengths) -> Tensor:
    """How often each symbol occurs in the AC coefficients of an image, (N, 256)."""
    n = runs.size.shape[0]
    nonzero = runs.size > 0
    symbol = torch.where(nonzero, (runs.run % 16) * 16 + runs.size, 0).long()
    zrl = torch.where(nonzero, runs.run // 16, 0)
    counts = histogram(symbol.reshape(n, -1), nonzero.reshape(n, -1).float(), 256)
    counts[:, EOB] = (~nonzero[..., -1]).reshape(n, -1).sum(1)  # blocks that end with EOB
    counts[:, ZRL] = zrl.reshape(n, -1).sum(1)
    return counts


class AcCode:
    """The AC coefficients of each image under its own code: one Huffman table for all C planes.

    quantised: whole numbers (N, C, B, 63) in zigzag order. lengths: of the code, where these are only a
    part of the image.
    """

    def __init__(self, quantised: Tensor, lengths: Tensor | None = None) -> None:
        self.quantised, self.magnitude = quantised, quantised.abs()
        self.runs = run_lengths(self.magnitude)
        self.lengths = code_lengths(self.counts) if lengths is None else lengths
        """(N, 256), bits."""

    @cached_property
    def counts(self) -> Tensor:
        """How often each symbol occurs, (N, 256)."""
        return ac_counts(self.runs)

    def bits(self) -> Tensor:
        """Of all these coefficients, (N,)."""
        return (self.counts * self.lengths).sum(1) + self.runs.size.flatten(1).sum(1)

    @cached_property
    def _bits(self) -> Tensor:
        """Of a coefficient of each size category behind each run of zeros, (N, 64 * SIZES)."""
        run, size = (torch.arange(n, device=self.lengths.device) for n in (64, SIZES))
        code = (run % 16)[:, None] * SIZES + size
        bits = self.lengths[:, code] + size
        return (bits + (run // 16)[:, None] * self.lengths[:, ZRL, None, None]).flatten(1)

    def price(self, run: Tensor, size: Tensor) -> Tensor:
        """Bits of a nonzero coefficient of a size category behind a run of zeros, (N, C, B, 63)."""
        index = (run * SIZES + size).transpose(2, 3).long()
        index += self._bits.shape[1] * torch.arange(len(index), device=index.device).reshape(-1, 1, 1, 1)
        found = self._bits.flatten().index_select(0, index.flatten())
        return found.reshape(index.shape).transpose(2, 3)

    def appearing(self) -> Tensor:
        """Bits that a one costs more than a zero at each place, all others held."""
        run, after, after_size, size = self.runs
        one = torch.ones_like(size)
        follows = after_size > 0
        following = after_size.clamp_min(1)
        alone = self.price(run, one)
        split = alone + self.price(after, following) - self.price(run + after + 1, following)
        return torch.where(follows, split, alone)

    def slope(self, scaled: Tensor) -> Tensor:
        """Bits per unit of magnitude of coefficients before rounding, (N, C, B, 63), clamped.

        Below one it is the price of appearing, which is also the gradient of the expected count under
        uniform noise; above, that of a doubling.
        """
        run, size = self.runs.run, self.runs.size
        kept = size.clamp(1, SIZES - 2)
        double = (self.price(run, kept + 1) - self.price(run, kept)).clamp(1.0, 4.0)
        magnitude = scaled.abs()
        falling = double / (math.log(2) * magnitude.clamp_min(1))
        return torch.where(magnitude < 1, self.appearing().clamp(0.5, 16.0), falling)

    def prices(self) -> tuple[Tensor, Tensor]:
        """Bits that adding one to each coefficient costs, and taking one away, all others held."""
        run, _, _, size = self.runs
        appear, here = self.appearing(), self.price(run, size)
        larger, smaller = (
            self.price(run, size_category(magnitude).clamp_max(SIZES - 2).short()) - here
            for magnitude in (self.magnitude + 1, (self.magnitude - 1).clamp_min(0))
        )
        growing = torch.where(size > 0, larger, appear)
        shrinking = torch.where(self.magnitude > 1, smaller, -appear)
        adding = torch.where(self.quantised >= 0, growing, shrinking)
        return adding, torch.where(self.quantised <= 0, growing, shrinking)


def dc_differences(dc: Tensor) -> Tensor:
    """(N, C, B) to differences from the block before, as the file holds them."""
    return torch.diff(dc, dim=-1, prepend=torch.zeros_like(dc[..., :1]))


class DcCode(NamedTuple):
    """The DC coefficients of each image under its own code."""

    bits: Tensor
    """(N,)"""
    lengths: Tensor
    """(N, SIZES)"""
    size: Tensor
    """Size category of each difference, (N, C * B)."""


def dc_code(quantised: Tensor) -> DcCode:
    """quantised: whole numbers (N, C, B)."""
    n = quantised.shape[0]
    size = size_category(dc_differences(quantised).abs()).reshape(n, -1)
    counts = histogram(size, torch.ones_like(size, dtype=torch.float32), SIZES)
    lengths = code_lengths(counts)
    return DcCode((counts * lengths).sum(1) + size.sum(1), lengths, size)
