"""Arrays as users have them, and the planes the networks work on."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import HyperThumbWarning, ImageError

Array = NDArray[Any]
ValueRange = tuple[float, float]
_NAMES = ("uint8", "uint16", "uint32", "int8", "int16", "int32", "float16", "float32", "float64")
DTYPES = frozenset(_NAMES)
SAMPLES = 1_000_000
"""Values of an image that its percentiles are taken from."""
NARROW = 0.02
"""Share of the value range, 5 of 255 levels: where nearly all values lie in so little, outliers made it."""


@dataclass(frozen=True)
class Format:
    """What the original array was: enough to give the same kind of array back."""

    dtype: str = "uint8"
    """Name of the numpy dtype, one of `DTYPES`."""
    range: ValueRange = (0.0, 255.0)
    """The values coded as black and white."""
    gray: bool = False
    """One channel, shape (H, W); otherwise RGB, shape (H, W, 3)."""

    @property
    def eight_bit(self) -> bool:
        """Whether the values are the codec's own levels."""
        return self.dtype == "uint8" and self.range == (0.0, 255.0)


def _check_shape(image: Array, alpha: str) -> Array:
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if image.ndim == 3 and image.shape[2] in (2, 4):
        if alpha != "drop":
            raise ImageError(
                f"the image has an alpha channel (shape {image.shape}), which a JPEG can't hold: "
                'compose it onto a background first, or pass alpha="drop" (--alpha drop) to code '
                "the colours alone"
            )
        image = image[:, :, :3] if image.shape[2] == 4 else image[:, :, 0]
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise ImageError(
            f"an image must have shape (H, W), (H, W, 3) or (H, W, 4), not {image.shape}; "
            "stacks and channels are coded by encode_stack (--axes)"
        )
    if 0 in image.shape:
        raise ImageError(f"the image is empty: shape {image.shape}")
    return image


def check_image(
    image: object, *, alpha: str = "refuse", value_range: ValueRange | None = None
) -> tuple[Array, Format]:
    """An array that can be coded, (H, W) or (H, W, 3), and its format.

    value_range: the values that become black and white. None: 0..255 for uint8, the data's own
    minimum and maximum for every other dtype. Values outside are clipped.
    alpha: "refuse" or "drop" a fourth channel.
    Raises ImageError for shapes, dtypes and values that can't be coded.
    """
    if alpha not in ("refuse", "drop"):
        raise ImageError(f'alpha must be "refuse" or "drop", not {alpha!r}')
    try:
        array = np.asarray(image)
    except (TypeError, ValueError) as error:
        raise ImageError(f"not an image array: {error}") from error
    if array.dtype == bool:
        raise ImageError(
            "the image is boolean: a mask must not be coded lossily; save it as PNG, or convert it "
            "to uint8 if it really is a picture"
        )
    array = _check_shape(array, alpha)
    if array.dtype.name not in DTYPES:
        raise ImageError(f"dtype {array.dtype} can't be coded; convert to one of {', '.join(_NAMES)}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = array.size - np.count_nonzero(np.isfinite(array))
        raise ImageError(f"the image has {bad} NaN or infinite values; replace them first (numpy.nan_to_num)")
    if value_range is None:
        eight_bit = array.dtype == np.uint8
        value_range = (0.0, 255.0) if eight_bit else (float(array.min()), float(array.max()))
        if not eight_bit:
            warn_of_outliers(sampled(array, 1), *value_range)
    try:
        low, high = (float(end) for end in value_range)
    except (TypeError, ValueError) as error:
        raise ImageError(f"value_range must be two finite numbers, not {value_range!r}") from error
    if not (np.isfinite(low) and np.isfinite(high) and low <= high):
        raise ImageError(f"value_range must be two finite numbers, low first, not {value_range}")
    return array, Format(array.dtype.name, (low, high), array.ndim == 2)


def sampled(array: Array, count: int) -> Array:
    """Evenly spaced values of a picture as float64; `SAMPLES` at most of so many pictures together, about."""
    step = max(1, math.isqrt(array.size * count // SAMPLES))
    return array[::step, ::step].astype(np.float64).reshape(-1)


def warn_of_outliers(samples: Array, low: float, high: float) -> None:
    """Warn where an image's least and greatest value, as its range, leave nearly all values a few steps."""
    first, last = (float(value) for value in np.percentile(samples, [0.05, 99.95]))
    if last / 2 - first / 2 < NARROW * (high / 2 - low / 2):  # the differences themselves may overflow
        warnings.warn(
            f"nearly all values lie from {first:.6g} to {last:.6g}, but the range goes from {low:.6g} to "
            f"{high:.6g}: outliers take the steps, and little else may come back; give a range without them "
            "(value_range; --percentile 0.1 99.9, --range)",
            HyperThumbWarning,
            stacklevel=2,
        )


def unit_scale(fmt: Format) -> float:
    """Value steps of the original a codec level (of 255) stands for; 0 for a constant image."""
    low, high = fmt.range
    return high / 255.0 - low / 255.0  # the difference itself may overflow


def to_levels(array: Array, fmt: Format) -> NDArray[np.float32]:
    """Values to codec levels: (H, W) or (H, W, 3) to (H, W, 1 or 3) float32 in 0 .. 255."""
    if array.ndim == 2:
        array = array[:, :, None]
    if fmt.eight_bit:
        return array.astype(np.float32)
    scale = unit_scale(fmt)
    if scale == 0:
        return np.zeros(array.shape, np.float32)
    low, high = fmt.range
    clipped = np.clip(array.astype(np.float64), low, high)
    return ((clipped / scale) - low / scale).astype(np.float32)


def from_levels(levels: NDArray[np.float32], fmt: Format) -> Array:
    """Codec levels (H, W, 1 or 3) to an array of the original's dtype and shape."""
    if fmt.gray:
        levels = levels[:, :, 0]
    if fmt.eight_bit:
        return np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    dtype = np.dtype(fmt.dtype)
    low, high = fmt.range
    part = np.clip(levels, 0, 255).astype(np.float64) / 255
    values = np.clip(low * (1 - part) + high * part, low, high)  # high - low itself may overflow
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        values = np.clip(np.rint(values), limits.min, limits.max)
    elif dtype.kind == "f":
        limit = float(np.finfo(dtype).max)
        values = np.clip(values, -limit, limit)
    return values.astype(dtype)


def eight_bit(image: object, *, alpha: str = "drop") -> NDArray[np.uint8]:
    """An image as 8-bit samples, (H, W) or (H, W, 3), its value range mapped to 0 .. 255."""
    array, fmt = check_image(image, alpha=alpha)
    levels = np.clip(np.rint(to_levels(array, fmt)), 0, 255).astype(np.uint8)
    return levels[:, :, 0] if fmt.gray else levels
