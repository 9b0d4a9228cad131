"""The decoder in OpenVINO, fp32 or int8 (extra "fast").

A graph is built straight from the weights and compiled for one size in 0.05 to 0.1 seconds. FiLM is an
input of it: OpenVINO fuses it with the rectifier behind it, and one compiled graph serves all files of a size
(folded into the weights instead it was 0 to 6% faster, and compiled again for every file).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray
from openvino import opset13 as op
from torch import Tensor

from .backend import Backend, Key, Shelf, one_at_a_time
from .int8 import Int8
from .model import STRIDE
from .pixels import Array
from .plain import Conditions, Conv, PlainDecoder

KEPT = 10_000_000
"""HR pixels, in all, of the windows whose compiled graphs are kept for the next picture of that size. Each
holds on to the memory it works in; in half precision a pixel counts half."""
FAR = 1e6
"""Beyond all 8-bit levels."""
Node = Any
"""OpenVINO's nodes carry no types."""

_core = ov.Core()
_compiled: Shelf[Any] = Shelf(KEPT)


class OpenVINODecoder:
    """Runs windows of one size through a compiled graph."""

    def __init__(
        self,
        plain: PlainDecoder,
        conditions: Conditions,
        size: tuple[int, int],
        chosen: Backend,
        *,
        eight_bit: bool,
        key: Key | None,
    ) -> None:
        """size: (h, w) of the windows, in blocks. eight_bit: the output is uint8, else float32.

        key: names the weights; None: don't keep the compiled graph.
        """
        self._conditions = condition_inputs(conditions)
        self._compiled = _compile(plain, size, chosen, eight_bit, key)

    def outputs(self, inputs: Iterable[Tensor]) -> Iterator[Array]:
        """Quantised coefficients (h, w, C, 64) of windows to their pixels (h/4, w/4, 16 * C), in order.

        Inputs may lie in memory in any order, and be of any type. What is yielded is valid until the next one
        is asked for.
        """
        free = [self._request() for _ in range(1 if one_at_a_time() else 2)]
        busy: deque[Any] = deque()
        try:
            for x in inputs:
                if not free:
                    yield self._taken(busy[0])
                    free.append(busy.popleft())
                request = free.pop()
                torch.from_numpy(request.get_input_tensor(0).data).view(x.shape).copy_(x)
                request.start_async()
                busy.append(request)
            while busy:
                yield self._taken(busy[0])
                busy.popleft()
        finally:  # cancelled: not before OpenVINO has done with its inputs
            for request in busy:
                request.wait()

    def _request(self) -> Any:
        request = self._compiled.create_infer_request()
        for index, values in enumerate(self._conditions):
            request.set_input_tensor(1 + index, ov.Tensor(values))
        return request

    @staticmethod
    def _taken(request: Any) -> Array:
        request.wait()
        out: Array = request.get_output_tensor(0).data[0]
        return out


def _compile(
    plain: PlainDecoder, size: tuple[int, int], chosen: Backend, eight_bit: bool, key: Key | None
) -> Any:
    threads = torch.get_num_threads()
    whole: Key = (key, size, plain.components, eight_bit, chosen, threads)
    kept = _compiled.get(whole) if key is not None else None
    if kept is not None:
        return kept
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "bf16" if chosen.half else "f32",
        "ENABLE_CPU_PINNING": False,
    }
    compiled = _core.compile_model(graph(plain, size, eight_bit=eight_bit, int8=chosen.int8), "CPU", options)
    pixels = size[0] * size[1] * (plain.shuffle * STRIDE) ** 2 // (2 if chosen.half else 1)
    if key is not None:
        _compiled.put(whole, compiled, pixels)
    return compiled


# ---- the graph -------------------------------------------------------------------------------


