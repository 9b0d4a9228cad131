"""The decoder as plain convolutions, from coefficients to finished pixels: what backends run.

Everything that is linear is folded into the convolution before or behind it: the inverse DCT, the units, the
upsampling, and the conversion to RGB. What depends on a file (steps and FiLM) is apart: two small vectors,
`Conditions`.

Layout: channels last. Coefficients come as (h/8, w/8, C * 64) of the thumbnail, C being 1 (gray) or 3. The
picture leaves as (H/4, W/4, 4 * 4 * C): for each position 4x4 pixels, row by row, their colours innermost, so
that copying 4 * C numbers at a time puts it into place.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .jpeg import BLOCK, COEFFICIENTS, idct_8x8, steps, ycbcr_to_rgb
from .model import STRIDE, UNIT, FrequencyAwareDecoder, HyperThumbModel

MIDDLE = 128.0
"""8-bit level of a zero-centred 0."""


@dataclass(frozen=True)
class Conv:
    """A convolution of stride 1, padded with zeros to keep the size."""

    weight: Tensor
    """(outputs, inputs, k, k)"""
    bias: Tensor
    """(outputs,)"""


@dataclass(frozen=True)
class Conditions:
    """What the tables of a file change."""

    steps: Tensor
    """(C * 64,): quantised coefficients times these are what the network takes."""
    films: tuple[Tensor, ...]
    """Scale and shift, (2, channels), behind the head and behind the first convolution of each block."""


@dataclass(frozen=True)
class PlainDecoder:
    """`FrequencyAwareDecoder` for files of one (luma) or three components.

    x: dequantised coefficients / 128, (C * 64 channels, h/8, w/8). Then, with `shuffled` for moving channels
    (by, bx, c) of each position to (by, bx) of a finer grid, and FiLM as `y * scale + shift`:

        pixels = shuffled(pixels(x))                        (C * unshuffle**2 channels at stride 4)
        f = shuffled(f2(relu(f1(relu(f0(x))))))
        h = film(head(f) + head_pixels(pixels))
        h = h + b(relu(film(a(h))))                         for each block
        levels = out(h) + up(pixels), pixels framed with what continues the image over its edge
    """

    frequency: tuple[Conv, Conv, Conv]
    shuffle: int
    """Positions a side for each block, of `frequency`'s output and of `pixels`."""
    pixels: Tensor
    """(shuffle**2 * C * unshuffle**2, C * 64): the inverse DCT, LR samples / 128 unshuffled to stride 4."""
    unshuffle: int
    """LR pixels a side for each position."""
    head: Conv
    head_pixels: Tensor
    """(channels, C * unshuffle**2, 3, 3): apart from the head's other inputs, since eight bits aren't enough
    for pixels."""
    blocks: tuple[tuple[Conv, Conv], ...]
    out: Conv
    """To RGB or luma, in 8-bit levels, 0 .. 255."""
    up: Tensor
    """(16 * C, C * unshuffle**2, 3, 3): bilinear upsampling, in the same units, for framed pixels."""

    @property
    def components(self) -> int:
        """C: 1 or 3."""
        return self.out.weight.shape[0] // STRIDE**2


def plain_decoder(net: HyperThumbModel, components: int) -> PlainDecoder:
    """The decoder of a network; components: 1 (gray files) or 3."""
    decoder, scale = net.decoder, net.config.scale
    shuffle, unshuffle = decoder.shuffle, decoder.unshuffle
    first, second, third = (_conv_of(decoder.frequency[index]) for index in (0, 2, 4))
    first = Conv(first.weight[:, : components * COEFFICIENTS], first.bias)
    # Of PyTorch's pixel_shuffle (c, by, bx); ours is (by, bx, c).
    third = _reordered(third, (-1, shuffle, shuffle), (1, 2, 0))
    head = _conv_of(decoder.head)
    inputs = 3 * unshuffle**2
    out = _conv_of(decoder.out)
    colours = ycbcr_to_rgb(torch.eye(3)[:, :, None, None].to(out.weight))[:, :, 0, 0].T  # (RGB, YCbCr)
    colours = colours if components == 3 else torch.eye(1, 3).to(colours)
    size = (3, STRIDE, STRIDE, *out.weight.shape[1:])
    weight = torch.einsum("rc,cyxihw->yxrihw", colours, out.weight.reshape(size)).flatten(0, 2)
    bias = torch.einsum("rc,cyx->yxr", colours, out.bias.reshape(size[:3])).flatten()
    return PlainDecoder(
        frequency=(first, second, third),
        shuffle=shuffle,
        pixels=_pixels(components, unshuffle, shuffle).to(weight),
        unshuffle=unshuffle,
        head=Conv(head.weight[:, inputs:], head.bias),
        head_pixels=head.weight[:, : components * unshuffle**2],
        blocks=tuple((_conv_of(block.a), _conv_of(block.b)) for block in decoder.body),
        out=Conv(weight * UNIT, bias * UNIT + MIDDLE),
        up=_up(components, scale, unshuffle, colours[:, :components].cpu()).to(weight) * UNIT,
    )


def conditions(decoder: FrequencyAwareDecoder, tables: Tensor, components: int) -> Conditions:
    """tables: (1, 2, 64), on the decoder's device."""
    films = tuple(torch.stack([a.flatten(), b.flatten()]) for a, b in decoder.films(tables))
    return Conditions(steps(tables, components).flatten() / UNIT, films)


def _conv_of(module: object) -> Conv:
    assert isinstance(module, torch.nn.Conv2d) and module.bias is not None
    return Conv(module.weight.detach(), module.bias.detach())


def _reordered(conv: Conv, size: tuple[int, ...], order: tuple[int, ...]) -> Conv:
    """Its outputs, seen as an array of this size, in another order of axes."""
    which = torch.arange(len(conv.bias), device=conv.bias.device).reshape(size).permute(order).flatten()
    return Conv(conv.weight[which], conv.bias[which])


def _pixels(components: int, unshuffle: int, shuffle: int) -> Tensor:
    basis = idct_8x8(torch.eye(COEFFICIENTS).reshape(COEFFICIENTS, 1, COEFFICIENTS, 1, 1))  # (64, 1, 8, 8)
    basis = basis.reshape(COEFFICIENTS, shuffle, unshuffle, shuffle, unshuffle)  # (64, by, uy, bx, ux)
    out = torch.einsum("kyuxv,cd->yxcuvdk", basis, torch.eye(components))
    return out.reshape(BLOCK**2 * components, components * COEFFICIENTS)


def _up(components: int, scale: int, unshuffle: int, colours: Tensor) -> Tensor:
    """What F.interpolate does to each LR pixel in the 3x3 positions around one, at that one's pixels."""
    side = 3 * unshuffle
    each = torch.eye(side**2).reshape(side**2, 1, side, side)
    grown = F.interpolate(each, scale_factor=scale, mode="bilinear", align_corners=False)
    middle = grown[:, 0, STRIDE : 2 * STRIDE, STRIDE : 2 * STRIDE]
    middle = middle.reshape(3, unshuffle, 3, unshuffle, STRIDE, STRIDE)  # (ky, uy, kx, ux, y, x)
    out = torch.einsum("hjwiyx,rc->yxrcjihw", middle, colours)
    return out.reshape(STRIDE**2 * components, components * unshuffle**2, 3, 3)
