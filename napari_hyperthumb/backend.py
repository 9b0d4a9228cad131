"""What runs the decoder: PyTorch, or OpenVINO in float32 or in eight bits (extra "fast").

All of them compute `plain.PlainDecoder`. In float32 they agree within `TOLERANCE`, so 8-bit pictures differ
where a value lies on the edge between two levels. Eight bits differ by more: at most `int8.MAX_LOSS` dB in
the mean over pictures.

"auto" takes eight bits where all of this holds, and PyTorch otherwise:

* OpenVINO is installed, and the device is a CPU;
* the weights have an int8 file of their own, and the file's tables are no finer than those for which it was
  measured to cost at most `int8.MAX_LOSS`;
* the picture has 8 bits: 16-bit and float data keep what float32 gives;
* the picture has `SMALL` pixels or more. Compiling for its size costs more than a smaller one gains.

Nothing of that depends on what was decoded before, or on which part is wanted: a file always gives the same
picture on a machine. OpenVINO in float32 isn't chosen by itself: it is but a few percent faster than PyTorch.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from .checkpoint import Model
from .device import has_bfloat16
from .errors import DependencyError, DeviceError, ModelError
from .int8 import MAX_LOSS, Int8, int8_of
from .paper import PaperModel
from .pixels import Format

TOLERANCE = 2e-3
"""8-bit levels between the results of two backends in float32, before they are rounded to a dtype."""
BACKENDS = ("auto", "torch", "openvino", "openvino-int8")
ENVIRONMENT = "HYPERTHUMB_BACKEND"
"""Variable that replaces "auto"."""
SMALL = 2**20
Key = tuple[object, ...]
Item = TypeVar("Item")


class Shelf(Generic[Item]):
    """What was made for windows of some size, the ones used last, for the next picture of that size."""

    def __init__(self, most: int) -> None:
        """most: HR pixels of the windows in all; there is no room for a larger one."""
        self._most = most
        self._items: OrderedDict[Key, tuple[Item, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Key) -> Item | None:
        """It stays there, for others too."""
        with self._lock:
            if key not in self._items:
                return None
            self._items.move_to_end(key)
            return self._items[key][0]

    def take(self, key: Key) -> Item | None:
        """It is gone for others until it is put back."""
        with self._lock:
            return self._items.pop(key, (None, 0))[0]

    def put(self, key: Key, item: Item, pixels: int) -> None:
        """As used last; those used longest ago make room."""
        if pixels > self._most:
            return
        with self._lock:
            self._items[key] = item, pixels
            while sum(held for _, held in self._items.values()) > self._most:
                self._items.popitem(last=False)


FEW = 2
"""Threads, see `one_at_a_time`."""


def one_at_a_time() -> bool:
    """Whether a single window is inside OpenVINO at a time, and may be larger for it.

    With more threads another one waits there or is copied out meanwhile: that takes memory, and two cores
    have nothing left for it.
    """
    return torch.get_num_threads() <= FEW


@dataclass(frozen=True)
class Backend:
    """A choice that was made."""

    name: str
    """"torch", "openvino" or "openvino-int8"."""
    int8: Int8 | None = None

    @property
    def half(self) -> bool:
        """Whether what stays beside eight bits runs in bfloat16, where the CPU has instructions for it.

        That costs 0.001 to 0.004 dB (Kodak, scale 2), and saves a fifth of the time and half of the memory.
        """
        return self.int8 is not None and has_bfloat16(torch.device("cpu"))


def pick_backend(
    name: str, model: Model, device: torch.device, fmt: Format, pixels: int, tables: NDArray[np.int64]
) -> Backend:
    """The backend for a picture of so many HR pixels; name: one of `BACKENDS`.

    tables: (2, 64), the file's. Raises DeviceError, DependencyError or ModelError for one that can't be had.
    """
    if name == "auto":
        name = os.environ.get(ENVIRONMENT) or "auto"
    if name not in BACKENDS:
        raise DeviceError(f"unknown backend {name!r}; choose one of {', '.join(BACKENDS)}")
    if name == "torch":
        return Backend("torch")
    if name == "auto":
        candidate = device.type == "cpu" and pixels >= SMALL and fmt.eight_bit and has_openvino()
        int8 = int8_of(model) if candidate else None
        good = int8 is not None and int8.loss <= MAX_LOSS and fineness(tables) >= int8.finest
        return Backend("openvino-int8", int8) if good else Backend("torch")
    if isinstance(model.net, PaperModel):
        raise ModelError(
            f"the weights {model.name} are of the published architecture: it runs in PyTorch only"
        )
    if not has_openvino():
        raise DependencyError(f"the backend {name} needs openvino: pip install 'napari-hyperthumb[fast]'")
    if device.type != "cpu":
        raise DeviceError(f'the backend {name} runs on the CPU: use device="cpu" or backend="torch"')
    if name == "openvino":
        return Backend(name)
    int8 = int8_of(model)
    if int8 is None:
        raise ModelError(
            f"the weights {model.name} ({model.digest}) have no int8 file of their own: "
            "make one (scripts/quantise.py), or choose another backend"
        )
    return Backend(name, int8)


def has_openvino() -> bool:
    """Whether the extra "fast" is installed."""
    return find_spec("openvino") is not None


def fineness(tables: NDArray[np.int64]) -> float:
    """Mean of the logarithms of the luma steps: what the loss of eight bits depends on."""
    return float(np.log(tables[0]).mean())
