"""Words and numbers as people read them. No Qt."""

from __future__ import annotations

import math

from .errors import HyperThumbError

NO_MEMORY = "Not enough memory for an image of this size: crop it, or show a smaller part"


def error_text(error: Exception, *, no_memory: str = NO_MEMORY) -> str:
    """What to tell the user of an error; no_memory: what to do where the image was too large."""
    if isinstance(error, HyperThumbError):
        text = str(error)
        return text[:1].upper() + text[1:]
    if isinstance(error, MemoryError):
        return no_memory
    return f"{type(error).__name__}: {error}"


def human_bytes(count: float) -> str:
    """A file size in the unit that suits it."""
    if count < 1000:
        return f"{count:.0f} bytes"
    if count < 999_500:
        return f"{count / 1000:.3g} kB" if count < 99_950 else f"{count / 1000:.0f} kB"
    return f"{count / 1e6:.3g} MB"


def human_seconds(seconds: float) -> str:
    """A duration in the unit that suits it."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def decibels(value: float) -> str:
    """PSNR; an exact reconstruction has none."""
    return f"{value:.2f} dB" if math.isfinite(value) else "exact"
