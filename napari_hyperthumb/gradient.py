"""The error of a decoded picture and its gradient in the coefficients, by the decoder as plain convolutions.

Forwards and backwards by hand: of each residual block one rectified feature map is kept, and nothing is
computed for weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .backend_torch import conv, folded, framed, ready, shuffled
from .jpeg import three_planes, ycbcr_to_rgb
from .model import STRIDE
from .paper import PaperModel
from .plain import Conditions, Conv, PlainDecoder


class DecoderGradient:
    """Of files with the same tables, in windows of any size.

    dtype: of the convolutions behind the pixels. In bfloat16 the gradient still says which coefficients to
    change, but the error is known to a thousandth only. Pixels, error and what becomes of them are float32.
    """

    def __init__(
        self, plain: PlainDecoder, conditions: Conditions, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._plain, self._dtype = plain, dtype
        self._steps = conditions.steps
        head = Conv(torch.cat([plain.head.weight, plain.head_pixels], 1), plain.head.bias)
        self._head = self._pair(folded(head, conditions.films[0]))
        self._blocks = [
            (self._pair(folded(a, film)), self._pair(b))
            for (a, b), film in zip(plain.blocks, conditions.films[1:], strict=True)
        ]
        self._frequency = [self._pair(one) for one in plain.frequency]
        self._out = self._pair(plain.out)
        self._up, self._up_back = (
            weight.contiguous(memory_format=torch.channels_last) for weight in (plain.up, _turned(plain.up))
        )

    def _pair(self, one: Conv) -> _Pair:
        cast = ready(one, self._dtype)
        return _Pair(cast, _turned(cast.weight).contiguous(memory_format=torch.channels_last))

    @torch.inference_mode()
    def __call__(
        self, quantised: Tensor, wanted: Tensor, inside: tuple[slice, slice]
    ) -> tuple[float, Tensor]:
        """quantised: (C, 64, h, w). wanted: the picture's levels, 0 .. 255, (H, W, C). inside: the rows and
        columns of it whose error counts.

        Returns the sum of squared errors over the pixels inside, averaged over the colours, and its gradient,
        (C, 64, h, w). Levels outside 0 .. 255 are clipped first.
        """
        plain, dtype = self._plain, self._dtype
        x = quantised.permute(2, 3, 0, 1).flatten(2) * self._steps  # (h, w, C * 64)
        pixels = shuffled((x @ plain.pixels.T)[None].permute(0, 3, 1, 2), plain.shuffle)
        first = conv(x.to(dtype).permute(2, 0, 1)[None], self._frequency[0].conv).relu_()
        second = conv(first, self._frequency[1].conv).relu_()
        f = shuffled(conv(second, self._frequency[2].conv), plain.shuffle)
        h = conv(torch.cat([f, pixels.to(dtype)], 1), self._head.conv)
        seen = []
        for a, b in self._blocks:
            y = conv(h, a.conv).relu_()
            h += conv(y, b.conv)
            seen.append(y)
        levels = F.conv2d(framed(pixels, plain.unshuffle), self._up)
        levels += conv(h, self._out.conv)
        error, slope = _error(levels, wanted, inside)

        g = self._out.back(slope.to(dtype))
        for (a, b), y in zip(reversed(self._blocks), reversed(seen), strict=True):
            g += a.back(_rectified(b.back(g), y))
        g = self._head.back(g)
        features = plain.head.weight.shape[1]
        of_pixels = _unframed(F.conv2d(slope, self._up_back, padding=2), plain.unshuffle)
        of_pixels += g[:, features:]
        f = self._frequency[2].back(_unshuffled(g[:, :features], plain.shuffle))
        f = self._frequency[1].back(_rectified(f, second))
        f = self._frequency[0].back(_rectified(f, first))
        out = f[0].permute(1, 2, 0).float()
        out += _unshuffled(of_pixels, plain.shuffle)[0].permute(1, 2, 0) @ plain.pixels
        out *= self._steps
        return error, out.reshape(*out.shape[:2], *quantised.shape[:2]).permute(2, 3, 0, 1)


class PaperGradient:
    """The same of the published decoder, by PyTorch's own gradient. tables: (1, 2, 64)."""

    def __init__(self, net: PaperModel, tables: Tensor) -> None:
        self._decode, self._tables = net.decode, tables

    def __call__(
        self, quantised: Tensor, wanted: Tensor, inside: tuple[slice, slice]
    ) -> tuple[float, Tensor]:
        """As `DecoderGradient`."""
        part = quantised[None].clone().requires_grad_(True)
        planes = self._decode(part if len(quantised) == 3 else three_planes(part), self._tables)
        levels = planes[:, :1] if len(quantised) == 1 else ycbcr_to_rgb(planes)
        levels = (levels[0].permute(1, 2, 0) + 128).clamp(0, 255)
        error = (levels - wanted)[inside].square().sum() / wanted.shape[2]
        return float(error.detach()), torch.autograd.grad(error, part)[0][0]


