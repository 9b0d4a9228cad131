"""Result layers: made once, then given new data, always lying exactly over their source."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image
from napari.utils.colormaps import Colormap

from .sources import is_eight_bit, placement, with_axes

KEY = "hyperthumb"
"""Of `layer.metadata`: what we know about a layer of ours."""
ERROR_SHARE = 1 / 16
"""The error map's colours end at this share of the value range: 16 levels of 8 bits."""
_DIVERGING = ((0.4, 0.75, 1.0), (0.13, 0.33, 0.55), (0.06, 0.06, 0.07), (0.56, 0.26, 0.13), (1.0, 0.68, 0.4))
SIGNED_MAP = Colormap([(*c, 1.0) for c in _DIVERGING], name="signed error")
"""Blue: too dark, orange: too bright, black: exact; lightness rises evenly to both sides."""
ABSOLUTE_MAP = "inferno"


def find(viewer: ViewerModel, name: str) -> Image | None:
    """The image layer of that name, if there is one."""
    return next((x for x in viewer.layers if x.name == name and isinstance(x, Image)), None)


def show(
    viewer: ViewerModel,
    source: Image,
    name: str,
    plane: np.ndarray,
    *,
    index: tuple[int, ...] = (),
    scale: float = 1,
    offset: tuple[float, float] = (0, 0),
    rgb: bool = False,
    contrast_limits: tuple[float, float] = (0, 255),
    colormap: Any = "gray",
    visible: bool = True,
    metadata: dict[str, Any] | None = None,
) -> Image:
    """Put a plane over `source` under a name: into the layer that is there, else a new one above it.

    contrast_limits, colormap, visible: of a new layer only; later they are the user's.
    """
    place = placement(source, index, scale, offset)
    data = with_axes(plane, index)
    layer = find(viewer, name)
    if layer is not None and (layer.ndim != source.ndim or layer.rgb != rgb):
        viewer.layers.remove(layer)
        layer = None
    if layer is None:
        at = viewer.layers.index(source) + 1 if source in viewer.layers else len(viewer.layers)
        selected = set(viewer.layers.selection)
        layer = viewer.add_image(
            data,
            name=name,
            rgb=rgb,
            contrast_limits=None if rgb else contrast_limits,
            **({} if rgb else {"colormap": colormap}),
            metadata={KEY: metadata or {}},
            **place,
        )
        layer.visible = visible  # afterwards: a layer that was never seen has a black icon
        while (
            at < len(viewer.layers) - 1
            and viewer.layers[at].metadata.get(KEY, {}).get("source") == source.name
        ):
            at += 1
        viewer.layers.move(viewer.layers.index(layer), at)
        viewer.layers.selection = selected or {layer}
        return layer
    layer.data = data
    for attribute, value in place.items():
        if not np.array_equal(_matrix(getattr(layer, attribute)), _matrix(value)):
            setattr(layer, attribute, value)
    layer.metadata = {**layer.metadata, KEY: metadata or {}}
    return layer


def _matrix(value: Any) -> Any:
    return getattr(value, "affine_matrix", value)


def label(layer: Image, visible: bool, position: str = "top_left") -> None:
    """Write a layer's name on the canvas, where napari can."""
    overlay = getattr(layer, "name_overlay", None)
    if overlay is not None:
        overlay.position = position
        overlay.visible = visible


def display_limits(source: Image) -> tuple[float, float]:
    """Contrast limits that show a result just as its source is shown."""
    if source.rgb:
        return (0.0, 255.0) if is_eight_bit(source) else (0.0, 1.0)
    low, high = source.contrast_limits
    return float(low), float(high)


def show_error(
    viewer: ViewerModel,
    source: Image,
    name: str,
    error: np.ndarray,
    peak: float,
    *,
    signed: bool,
    index: tuple[int, ...] = (),
    offset: tuple[float, float] = (0, 0),
    visible: bool = False,
    metadata: dict[str, Any] | None = None,
) -> Image:
    """The error map, with a colour bar; its limits are fixed, so that pictures can be compared."""
    high = peak * ERROR_SHARE
    old = find(viewer, name)
    was = None if old is None else old.metadata.get(KEY, {}).get("look")
    look = (signed, high)
    layer = show(
        viewer,
        source,
        name,
        error,
        index=index,
        offset=offset,
        contrast_limits=(-high, high) if signed else (0, high),
        colormap=SIGNED_MAP if signed else ABSOLUTE_MAP,
        visible=visible,
        metadata={**(metadata or {}), "look": look},
    )
    if old is not None and layer is old and was != look:
        layer.colormap = SIGNED_MAP if signed else ABSOLUTE_MAP
        layer.contrast_limits_range = (-peak, peak) if signed else (0, peak)
        layer.contrast_limits = (-high, high) if signed else (0, high)
    elif layer is not old:
        layer.contrast_limits_range = (-peak, peak) if signed else (0, peak)
        if hasattr(layer, "colorbar"):
            layer.colorbar.visible = True
    return layer
