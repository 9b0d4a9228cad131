"""Layers of napari as one stack: for the widget, and for File, Save."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import ImageError, RateError
from .files import STACK_SUFFIX

if TYPE_CHECKING:
    from napari.layers import Image

AXES = {2: ("YX",), 3: ("ZYX", "TYX", "CYX"), 4: ("TZYX", "CZYX", "TCYX"), 5: ("TCZYX",)}
"""What the axes of a layer may be, by their number; the colours of RGB are one more."""
VALUES = ("contrast limits", "data range", "0.1 to 99.9 percent")


@dataclass(frozen=True)
class Together:
    """Layers of one shape as channels of one array, which is read plane by plane."""

    layers: Sequence[Any] = field(repr=False)
    """Their data."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels first."""
        return (len(self.layers), *self.layers[0].shape)

    @property
    def dtype(self) -> Any:
        """Of the samples."""
        return self.layers[0].dtype

    def __getitem__(self, index: tuple[int, ...]) -> np.ndarray:
        """One plane, or a part of a channel."""
        return np.asarray(self.layers[index[0]][tuple(index[1:])])


@dataclass(frozen=True)
class Wanted:
    """What to encode, in the words of `encode_stack`."""

    array: Any = field(repr=False)
    axes: str
    ranges: Any
    channels: tuple[Any, ...]


def wanted_of(layers: Sequence[Image], axes: str, values: str) -> Wanted:
    """Layers as one stack: one layer with these axes, or several of them as its channels.

    Raises ImageError when they don't fit together, with what to do.
    """
    from .channels import Percentile
    from .stack import Channel

    if not layers:
        raise ImageError("select the image layers to encode; several become the channels of one stack")
    data = [layer.data[0] if layer.multiscale else layer.data for layer in layers]
    first = layers[0]
    if any(one.shape != data[0].shape or one.dtype != data[0].dtype for one in data):
        raise ImageError("the selected layers differ in shape or dtype: select those of one image")
    if len(layers) > 1 and (first.rgb or "C" in axes):
        raise ImageError("several layers become channels: they can't have colours or channels of their own")
    if first.rgb and data[0].shape[-1] == 4:
        raise ImageError(f"{first.name} has an alpha channel, which a JPEG can't hold: drop it first")
    array = Together(data) if len(layers) > 1 else data[0]
    whole = ("C" if len(layers) > 1 else "") + axes + ("S" if first.rgb else "")
    if len(whole) != len(array.shape):
        raise ImageError(f"{first.name} has {len(array.shape)} axes, not those of {whole}")
    ranges: Any = None
    if values == VALUES[2]:
        ranges = Percentile()
    elif values == VALUES[0] and not first.rgb and np.dtype(data[0].dtype) != np.uint8:
        ranges = [tuple(map(float, layer.contrast_limits)) for layer in layers]
        if "C" in axes:  # one layer shows all its channels with the same limits
            ranges = ranges[0]
    brightest = [[round(255 * float(part)) for part in layer.colormap.colors[-1][:3]] for layer in layers]
    channels = tuple(
        Channel(layer.name, (red, green, blue))
        for layer, (red, green, blue) in zip(layers, brightest, strict=True)
    )
    return Wanted(array, whole, ranges, channels if len(layers) > 1 else ())


def axes_of(layer: Image) -> str:
    """What a layer's axes are: its axis labels where these are T, C, Z, Y, X; else depth, then time.

    Raises ImageError for a layer with more axes than a stack can have.
    """
    choices = AXES.get(layer.ndim)
    if choices is None:
        raise ImageError(f"{layer.name} has {layer.ndim} axes: a stack has at most {max(AXES)}")
    labels = "".join(layer.axis_labels).upper()
    return labels if labels in choices else choices[0]


def write_stack(path: str, layer_data: Sequence[tuple[Any, dict[str, Any], str]]) -> list[str]:
    """Save one image layer, or several as channels, as `*.ht.tif`, at the rate in the plugin's preferences.

    Black and white are the contrast limits. Raises HyperThumbError.
    """
    from napari.layers import Layer

    from ._napari import progress_in_napari
    from ._widget import preferences
    from .stack import encode_stack

    layers: list[Any] = [Layer.create(*one) for one in layer_data]
    wanted = wanted_of(layers, axes_of(layers[0]), VALUES[0])
    if not path.lower().endswith(STACK_SUFFIX):
        path += STACK_SUFFIX
    options: dict[str, Any] = {
        "value_range": wanted.ranges,
        "channels": wanted.channels,
        "device": str(preferences.get("device")),
        "measure": False,
    }
    pixels = (int(np.prod(wanted.array.shape)), 1)
    with progress_in_napari("Coding a stack", pixels) as report:
        try:
            bpp = float(preferences.get("save_bpp"))
            stack = encode_stack(wanted.array, wanted.axes, bpp=bpp, progress=report, **options)
        except RateError:  # tiny planes: the files' headers alone take more than that
            stack = encode_stack(wanted.array, wanted.axes, level=-1.0, **options)
    stack.save(path)
    return [path]
