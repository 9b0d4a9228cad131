"""How many bits a JPEG with optimised Huffman tables spends on quantised coefficients.

Counted, not modelled: the run-length symbols of ITU T.81 F.1.2 are formed as an encoder forms them
and priced with the image's own symbol statistics, so end-of-block codes and runs of zeros cost what
they cost in a real file. The gradient of each coefficient is the price of making it larger, all
others held: below one, the price of a nonzero against a zero at this place in this block (that is
also the gradient of the expected count under uniform noise); above one, the price of a doubling.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import DependencyError
from ..jpeg import COEFFICIENTS, ZIGZAG

EOB, ZRL = 0x00, 0xF0
_SIZES = 16
_PRIOR_WEIGHT = 32.0
HEADER_BITS = 8 * (20 + 2 * 69 + 19 + 14 + 4 * 21 + 2 + 2)
"""Markers of a three-component baseline file: APP0, tables, frame, scan, empty Huffman tables."""


class _Symbols(NamedTuple):
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
    return torch.frexp(magnitude.float()).exponent.clamp(0, _SIZES - 1).long()


def _symbols(ac: Tensor) -> _Symbols:
    """ac: magnitudes in zigzag order, (N, C, B, 63)."""
    size = size_category(ac)
    length = ac.shape[-1]
    at = torch.arange(1, length + 1, device=ac.device)
    nonzero = size > 0
    last = torch.cummax(torch.where(nonzero, at, 0), -1).values
    before = torch.cat([torch.zeros_like(last[..., :1]), last[..., :-1]], -1)
    flipped = torch.where(nonzero, at, length + 1).flip(-1)
    first = torch.cummin(flipped, -1).values.flip(-1)
    none = torch.full_like(first[..., :1], length + 1)
    following = torch.cat([first[..., 1:], none], -1)
    padded = torch.cat([size, torch.zeros_like(size[..., :1])], -1)
    after_size = padded.gather(-1, following - 1)
    return _Symbols(at - before - 1, following - at - 1, after_size, size)


def _histogram(symbols: Tensor, weights: Tensor, bins: int) -> Tensor:
    """Per row counts: (N, K) symbols and weights to (N, bins)."""
    out = torch.zeros(symbols.shape[0], bins, device=symbols.device)
    return out.scatter_add_(1, symbols, weights)


def _code_lengths(counts: Tensor) -> Tensor:
    """Ideal code lengths in bits from counts (N, bins), smoothed by the counts of the whole batch."""
    prior = counts.sum(0, keepdim=True) + 0.05
    smoothed = counts + _PRIOR_WEIGHT * prior / prior.sum()
    return torch.log2(smoothed.sum(1, keepdim=True)) - torch.log2(smoothed)


class _Count(NamedTuple):
    bits: Tensor
    """(N,)"""
    slope: Tensor
    """d bits / d |scaled|, shaped like the input."""


def _ac(scaled: Tensor, quantised: Tensor) -> _Count:
    """scaled, quantised: (N, C, B, 63) in zigzag order, one Huffman table for all C."""
    n = scaled.shape[0]
    s = _symbols(quantised.abs())
    nonzero = s.size > 0
    ends = (~nonzero[..., -1]).reshape(n, -1).sum(1)  # blocks that end with EOB
    symbol = torch.where(nonzero, (s.run % 16) * 16 + s.size, 0)
    zrl = torch.where(nonzero, s.run // 16, 0)
    counts = _histogram(symbol.reshape(n, -1), nonzero.reshape(n, -1).float(), 256)
    counts[:, EOB] = ends
    counts[:, ZRL] = zrl.reshape(n, -1).sum(1)
    lengths = _code_lengths(counts)
    bits = (counts * lengths).sum(1) + s.size.reshape(n, -1).sum(1)

    def price(run: Tensor, size: Tensor) -> Tensor:
        code = ((run % 16) * 16 + size).reshape(n, -1)
        cost = lengths.gather(1, code).reshape(run.shape)
        return cost + size + (run // 16) * lengths[:, ZRL].reshape(n, 1, 1, 1)

    one = torch.ones_like(s.size)
    follows = s.after_size > 0
    following = torch.where(follows, s.after_size, one)
    split = price(s.run, one) + price(s.after, following) - price(s.run + s.after + 1, following)
    appear = torch.where(follows, split, price(s.run, one)).clamp(0.5, 16.0)
    kept = s.size.clamp(1, _SIZES - 2)
    double = (price(s.run, kept + 1) - price(s.run, kept)).clamp(1.0, 4.0)
    magnitude = scaled.abs()
    slope = torch.where(magnitude < 1, appear, double / (math.log(2) * magnitude.clamp_min(1)))
    return _Count(bits, slope)


def _dc(scaled: Tensor, quantised: Tensor) -> tuple[Tensor, Tensor]:
    """scaled, quantised: (N, C, B). Returns bits (N,) and a surrogate (N,) with their gradient."""
    n = scaled.shape[0]

    def differences(x: Tensor) -> Tensor:
        return torch.diff(x, dim=-1, prepend=torch.zeros_like(x[..., :1]))

    size = size_category(differences(quantised).abs()).reshape(n, -1)
    counts = _histogram(size, torch.ones_like(size, dtype=torch.float32), _SIZES)
    lengths = _code_lengths(counts)
    bits = (counts * lengths).sum(1) + size.sum(1)
    soft = differences(scaled).reshape(n, -1).abs()
    kept = size.clamp(1, _SIZES - 2)
    grown = lengths.gather(1, kept + 1) + 1 - lengths.gather(1, kept)
    appear = (lengths[:, 1:2] + 1 - lengths[:, :1]).clamp(0.5, 4.0)
    double = grown.clamp(0.5, 3.0)
    slope = torch.where(soft < 1, appear, double / (math.log(2) * soft.detach().clamp_min(1)))
    return bits, (slope.detach() * soft).sum(1)


def _total(luma: Tensor, chroma: Tensor, gray: Tensor | None) -> Tensor:
    return luma + (chroma if gray is None else torch.where(gray, 0.0, chroma))


def _with_gradient(value: Tensor, surrogate: Tensor) -> Tensor:
    return value.detach() + surrogate - surrogate.detach()


class HuffmanCount(nn.Module):
    """Bits of the entropy-coded data of each image.

    scaled, quantised: (N, 3, 64, h, w), natural order, before and after rounding.
    gray: (N,) booleans, images coded with one component. Returns (N,), differentiable in `scaled`.
    """

    def forward(self, scaled: Tensor, quantised: Tensor, gray: Tensor | None = None) -> Tensor:
        order = torch.tensor(ZIGZAG, device=scaled.device)
        with torch.autocast(scaled.device.type, enabled=False):
            x = scaled.float().index_select(2, order).flatten(3).transpose(2, 3)  # (N, 3, B, 64)
            q = quantised.detach().float().index_select(2, order).flatten(3).transpose(2, 3)
            parts = []
            for planes in (slice(0, 1), slice(1, 3)):  # luma, chroma: a table each
                with torch.no_grad():
                    ac = _ac(x[:, planes, :, 1:], q[:, planes, :, 1:])
                soft = (ac.slope * x[:, planes, :, 1:].abs()).flatten(1).sum(1)
                dc_bits, dc_soft = _dc(x[:, planes, :, 0], q[:, planes, :, 0])
                parts.append(_with_gradient(ac.bits + dc_bits, soft + dc_soft))
            luma, chroma = parts
            return _total(luma, chroma, gray)


class NonzeroCount(nn.Module):
    """4.9 bits a nonzero coefficient and 0.8 bits a log2(1 + magnitude): the prototype's fit."""

    def forward(self, scaled: Tensor, quantised: Tensor, gray: Tensor | None = None) -> Tensor:
        magnitude = scaled.abs()
        bits = 4.9 * magnitude.clamp_max(1) + 0.8 * torch.log2(1 + magnitude)
        luma, chroma = bits[:, :1].flatten(1).sum(1), bits[:, 1:].flatten(1).sum(1)
        return _total(luma, chroma, gray)


class EntropyBottleneckRate(nn.Module):
    """The paper's choice: CompressAI's factorised prior over the 192 coefficients (Ballé et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        try:
            from compressai.entropy_models import EntropyBottleneck
        except ImportError as error:
            raise DependencyError(
                "rate: entropy-bottleneck needs CompressAI: pip install compressai (or choose rate: huffman)"
            ) from error
        self.prior = EntropyBottleneck(3 * COEFFICIENTS)

    def forward(self, scaled: Tensor, quantised: Tensor, gray: Tensor | None = None) -> Tensor:
        _, likelihood = self.prior(scaled.flatten(1, 2), training=True)
        bits = -torch.log2(likelihood).reshape(scaled.shape)
        luma, chroma = bits[:, :1].flatten(1).sum(1), bits[:, 1:].flatten(1).sum(1)
        return _total(luma, chroma, gray)


def rate_model(name: str) -> nn.Module:
    """The rate model that a training configuration names."""
    models = {
        "huffman": HuffmanCount,
        "nonzero": NonzeroCount,
        "entropy-bottleneck": EntropyBottleneckRate,
    }
    return models[name]()
