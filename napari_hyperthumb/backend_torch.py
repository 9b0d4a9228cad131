"""The decoder in PyTorch, on any device.

On CUDA the second window of a size in a row is captured in a CUDA graph, which later ones replay: one launch
instead of dozens, which counts where windows are small. What a file changes is copied into the graph's
weights, so that one graph serves all files of a size. The graphs used last are kept for the next picture.
"""

from __future__ import annotations

import copy
import inspect
import threading
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from .backend import Key, Shelf
from .model import STRIDE
from .pixels import Array
from .plain import Conditions, Conv, PlainDecoder

KEPT = 24_000_000
"""HR pixels, in all, of the windows whose CUDA graphs are kept. Each holds on to the memory it works in."""
CAN_CAPTURE = "capture_error_mode" in inspect.signature(torch.cuda.graph).parameters
"""Not in torch 2.0, where a capture would break what other threads do on the GPU."""

_capturing = threading.Lock()
_last: Key | None = None
"""Of the window that ran before, in any thread."""


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
        key: Key | None = None,
    ) -> None:
        """eight_bit: the output is uint8, else float32. dtype: of the feature maps; the thumbnail's pixels
        and the levels stay float32. key: names the weights; None: no CUDA graphs.
        """
        self._plain, self._device, self._eight_bit, self._dtype = plain, device, eight_bit, dtype
        self._key = key
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

    @property
    def conditioned(self) -> list[Tensor]:
        """What a file changes, and nobody else's."""
        firsts = (self._head, *(a for a, _ in self._blocks))
        return [
            self._steps,
            self._head_pixels,
            *(tensor for one in firsts for tensor in (one.weight, one.bias)),
        ]

    def twin(self) -> TorchDecoder:
        """The same, with a copy of what a file changes."""
        out = copy.copy(self)
        out._steps, out._head, out._head_pixels, out._blocks = copy.deepcopy(
            (self._steps, self._head, self._head_pixels, self._blocks)
        )
        return out

    def outputs(self, inputs: Iterable[Tensor]) -> Iterator[Array]:
        """As `backend_openvino.OpenVINODecoder.outputs`."""
        cuda = self._device.type == "cuda"
        prepared = (torch.empty(x.shape, pin_memory=cuda).copy_(x).flatten(2) for x in inputs)
        if cuda:
            yield from self._ahead(prepared)
            return
        for x in prepared:
            yield self.levels(x.to(self._device)).cpu().numpy()

    def _ahead(self, inputs: Iterable[Tensor]) -> Iterator[Array]:
        """On CUDA: the CPU prepares one window and puts another into place while the GPU works."""
        waiting: list[tuple[Tensor, torch.cuda.Event]] = []
        for x in inputs:
            out = self.replayed(x.to(self._device, non_blocking=True))
            host = torch.empty(out.shape, dtype=out.dtype, pin_memory=True).copy_(out, non_blocking=True)
            waiting.append((host, torch.cuda.current_stream(self._device).record_event()))
            if len(waiting) == 2:
                yield _arrived(*waiting.pop(0))
        for one in waiting:
            yield _arrived(*one)

    def replayed(self, x: Tensor) -> Tensor:
        """`levels` by a CUDA graph, from the second window of a size in a row on."""
        global _last
        if self._key is None or not CAN_CAPTURE:
            return self.levels(x)
        key: Key = (self._key, x.shape, x.device, self._eight_bit, self._dtype)
        graph = _graphs.take(key)  # no other thread may use it now
        if graph is None and key == _last:
            graph = Captured(self, x)
        _last = key
        if graph is None:
            return self.levels(x)
        out = graph.levels(self, x).clone()  # before another thread overwrites it
        _graphs.put(key, graph, out.shape[0] * out.shape[1] * STRIDE**2)
        return out

    def levels(self, x: Tensor) -> Tensor:
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


class Captured:
    """A decoder's CUDA graph for windows of one size."""

    def __init__(self, decoder: TorchDecoder, x: Tensor) -> None:
        """x: a window of that size. One must have run already: CUDA's libraries are ready then."""
        mine, self._x = decoder.twin(), torch.empty_like(x)
        self._conditioned, self._conditions_of = mine.conditioned, decoder
        self._replay = captured(lambda: mine.levels(self._x))

    def levels(self, decoder: TorchDecoder, x: Tensor) -> Tensor:
        """Those of another decoder of the same weights; valid until the next call."""
        if decoder is not self._conditions_of:  # another file
            for mine, other in zip(self._conditioned, decoder.conditioned, strict=True):
                mine.copy_(other)
            self._conditions_of = decoder
        self._x.copy_(x)
        return self._replay()


_graphs: Shelf[Captured] = Shelf(KEPT)


def captured(work: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The same work, on the same tensors, as a CUDA graph; its result is always in one place."""
    graph = torch.cuda.CUDAGraph()
    with _capturing, torch.cuda.graph(graph, capture_error_mode="thread_local"):
        out = work()

    def replay() -> Tensor:
        graph.replay()
        return out

    return replay


def _arrived(host: Tensor, done: torch.cuda.Event) -> Array:
    done.synchronize()
    out: Array = host.numpy()
    return out


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