def condition_inputs(conditions: Conditions) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Inputs of the graph beside the coefficients: steps, and all scales and shifts in one row."""
    films = torch.cat([film.flatten() for film in conditions.films])
    return conditions.steps.numpy(), films.numpy()


def graph(
    plain: PlainDecoder, size: tuple[int, int], *, eight_bit: bool, int8: Int8 | None = None
) -> ov.Model:
    """`PlainDecoder`'s formula. Inputs: quantised coefficients (1, h, w, C * 64), and `condition_inputs`."""
    build = _Builder(int8)
    inputs = plain.pixels.shape[1]
    coefficients = op.parameter([1, *size, inputs], np.float32, name="coefficients")
    steps = op.parameter([inputs], np.float32, name="steps")
    channels = [len(conv.bias) for conv in (plain.head, *(a for a, _ in plain.blocks))]
    films = op.parameter([2 * sum(channels)], np.float32, name="films")
    each = [count for count in channels for _ in ("scale", "shift")]
    rows = op.variadic_split(films, np.int64(0), np.array(each)).outputs()

    def film(y: Node, index: int) -> Node:
        shape = [1, channels[index], 1, 1]
        scale, shift = (op.reshape(row, shape, False) for row in rows[2 * index :][:2])
        return op.add(op.multiply(y, scale), shift)

    x = op.transpose(op.multiply(coefficients, steps), [0, 3, 1, 2])
    f = x
    for index, conv in enumerate(plain.frequency):
        f = build.conv(f if index == 0 else op.relu(f), conv, f"frequency.{index}")
    f = op.depth_to_space(f, "blocks_first", plain.shuffle)
    pixels = build.linear(x, plain.pixels[:, :, None, None], "pixels")
    pixels = op.depth_to_space(pixels, "blocks_first", plain.shuffle)
    h = op.add(build.conv(f, plain.head, "head"), build.linear(pixels, plain.head_pixels, "head_pixels", 1))
    h = film(h, 0)
    for index, (a, b) in enumerate(plain.blocks):
        y = op.relu(film(build.conv(h, a, f"blocks.{index}.a"), 1 + index))
        h = op.add(h, build.conv(y, b, f"blocks.{index}.b"))
    up = build.linear(_framed(pixels, plain.unshuffle), plain.up, "up")
    # No level is so far off: this only makes OpenVINO write it in float32, where it would write bfloat16 and
    # convert that afterwards, in as much memory again.
    up = op.clamp(up, -FAR, FAR)
    levels = op.add(build.conv(h, plain.out, "out"), up)
    if eight_bit:
        levels = op.convert(op.round(op.clamp(levels, 0, 255), "half_to_even"), np.uint8)
    return ov.Model([op.transpose(levels, [0, 2, 3, 1])], [coefficients, steps, films], "decoder")


def _framed(pixels: Node, unshuffle: int) -> Node:
    """One position more on each side, holding the mirrored positions at the edge."""
    channels, *size = (int(n) for n in pixels.output(0).shape[1:])
    order = np.arange(channels).reshape(-1, unshuffle, unshuffle)
    for axis in (0, 1):
        mirrored = np.flip(order, 1 + axis).flatten()
        ends = (
            op.gather(op.gather(pixels, np.array([at]), np.int64(2 + axis)), mirrored, np.int64(1))
            for at in (0, size[axis] - 1)
        )
        first, last = ends
        pixels = op.concat([first, pixels, last], 2 + axis)
    return pixels


class _Builder:
    def __init__(self, int8: Int8 | None) -> None:
        self._rounded = int8.convolutions if int8 is not None else {}

    def linear(self, x: Node, weight: Tensor, name: str, padding: int = 0) -> Node:
        """A convolution without a bias, always in float32."""
        return self._convolution(x, op.constant(weight.float().numpy()), padding, name)

    def conv(self, x: Node, conv: Conv, name: str) -> Node:
        weight, bias = op.constant(conv.weight.float().numpy()), conv.bias
        if name in self._rounded:
            rounded = self._rounded[name]
            low, high = (np.float32(end) for end in rounded.range.tolist())
            x = op.fake_quantize(x, low, high, low, high, 256)
            most = rounded.weights.reshape(-1, 1, 1, 1).numpy()
            weight = op.fake_quantize(weight, -most, most, -most, most, 255)
            bias = rounded.bias
        y = self._convolution(x, weight, conv.weight.shape[-1] // 2, name)
        return op.add(y, op.constant(bias.float().reshape(1, -1, 1, 1).numpy()))

    @staticmethod
    def _convolution(x: Node, weight: Node, padding: int, name: str) -> Node:
        return op.convolution(x, weight, [1, 1], [padding] * 2, [padding] * 2, [1, 1], name=name)
