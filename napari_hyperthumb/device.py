"""Where the networks run."""

from __future__ import annotations

import contextlib

import torch

from .errors import DeviceError

DEVICES = ("auto", "cpu", "cuda", "mps")


def pick_device(name: str = "auto") -> torch.device:
    """A torch device by name; "auto" takes CUDA, then MPS, then the CPU.

    Also "cuda:1" and the like. Raises DeviceError for one that this machine doesn't have.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise DeviceError(f"unknown device {name!r}; choose one of {', '.join(DEVICES)}") from error
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available.get(device.type, False):
        raise DeviceError(f'device {name!r} isn\'t available here; use "auto" or "cpu"')
    return device


def has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32: on every CUDA GPU, and CPUs with instructions for it."""
    if device.type == "cpu":
        # Not in torch 2.0, which takes the slow way.
        return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())
    return device.type == "cuda"


def decoding_dtype(device: torch.device) -> torch.dtype:
    """Of the decoder's feature maps in 8-bit pictures: float16 on a GPU, which costs under 0.001 dB."""
    return torch.float16 if device.type in ("cuda", "mps") else torch.float32


def mixed_precision(
    device: torch.device, dtype: torch.dtype | None
) -> contextlib.AbstractContextManager[object]:
    """Convolutions and linear layers inside in `dtype`, None: as everything else."""
    # Not autocast(enabled=False): with torch 2.0 even that asks for a GPU's driver.
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def describe_device(device: torch.device) -> str:
    """The GPU's name, or the CPU with its number of threads."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    if device.type != "cpu":
        return device.type.upper()
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"