@dataclass(frozen=True)
class _Pair:
    conv: Conv
    turned: Tensor
    """Weights of the convolution backwards."""

    def back(self, gradient: Tensor) -> Tensor:
        """The gradient of what came in from that of what went out."""
        return F.conv2d(gradient, self.turned, padding=self.turned.shape[-1] // 2)


def _turned(weight: Tensor) -> Tensor:
    return weight.transpose(0, 1).flip(2, 3)


def _rectified(gradient: Tensor, kept: Tensor) -> Tensor:
    """Backwards through a rectifier that gave `kept`."""
    out: Tensor = torch.ops.aten.threshold_backward(gradient, kept, 0)
    return out


def _error(levels: Tensor, wanted: Tensor, inside: tuple[slice, slice]) -> tuple[float, Tensor]:
    """Error, and its gradient in levels (1, 16 * C, h, w), channels last."""
    (height, width), colours = levels.shape[2:], wanted.shape[2]
    grid = (height, STRIDE, width, STRIDE, colours)
    wanted = wanted.reshape(grid).transpose(1, 2).reshape(height, width, -1).permute(2, 0, 1)[None]
    slope = levels.clamp(0, 255) - wanted
    size = (height * STRIDE, width * STRIDE)
    if any(part.indices(side) != (0, side, 1) for part, side in zip(inside, size, strict=True)):
        rows, columns = (torch.zeros(side, device=levels.device) for side in size)
        rows[inside[0]], columns[inside[1]] = 1, 1
        counted = rows.reshape(height, 1, STRIDE, 1, 1) * columns.reshape(width, 1, STRIDE, 1)
        slope *= counted.expand(*counted.shape[:4], colours).reshape(height, width, -1).permute(2, 0, 1)
    error = float(slope.square().sum()) / colours
    slope *= (2 / colours) * ((levels >= 0) & (levels <= 255))
    return error, slope


def _unshuffled(x: Tensor, times: int) -> Tensor:
    """Inverse of `shuffled`."""
    _, channels, height, width = x.shape
    x = x.permute(0, 2, 3, 1).reshape(height // times, times, width // times, times, channels)
    x = x.transpose(1, 2).reshape(1, height // times, width // times, channels * times**2)
    return x.permute(0, 3, 1, 2)


def _unframed(framed: Tensor, unshuffle: int) -> Tensor:
    """Backwards through `framed`: what came to the frame belongs to the positions it mirrors."""
    order = torch.arange(framed.shape[1], device=framed.device).reshape(-1, unshuffle, unshuffle)
    for axis in (1, 0):
        mirrored = order.flip(1 + axis).flatten()
        dim, size = 2 + axis, framed.shape[2 + axis]
        inner = framed.narrow(dim, 1, size - 2)
        inner.narrow(dim, 0, 1).add_(framed.narrow(dim, 0, 1)[:, mirrored])
        inner.narrow(dim, size - 3, 1).add_(framed.narrow(dim, size - 1, 1)[:, mirrored])
        framed = inner
    return framed
