"""Training a decoder for eight bits: it computes as `scripts/quantise.py` rounds it, gradients go through.

The convolutions that backends run in eight bits see rounded inputs and rounded weights (Jacob et al.,
arXiv 1712.05877); what stays in float there stays in float here. Weights are kept, and saved, as they are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..jpeg import Rounding, rgb_to_ycbcr, ycbcr_to_rgb
from ..model import STRIDE, FrequencyAwareDecoder

HIGHEST = 127
"""Of a rounded weight; inputs have 256 values."""
MEMORY = 0.99
"""Share of its range that an input keeps from step to step."""


class InputRange:
    """Rounds its input, of any shape, to 256 values between running means of its least and greatest one."""

    def __init__(self) -> None:
        self.ends: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            now = torch.stack([x.amin().clamp_max(0), x.amax().clamp_min(0)]).float()
            self.ends = now if self.ends is None else self.ends.lerp(now, 1 - MEMORY)
            low, high = self.ends
            step = ((high - low) / 255).clamp_min(1e-8)
            zero = (-low / step).round().clamp(0, 255).int()
        out: Tensor = torch.fake_quantize_per_tensor_affine(x.float(), step, zero, 0, 255)
        return out


def rounded_weight(weight: Tensor) -> Tensor:
    """(outputs, ...) to the nearest of 255 values, those of each output its own."""
    step = (weight.detach().abs().flatten(1).amax(1) / HIGHEST).clamp_min(1e-8)
    zero = torch.zeros(len(step), dtype=torch.int32, device=weight.device)
    return torch.fake_quantize_per_channel_affine(weight, step, zero, 0, -HIGHEST, HIGHEST)


def rounded_last(weight: Tensor) -> Tensor:
    """The same of the last convolution, (3 * 16, inputs, k, k): backends fold the conversion to RGB into it,
    and round what comes of it."""
    planes = weight.reshape(3, STRIDE**2, *weight.shape[1:]).flatten(2)  # (3, 16, inputs * k * k)
    rgb = rounded_weight(ycbcr_to_rgb(planes[None])[0].flatten(0, 1))
    return rgb_to_ycbcr(rgb.reshape(1, *planes.shape))[0].reshape(weight.shape)


def round_decoder(decoder: FrequencyAwareDecoder) -> dict[str, InputRange]:
    """From now on this decoder computes with rounded inputs and weights.

    Returns what rounds the inputs of each convolution, by the names that backends give these.
    """
    found = {f"frequency.{at // 2}": _round(decoder.frequency[at], rounded_weight) for at in (0, 2, 4)}
    pixels = 3 * decoder.unshuffle**2

    def without_pixels(rounded: Rounding) -> Rounding:
        return lambda x: torch.cat([x[:, :pixels].float(), rounded(x[:, pixels:])], 1)

    found["head"] = _round(decoder.head, without_pixels(rounded_weight), without_pixels)
    for index, block in enumerate(decoder.body):
        for name in ("a", "b"):
            found[f"blocks.{index}.{name}"] = _round(getattr(block, name), rounded_weight)
    found["out"] = _round(decoder.out, rounded_last)
    return found


def _round(
    conv: nn.Module, weights: Rounding, part: Callable[[Rounding], Rounding] = lambda rounded: rounded
) -> InputRange:
    assert isinstance(conv, nn.Conv2d)
    plain, ends = conv._conv_forward, InputRange()
    inputs = part(ends)

    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):  # what is rounded is float32
            x, weight = inputs(x), weights(weight)
        out: Tensor = plain(x, weight, bias)
        return out

    conv._conv_forward = forward  # type: ignore[method-assign,assignment]
    return ends
