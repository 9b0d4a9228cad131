"""The picture in a napari layer, and where what becomes of it belongs. No Qt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from napari.layers import Image
from napari.utils.transforms import Affine

from ..errors import ImageError

VALUES = ("contrast limits", "data range")
"""What becomes black and white in an image that isn't 8-bit."""
Span = tuple[int, int]
Region = tuple[Span, Span]


@dataclass(frozen=True)
class Plane:
    """One plane of an image layer, as the codec takes it."""

    layer: Image
    data: Any = field(repr=False)
    """(H, W), (H, W, 3) or (H, W, 4), maybe lazy: `array` computes it."""
    index: tuple[int, ...]
    """Where the plane lies on the layer's other axes."""
    value_range: tuple[float, float] | None
    """What becomes black and white; None: the codec's own choice."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return int(self.data.shape[0]), int(self.data.shape[1])

    @property
    def raw_bytes(self) -> int:
        """Size in memory, alpha aside."""
        channels = 3 if self.layer.rgb else 1
        return self.shape[0] * self.shape[1] * channels * int(np.dtype(self.data.dtype).itemsize)

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for planes with the same pixels and range."""
        return id(self.layer), id(self.layer.data), self.index, self.value_range

    @property
    def has_alpha(self) -> bool:
        """Whether there is a fourth channel, which isn't coded."""
        return bool(self.layer.rgb and self.data.shape[-1] == 4)

    def array(self) -> np.ndarray:
        """The pixels in memory; the work of a lazy array happens here."""
        return np.asarray(self.data)


def is_eight_bit(layer: Image) -> bool:
    """Whether the layer's values are the codec's own."""
    return bool(np.dtype(layer.dtype) == np.uint8)


def plane_of(
    layer: Image, point: Sequence[float], displayed: Sequence[int], values: str = VALUES[0]
) -> Plane:
    """The plane of a layer that the viewer shows.

    point, displayed: the viewer's `dims.point` and `dims.displayed`.
    Raises ImageError when it isn't a plane that can be coded, with what to do.
    """
    data = layer.data[0] if layer.multiscale else layer.data
    if 0 in data.shape:
        raise ImageError(f"{layer.name} is empty: shape {tuple(data.shape)}")
    ndim = layer.ndim
    if ndim < 2:
        raise ImageError(f"{layer.name} has only one axis; an image needs two")
    all_axes = len(point)
    if list(displayed) != [all_axes - 2, all_axes - 1]:
        raise ImageError(
            "switch the viewer to 2D with the last two axes on screen (the cube and roll buttons below "
            "the layer list): images are coded plane by plane"
        )
    index: tuple[int, ...] = ()
    if ndim > 2:
        at = layer.world_to_data(np.asarray(point[-ndim:], float))
        index = tuple(
            int(np.clip(round(float(x)), 0, side - 1)) for x, side in zip(at[:-2], data.shape, strict=False)
        )
        data = data[index]
    return Plane(layer, data, index, _value_range(layer, values))


def _value_range(layer: Image, values: str) -> tuple[float, float] | None:
    dtype = np.dtype(layer.dtype)
    if dtype == np.uint8 or values != VALUES[0]:
        return None
    if layer.rgb:  # napari shows colours on these scales, whatever the contrast limits
        return (0.0, 1.0) if dtype.kind == "f" else (0.0, float(np.iinfo(dtype).max))
    low, high = layer.contrast_limits
    return float(low), float(high)


def visible_region(layer: Image, shape: tuple[int, int]) -> Region:
    """The part of a layer that is on the canvas; all of it before the first drawing."""
    corners = np.asarray(layer.corner_pixels, float)[:, -2:]
    if layer.multiscale:
        corners = corners * np.asarray(layer.downsample_factors[layer.data_level])[-2:]
    spans = []
    for (low, high), side in zip(corners.T, shape, strict=True):
        start, stop = int(max(0, np.floor(low))), int(min(side, np.ceil(high) + 1))
        spans.append((start, stop) if stop - start > 1 else (0, side))
    return spans[0], spans[1]


def placement(
    layer: Image, index: tuple[int, ...], scale: float, offset: tuple[float, float]
) -> dict[str, Any]:
    """Transform and units of a layer with pixels `scale` times as large that lies over `layer`.

    offset: of its first pixel's corner, in pixels of `layer`; index: of its plane. The new layer's
    data has as many axes as `layer`'s, those before the last two of length 1.
    """
    last = np.array([offset[0] + (scale - 1) / 2, offset[1] + (scale - 1) / 2])
    at = np.concatenate([np.asarray(index, float), last])
    linear = Affine(scale=layer.scale, rotate=layer.rotate, shear=layer.shear).linear_matrix
    factors = np.ones(layer.ndim)
    factors[-2:] = scale
    return {
        "scale": np.asarray(layer.scale) * factors,
        "translate": np.asarray(layer.translate) + linear @ at,
        "rotate": layer.rotate,
        "shear": layer.shear,
        "affine": layer.affine,
        "units": layer.units,
    }


def with_axes(array: np.ndarray, index: tuple[int, ...]) -> np.ndarray:
    """A plane with as many leading axes of length 1 as the layer it came from."""
    return array.reshape((1,) * len(index) + array.shape)
