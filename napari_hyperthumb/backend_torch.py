"""The decoder in PyTorch, on any device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from .pixels import Array
from .plain import Conditions, Conv, PlainDecoder


class TorchDecoder:
    """Runs windows of any size; FiLM is folded into the convolutions."""

    def __init__(
        self,
        plain: PlainDecoder,
        conditions: Conditions,
        device: torch.device,
        *,
        eight_bit: bool,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """eight_bit: the output is uint8, else float32. dtype: of the feature maps; the thumbnail's pixels
        and the levels stay float32.
        """
        self._plain, self._device, self._eight_bit, self._dtype = plain, device, eight_bit, dtype
        self._steps = conditions.steps
        self._head = ready(folded(plain.head, conditions.films[0]), dtype)
        pixels = plain.head_pixels * conditions.films[0][0][:, None, None, None]
        self._head_pixels = pixels.to(dtype, memory_format=torch.channels_last)
        self._blocks = [
            (ready(folded(a, film), dtype), ready(b, dtype))
            for (a, b), film in zip(plain.blocks, conditions.films[1:], strict=True)
        ]
        self._frequency = [ready(one, dtype) for one in plain.frequency]
        self._out, self._up = ready(plain.out, dtype), plain.up.contiguous(memory_format=torch.channels_last)

    def outputs(self, inputs: Iterable[NDArray[np.float32]]) -> Iterator[Array]:
        """As `backend_openvino.OpenVINODecoder.outputs`."""
        for x in inputs:
            yield self._levels(torch.from_numpy(x).to(self._device)).cpu().numpy()

    def _levels(self, x: Tensor) -> Tensor:
        """(h, w, C * 64) to (h/4, w/4, 16 * C)."""
        plain = self._plain
        x = x * self._steps
        pixels = shuffled((x @ plain.pixels.T)[None].permute(0, 3, 1, 2), plain.shuffle)
        f = x.permute(2, 0, 1)[None].to(self._dtype)
        for index, one in enumerate(self._frequency):
            f = conv(f if index == 0 else f.relu_(), one)
        h = conv(shuffled(f, plain.shuffle), self._head)
        del f
        h += F.conv2d(pixels.to(self._dtype), self._head_pixels, padding=1)
        for a, b in self._blocks:
            h += conv(conv(h, a).relu_(), b)
        levels = conv(h, self._out).float()
        del h
        levels += F.conv2d(framed(pixels, plain.unshuffle), self._up)
        if self._eight_bit:
            levels = levels.clamp_(0, 255).round_().to(torch.uint8)
        return levels[0].permute(1, 2, 0)


def ready(one: Conv, dtype: torch.dtype) -> Conv:
    return Conv(one.weight.to(dtype, memory_format=torch.channels_last), one.bias.to(dtype))


def folded(one: Conv, film: Tensor) -> Conv:
    """Followed by a scale and a shift, (2, outputs)."""
    scale, shift = film
    return Conv(one.weight * scale[:, None, None, None], one.bias * scale + shift)


def conv(x: Tensor, one: Conv) -> Tensor:
    return F.conv2d(x, one.weight, one.bias, padding=one.weight.shape[-1] // 2)


def shuffled(x: Tensor, times: int) -> Tensor:
    """Channels (by, bx, c) to finer positions, channels last in memory as before."""
    _, channels, height, width = x.shape
    x = x.permute(0, 2, 3, 1).reshape(height, width, times, times, -1)  # (h, w, by, bx, c)
    x = x.transpose(1, 2).reshape(1, height * times, width * times, channels // times**2)
    return x.permute(0, 3, 1, 2)


def framed(pixels: Tensor, unshuffle: int) -> Tensor:
    """One position more on each side, holding the mirrored positions at the edge."""
    order = torch.arange(pixels.shape[1], device=pixels.device).reshape(-1, unshuffle, unshuffle)
    for axis in (0, 1):
        mirrored = pixels[:, order.flip(1 + axis).flatten()]
        first, last = mirrored.narrow(2 + axis, 0, 1), mirrored.narrow(2 + axis, -1, 1)
        pixels = torch.cat([first, pixels, last], 2 + axis)
    return pixels.contiguous(memory_format=torch.channels_last)
