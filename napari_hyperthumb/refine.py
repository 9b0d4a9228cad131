"""Encoder-side effort: better coefficients for the same decoder, found by looking at what it makes of them.

Two phases, both on the true objective ``error + rate_weight * bits / pixels``:

* gradient descent on the coefficients before rounding, through the frozen decoder;
* rounds of whole-numbered moves. A move adds or takes one from a coefficient; its effect on the error is
  estimated from the decoder's gradient and a measured curvature, its effect on the file from the
  Huffman code. Each round makes a random half of the most promising moves and is kept only if the
  objective really falls, so the result never gets worse.

Straight-through descent on rounded coefficients, the obvious way, makes pictures worse: the rounding
error feeds back (docs/experiments.md).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import huffman
from .jpeg import dequantise, idct_8x8, ycbcr_to_rgb
from .model import LEVELS
from .pipeline import Coding, PreparedImage, Report, no_report, three_planes
from .tiling import Tile, tiles

TILE = 512
DESCENT_STEPS = 12
DESCENT_RATE = 0.06
ROUNDS = 40
BEST_SHARE = 0.25
"""Of the moves that promise a gain, how many a round draws from."""
_BANDS = ((0, 1), (1, 3), (3, 6), (6, 15))
"""Diagonals of the 8x8 block whose curvature is measured together."""


@dataclass(frozen=True)
class _State:
    """Coefficients and what they come to."""

    quantised: Tensor
    error: float
    """Mean squared, in 8-bit levels."""
    bits: float
    """Of the entropy-coded data, counted."""

    def objective(self, weight: float, pixels: int) -> float:
        return self.error + weight * self.bits / pixels


class Refiner:
    """The coefficients of one image under one pair of tables."""

    def __init__(self, prepared: PreparedImage, tables: NDArray[np.int64]) -> None:
        self.prepared = prepared
        self.decoder = prepared.net.decoder
        self.gray = prepared.format.gray
        self.pixels = prepared.shape[0] * prepared.shape[1]
        self.table = torch.from_numpy(tables).float()[None].to(prepared.device)
        config = prepared.net.config
        self.block = config.block
        size = max(1, TILE // self.block) * self.block
        self._tiles = list(tiles(prepared.padded, size, config.decoder_halo))
        self.generator = torch.Generator().manual_seed(0)  # same input, same bytes

    # ---- what coefficients come to -----------------------------------------------------------

    def _difference(self, dequantised: Tensor, tile: Tile) -> Tensor:
        """Decoded minus original inside of a tile, zero-centred levels, padding left out."""
        planes = three_planes(dequantised) if self.gray else dequantised
        decoded = self.decoder(idct_8x8(planes), planes, self.table)
        rgb = (decoded[:, :1] if self.gray else ycbcr_to_rgb(decoded)).clamp(-128, 127)
        height, width = self.prepared.shape
        rows, columns = tile.rows, tile.columns
        inside = (
            ...,
            slice(rows.start - rows.low, min(rows.stop, height) - rows.low),
            slice(columns.start - columns.low, min(columns.stop, width) - columns.low),
        )
        return rgb[inside] - self.prepared.levels(tile)[inside]

    def _cut(self, tile: Tile) -> tuple[slice, slice, slice, slice]:
        return (slice(None), slice(None), tile.rows.outer(self.block), tile.columns.outer(self.block))

    def error(self, values: Tensor) -> float:
        """Mean squared error of what coefficients / tables decode to."""
        total = 0.0
        with torch.no_grad():
            for tile in self._tiles:
                cut = dequantise(values[self._cut(tile)][None], self.table)
                total += float(self._difference(cut, tile).square().sum())
        return total / (self.pixels * values.shape[0])

    def gradient(self, values: Tensor) -> Tensor:
        """d error / d values."""
        out = torch.zeros_like(values)
        for tile in self._tiles:
            part = values[self._cut(tile)].detach().clone().requires_grad_(True)
            total = self._difference(dequantise(part[None], self.table), tile).square().sum()
            out[self._cut(tile)] += torch.autograd.grad(total, part)[0]
        return out / (self.pixels * values.shape[0])

    def _codes(self, quantised: Tensor) -> tuple[list[huffman.AcCode], float]:
        """The AC codes of luma and chroma, and the bits of everything."""
        scanned = huffman.scan_order(quantised[None])
        groups = [scanned[:, :1], scanned[:, 1:]] if len(quantised) > 1 else [scanned]
        codes = [huffman.AcCode(group[..., 1:]) for group in groups]
        bits = sum(float(code.bits) for code in codes)
        bits += sum(float(huffman.dc_code(group[..., 0]).bits) for group in groups)
        return codes, bits

    def state(self, quantised: Tensor) -> _State:
        """Error and bits of whole-numbered coefficients."""
        return _State(quantised, self.error(quantised), self._codes(quantised)[1])

    def _natural(self, parts: list[Tensor], like: Tensor) -> Tensor:
        """AC prices in zigzag order to the layout of coefficients; zero for DC."""
        scanned = torch.cat(parts, 1)
        scanned = torch.cat([torch.zeros_like(scanned[..., :1]), scanned], -1)
        return huffman.natural_order(scanned, like.shape[2], like.shape[3])[0]

    # ---- the two phases ----------------------------------------------------------------------

    def descend(self, start: _State, scaled: Tensor, weight: float, until: float, report: Report) -> _State:
        """Adam on the coefficients before rounding; the best rounded ones it passes."""
        values = scaled.clone().requires_grad_(True)
        optimiser = torch.optim.Adam([values], DESCENT_RATE, betas=(0.9, 0.95))
        best = start
        for step in range(DESCENT_STEPS):
            if time.monotonic() > until:
                break
            for group in optimiser.param_groups:
                group["lr"] = DESCENT_RATE * (1 - 0.9 * step / DESCENT_STEPS)
            current = values.detach()
            codes, _ = self._codes(self.prepared.net.rounded(current))
            ac = huffman.scan_order(current[None])[..., 1:]
            planes = [ac[:, :1], ac[:, 1:]][: len(codes)]
            slopes = [code.slope(part) for code, part in zip(codes, planes, strict=True)]
            rate = self._natural(slopes, current) * current.sign()
            values.grad = self.gradient(current) + weight * rate / self.pixels
            optimiser.step()
            if step % 4 == 3:
                trial = self.state(self.prepared.net.rounded(values.detach()))
                if trial.objective(weight, self.pixels) < best.objective(weight, self.pixels):
                    best = trial
            report(step / DESCENT_STEPS)
        return best

    def curvature(self, quantised: Tensor) -> Tensor:
        """Second derivative of the error in each coefficient, (C, 64, 1, 1), by random changes of sign."""
        index = torch.arange(64)
        diagonal = index // 8 + index % 8
        out = torch.zeros(len(quantised), 64, 1, 1)
        gradient = self.gradient(quantised)
        base = self.error(quantised)
        for plane in range(len(quantised)):
            for low, high in _BANDS:
                band = (diagonal >= low) & (diagonal < high)
                signs = torch.randint(0, 2, quantised.shape[1:], generator=self.generator) * 2.0 - 1
                change = torch.zeros_like(quantised)
                change[plane, band] = 0.7 * signs[band].to(change)
                rise = self.error(quantised + change) - base - float((gradient * change).sum())
                out[plane, band] = max(2 * rise / float(change.square().sum()), 0.0)
        return out.to(quantised)

    def moves(self, state: _State, curvature: Tensor, weight: float) -> tuple[Tensor, Tensor]:
        """The better move of each coefficient (+1, -1) and what the objective gains by it alone."""
        quantised, slope = state.quantised, self.gradient(state.quantised)
        codes, _ = self._codes(quantised)
        away = torch.where(quantised == 0, -slope.sign(), quantised.sign())
        gains = []
        for change, direction in ((1, away), (-1, -away)):
            bits = self._natural([code.growing(change) for code in codes], quantised)
            gains.append(slope * direction + curvature / 2 + weight * bits / self.pixels)
        gains[1] = torch.where(quantised == 0, math.inf, gains[1])
        out = torch.minimum(gains[0], gains[1])
        out[:, 0] = math.inf  # DC is left alone
        return torch.where(gains[0] <= gains[1], away, -away), out

    def polish(
        self,
        state: _State,
        weight: float,
        *,
        wanted_bits: float | None,
        until: float,
        report: Report,
        rounds: int = ROUNDS,
    ) -> tuple[_State, float]:
        """Rounds of moves. With `wanted_bits` the weight is steered until the bits come to that."""
        curvature = self.curvature(state.quantised)
        share = 0.5
        found: tuple[Tensor, Tensor] | None = None
        for index in range(rounds):
            if time.monotonic() > until or share < 0.03:
                break
            if wanted_bits is not None and abs(state.bits / wanted_bits - 1) > 0.004:
                weight *= min(max((state.bits / wanted_bits) ** 2, 0.9), 1.12)
                found, share = None, max(share, 0.25)
            direction, gain = found or self.moves(state, curvature, weight)
            found = direction, gain
            promising = gain[gain < 0]
            if not len(promising):
                break
            limit = promising.kthvalue(max(1, round(BEST_SHARE * len(promising)))).values
            chance = torch.rand(gain.shape, generator=self.generator).to(gain)
            picked = (gain <= limit) & (chance < share)
            trial = self.state(state.quantised + torch.where(picked, direction, 0.0))
            if trial.objective(weight, self.pixels) < state.objective(weight, self.pixels):
                state, found = trial, None
            else:
                share *= 0.6
            report(index / rounds)
        return state, weight


def rate_weight(prepared: PreparedImage, level: float) -> float:
    """How much mean squared error one more bit a pixel saves at a level, from two levels near it."""
    upper = min(max(level, LEVELS[0] + 0.2), LEVELS[1])
    points = []
    for at in (upper - 0.2, upper):
        tables = prepared.tables(at)
        points.append(Refiner(prepared, tables).state(prepared.quantised(at, tables).to(prepared.device)))
    error, bits = points[0].error - points[1].error, points[1].bits - points[0].bits
    pixels = prepared.shape[0] * prepared.shape[1]
    return max(error, 1e-6) * pixels / max(bits, 1.0)


def refine(
    prepared: PreparedImage,
    level: float,
    *,
    nbytes: int | None = None,
    seconds: float = math.inf,
    report: Report = no_report,
) -> Coding:
    """A better file than `prepared.code(level)` for the same decoder.

    nbytes: come as near to this size as possible without passing it; None: the trade-off of the
    level, which usually takes fewer bytes for a smaller error. seconds: budget, checked between passes.
    The result may still be above nbytes when the budget was too short: the caller compares.
    """
    until = time.monotonic() + seconds
    weight = rate_weight(prepared, level)
    tables = prepared.tables(level)
    refiner = Refiner(prepared, tables)
    scaled = prepared.scaled(level, tables).to(prepared.device)
    start = refiner.state(prepared.net.rounded(scaled))
    state = refiner.descend(start, scaled, weight, until, lambda f: report(0.3 * f))
    coding = prepared.write(state.quantised.cpu(), tables, level)
    for attempt in range(3):
        # Bits are counted; the file's own size tells how many of them belong to the wanted one.
        wanted = None if nbytes is None else state.bits + 8 * (0.997 * nbytes - len(coding.data))
        low = 0.3 + 0.23 * attempt
        state, weight = refiner.polish(
            state,
            weight,
            wanted_bits=wanted,
            until=until,
            report=lambda f, low=low: report(low + 0.23 * f),  # type: ignore[misc]
            rounds=ROUNDS if attempt == 0 else ROUNDS // 3,
        )
        coding = prepared.write(state.quantised.cpu(), tables, level)
        if nbytes is None or 0.99 * nbytes <= len(coding.data) <= nbytes:
            break
    report(1.0)
    return coding
