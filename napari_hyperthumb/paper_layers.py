"""Layers of the published HyperThumbnail (module `paper`), with the names that its released weights have."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .jpeg import COEFFICIENTS

ENCODER_SLOPE, DENSE_SLOPE = 0.1, 0.2
"""Of LeakyReLU below zero."""


def conv3(inputs: int, outputs: int, *, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    """3x3 with padding 1."""
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=bias)


# ---- the encoder: a U-Net of residual dense blocks -------------------------------------------


class DenseBlock(nn.Module):
    """Residual dense block of ESRGAN (Wang et al., arXiv 1809.00219, figure 4)."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.conv1 = _small_conv(channels, growth)
        self.conv2 = _small_conv(channels + growth, growth)
        self.conv3 = _small_conv(channels + 2 * growth, growth)
        self.conv4 = _small_conv(channels + 3 * growth, growth)
        self.conv5 = _small_conv(channels + 4 * growth, channels)

    def forward(self, x: Tensor) -> Tensor:
        parts = [x]
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            parts.append(F.leaky_relu(conv(torch.cat(parts, 1)), DENSE_SLOPE))
        out: Tensor = x + 0.2 * self.conv5(torch.cat(parts, 1))
        return out


def _small_conv(inputs: int, outputs: int) -> nn.Conv2d:
    """ESRGAN's start: small weights, no bias."""
    conv = conv3(inputs, outputs)
    nn.init.kaiming_normal_(conv.weight)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    with torch.no_grad():
        conv.weight.mul_(0.1)
    return conv


class DoubleConv(nn.Module):
    """Two 3x3 convolutions without bias, the first at a stride."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.c1 = conv3(inputs, outputs, stride=stride, bias=False)
        self.c2 = conv3(outputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.c2(F.leaky_relu(self.c1(x), ENCODER_SLOPE)), ENCODER_SLOPE)


class Upsample2(nn.Module):
    """Convolution and pixel shuffle: twice the size."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convblock = nn.Sequential(conv3(inputs, 4 * outputs), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.convblock(x)
        return out


class Down(nn.Module):
    """(N, C, H, W) to (N, 2C, H/2, W/2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down_double_conv1 = DoubleConv(channels, 2 * channels, 2)
        self.rdb = DenseBlock(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.rdb(self.down_double_conv1(x))
        return out


class Up(nn.Module):
    """(N, 2C, H/2, W/2), beside what came before `Down`, to (N, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.up1 = Upsample2(2 * channels, channels)
        self.double_conv1 = DoubleConv(2 * channels, channels)
        self.rdb = DenseBlock(channels, channels)

    def forward(self, skipped: Tensor, x: Tensor) -> Tensor:
        out: Tensor = self.rdb(self.double_conv1(torch.cat([skipped, self.up1(x)], 1)))
        return out


# ---- tables ----------------------------------------------------------------------------------


class BlockMLP(nn.Module):
    """One block's coefficients, (..., 64) in zigzag order, to 64 numbers of 0 and more."""

    def __init__(self) -> None:
        super().__init__()
        hidden = 3 * COEFFICIENTS

        def layer(inputs: int) -> nn.Sequential:
            return nn.Sequential(nn.Linear(inputs, hidden), nn.LeakyReLU())

        self.first_linear = layer(COEFFICIENTS)
        self.layers = nn.Sequential(layer(hidden), layer(hidden))
        self.final_linear = nn.Linear(hidden, COEFFICIENTS)

    def forward(self, blocks: Tensor) -> Tensor:
        return F.relu(self.final_linear(self.layers(self.first_linear(blocks))))


# ---- the decoder: two EDSRs ------------------------------------------------------------------


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x))) of EDSR (Lim et al., arXiv 1707.02921), without scaling."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = conv3(channels, channels)
        self.conv2 = conv3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.conv2(F.relu(self.conv1(x)))
        return out


class EDSR(nn.Module):
    """EDSR: (N, inputs, h, w) to (N, outputs, h * 2**doublings, ...)."""

    def __init__(self, inputs: int, outputs: int, channels: int, blocks: int, doublings: int) -> None:
        super().__init__()
        self.conv_first = conv3(inputs, channels)
        self.body = nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))
        self.conv_after_body = conv3(channels, channels)
        steps = [(conv3(channels, 4 * channels), nn.PixelShuffle(2)) for _ in range(doublings)]
        self.upsample = nn.Sequential(*(layer for step in steps for layer in step))
        self.conv_last = conv3(channels, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_first(x)
        out: Tensor = self.conv_last(self.upsample(self.conv_after_body(self.body(x)) + x))
        return out
