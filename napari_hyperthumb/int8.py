"""The decoder in eight bits: what `scripts/quantise.py` found, in a small file beside the weights.

NAME.int8 lies beside NAME.safetensors and belongs to those weights alone: it names their digest, and one that
names another is left unread. It holds ranges and biases only, the weights themselves are rounded when loaded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor

from .checkpoint import Model
from .errors import ModelError
from .files import write_atomically

FORMAT = "hyperthumb-int8-1"
SUFFIX = ".int8"
MAX_LOSS = 0.05
"""dB that eight bits may cost; a file that says more is never chosen by itself."""
MAX_BYTES = 2**20
_AGAIN = "make it again with scripts/quantise.py, or remove it"
_KEYS = ("range", "weights", "bias")


@dataclass(frozen=True)
class Rounded:
    """One convolution in eight bits."""

    range: Tensor
    """(2,): lowest and highest input, 256 steps apart."""
    weights: Tensor
    """(outputs,): greatest weight of each output, 127 steps from 0."""
    bias: Tensor
    """(outputs,): instead of the network's own."""


@dataclass(frozen=True, eq=False)
class Int8:
    """The convolutions of a `PlainDecoder` that run in eight bits, by name; the others stay in float32.

    Each equals itself alone, so that what was compiled for one is never taken for another's.
    """

    convolutions: Mapping[str, Rounded]
    digest: str
    """Of the weights."""
    loss: float
    """Greatest mean loss in dB at those of the measured levels that keep within MAX_LOSS."""
    finest: float
    """`backend.fineness` of the tables at which the loss comes to MAX_LOSS, or of the finest measured."""


def save_int8(path: Path, int8: Int8) -> None:
    """Write it, whole or not at all."""
    tensors = {
        f"{name}.{key}": getattr(rounded, key).float().contiguous()
        for name, rounded in int8.convolutions.items()
        for key in _KEYS
    }
    numbers = {"loss": repr(round(int8.loss, 4)), "finest": repr(round(int8.finest, 4))}
    header = {"format": FORMAT, "digest": int8.digest, **numbers}
    write_atomically(path, save_tensors(tensors, metadata=header))


def load_int8(path: Path) -> Int8:
    """Read such a file. Raises ModelError for anything else."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ModelError(f"{path}: too large for an int8 file of ours")
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        names = sorted({key.rpartition(".")[0] for key in tensors})
        found = {name: Rounded(*(tensors.pop(f"{name}.{key}") for key in _KEYS)) for name in names}
        loss, finest, digest = float(header["loss"]), float(header["finest"]), header["digest"]
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{path}: not a readable int8 file ({error}); {_AGAIN}") from error
    sound = all(
        rounded.range.shape == (2,)
        and rounded.weights.shape == rounded.bias.shape
        and rounded.range[0] < rounded.range[1]
        and all(torch.isfinite(getattr(rounded, key)).all() for key in _KEYS)
        for rounded in found.values()
    )
    if header.get("format") != FORMAT or tensors or not sound or not math.isfinite(loss + finest):
        raise ModelError(f"{path}: not an int8 file of ours, or a damaged one; {_AGAIN}")
    return Int8(found, digest, loss, finest)


def int8_of(model: Model) -> Int8 | None:
    """The eight bits of a model's weights; None where there are none, or they are of other weights."""
    if model.path is None:
        return None
    path = model.path.with_suffix(SUFFIX)
    try:
        stat = path.stat()
    except OSError:
        return None
    found = _load(path, (stat.st_mtime_ns, stat.st_size))
    return found if found.digest == model.digest else None


@lru_cache(maxsize=8)
def _load(path: Path, stamp: tuple[int, int]) -> Int8:
    return load_int8(path)
