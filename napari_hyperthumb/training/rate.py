"""How many bits a JPEG with optimised Huffman tables spends on quantised coefficients.

Counted, not modelled: the run-length symbols of ITU T.81 F.1.2 are formed as an encoder forms them
and priced with the image's own symbol statistics, so end-of-block codes and runs of zeros cost what
they cost in a real file. The gradient of each coefficient is the price of making it larger, all
others held: below one, the price of a nonzero against a zero at this place in this block (that is
also the gradient of the expected count under uniform noise); above one, the price of a doubling.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .. import huffman
from ..errors import DependencyError
from ..jpeg import COEFFICIENTS

HEADER_BITS = 8 * (20 + 54 + 2 * 69 + 19 + 14 + 4 * 21 + 2 + 2)
"""Markers of a three-component baseline file: APP0, comment, tables, frame, scan, empty Huffman tables."""


def _dc(scaled: Tensor, quantised: Tensor) -> tuple[Tensor, Tensor]:
    """scaled, quantised: (N, C, B). Returns bits (N,) and a surrogate (N,) with their gradient."""
    bits, lengths, size = huffman.dc_code(quantised)
    soft = huffman.dc_differences(scaled).flatten(1).abs()
    kept = size.clamp(1, huffman.SIZES - 2)
    appear = (lengths[:, 1:2] + 1 - lengths[:, :1]).clamp(0.5, 4.0)
    double = (lengths.gather(1, kept + 1) + 1 - lengths.gather(1, kept)).clamp(0.5, 3.0)
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
        x = huffman.scan_order(scaled.float())  # (N, 3, B, 64)
        q = huffman.scan_order(quantised.detach().float())
        parts = []
        for planes in (slice(0, 1), slice(1, 3)):  # luma, chroma: a table each
            with torch.no_grad():
                ac = huffman.AcCode(q[:, planes, :, 1:])
                slope = ac.slope(x[:, planes, :, 1:])
            soft = (slope * x[:, planes, :, 1:].abs()).flatten(1).sum(1)
            dc_bits, dc_soft = _dc(x[:, planes, :, 0], q[:, planes, :, 0])
            parts.append(_with_gradient(ac.bits() + dc_bits, soft + dc_soft))
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
    """The paper's choice: CompressAI's factorised priors (Ballé et al., ICLR 2018), one over the 64 luma
    coefficients and one over those of both chroma planes.

    Each call draws noise of its own, so the likelihoods are not those of the very noise that a decoder
    trained beside it sees: the mean of the loss is the same.
    """

    def __init__(self) -> None:
        super().__init__()
        try:
            from compressai.entropy_models import EntropyBottleneck
        except ImportError as error:
            raise DependencyError(
                "rate: entropy-bottleneck needs CompressAI: pip install compressai (or choose rate: huffman)"
            ) from error
        self.priors = nn.ModuleList(EntropyBottleneck(COEFFICIENTS) for _ in range(2))

    def forward(self, scaled: Tensor, quantised: Tensor, gray: Tensor | None = None) -> Tensor:
        n = scaled.shape[0]
        bits = []
        for prior, planes in zip(self.priors, (scaled[:, :1], scaled[:, 1:]), strict=True):
            _, likelihood = prior(planes.flatten(0, 1), training=True)  # (N * C, 64, h, w)
            bits.append(-torch.log2(likelihood).reshape(n, -1).sum(1))
        return _total(bits[0], bits[1], gray)


def rate_model(name: str) -> nn.Module:
    """The rate model that a training configuration names."""
    models = {
        "huffman": HuffmanCount,
        "nonzero": NonzeroCount,
        "entropy-bottleneck": EntropyBottleneckRate,
    }
    return models[name]()
