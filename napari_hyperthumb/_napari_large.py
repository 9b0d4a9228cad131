"""napari's readers of stacks and pyramids: layers that reconstruct what is looked at, when it is.

Needs dask and, for pyramids, zarr (extra "large"). Nothing heavy is imported until a reader is used.
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from .errors import DependencyError, HyperThumbError, ThumbnailError
from .files import STACK_SUFFIX, bare_name

LayerData = tuple[Any, dict[str, Any], str]
CACHE_BYTES = 256 * 2**20
"""Of reconstructed chunks or planes that are kept for each file; the longest unused goes first."""
LARGE = "pip install 'napari-hyperthumb[large]'"
_COLOURS = ((0, 255, 0), (255, 0, 255), (0, 255, 255), (255, 255, 0), (255, 0, 0), (0, 0, 255))


def _one(path: str | Sequence[str]) -> str | None:
    paths = [path] if isinstance(path, str) else list(path)
    return str(paths[0]) if len(paths) == 1 else None


def get_stack_reader(path: str | Sequence[str]) -> Callable[[Any], list[LayerData]] | None:
    """A reader for one `*.ht.tif`; None for everything else."""
    one = _one(path)
    return read_stack if one and one.lower().endswith(STACK_SUFFIX) else None


def get_pyramid_reader(path: str | Sequence[str]) -> Callable[[Any], list[LayerData]] | None:
    """A reader for a folder that `hyperthumb pyramid` made; None for every other Zarr."""
    one = _one(path)
    return read_pyramid if one and _attributes(one) is not None else None


def _attributes(path: str) -> dict[str, Any] | None:
    try:
        attributes: dict[str, Any] = json.loads((Path(path) / "zarr.json").read_text())["attributes"]
        return attributes if "hyperthumb" in attributes else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def lazy(
    load: Callable[[tuple[int, ...]], Any], chunks: Any, shape: tuple[int, ...], dtype: Any, keep: int
) -> Any:
    """A dask array whose chunks are loaded when they are needed; the last `keep` of them stay in memory.

    load: makes the chunk at an index of the grid.
    """
    try:
        import dask.array as da
    except ImportError as error:
        raise DependencyError(f"opening stacks and pyramids in napari needs dask: {LARGE}") from error
    import numpy as np

    kept = lru_cache(maxsize=keep)(load)
    grid = da.core.normalize_chunks(chunks, shape, dtype=dtype)

    def block(block_id: tuple[int, ...] = ()) -> Any:
        return kept(tuple(int(at) for at in block_id))

    name = f"hyperthumb-{secrets.token_hex(8)}"  # of its own: dask can't tell our loaders apart
    return da.map_blocks(block, name=name, chunks=grid, dtype=dtype, meta=np.empty((0,) * len(shape), dtype))


def _fitting(nbytes: int) -> int:
    return max(4, CACHE_BYTES // max(nbytes, 1))


def colormap(colour: tuple[int, int, int]) -> Any:
    """From black to a colour."""
    from napari.utils.colormaps import Colormap

    bright = [part / 255 for part in colour]
    return Colormap([[0, 0, 0], bright], name="#" + "".join(f"{part:02x}" for part in colour))


def _look(
    name: str, colour: tuple[int, int, int] | None, limits: tuple[float, float], several: bool
) -> dict[str, Any]:
    low, high = limits
    out: dict[str, Any] = {
        "name": name,
        "rgb": False,
        "contrast_limits": (low, high if high > low else low + 1),
    }
    if several:
        out["blending"] = "additive"
    if colour is not None and colour != (255, 255, 255):
        out["colormap"] = colormap(colour)
    return out


# ---- stacks ----------------------------------------------------------------------------------


def read_stack(path: str | Sequence[str]) -> list[LayerData]:
    """A stack as lazy layers, one for each channel. Raises ThumbnailError, ModelError, DependencyError."""
    from .stack import Channel, open_stack

    one = _one(path) or ""
    stack = open_stack(one)
    layout, name = stack.layout, bare_name(Path(one))
    ones, plane = (1,) * len(layout.stacked), layout.shape[len(layout.stacked) :]
    nbytes = stack.dtype.itemsize * plane[0] * plane[1] * (3 if layout.rgb else 1)

    def load(block: tuple[int, ...]) -> Any:
        return stack.plane(block[: len(ones)]).reshape(*ones, *plane)

    data = lazy(load, (*ones, *plane), layout.shape, stack.dtype, _fitting(nbytes))
    labels = {"axis_labels": tuple(axis.lower() for axis in layout.axes if axis not in "CS")}
    if layout.rgb:
        return [(data, {"name": name, "rgb": True, **labels}, "image")]
    if layout.channels == 1:
        if "C" in layout.axes:
            data = data.squeeze(layout.axes.index("C"))
        return [(data, {**_look(name, None, stack.ranges[0], False), **labels}, "image")]
    layers: list[LayerData] = []
    for number, limits in enumerate(stack.ranges):
        channel = stack.channels[number] if stack.channels else Channel()
        part = data[(slice(None),) * layout.axes.index("C") + (number,)]
        label = channel.name or f"{name} channel {number}"
        colour = channel.colour or _COLOURS[number % len(_COLOURS)]
        layers.append((part, {**_look(label, colour, limits, True), **labels}, "image"))
    return layers


# ---- pyramids --------------------------------------------------------------------------------


def read_pyramid(path: str | Sequence[str]) -> list[LayerData]:
    """A pyramid as lazy multiscale layers, one for each channel.

    Raises ThumbnailError for one that isn't finished, DependencyError where zarr or dask is missing.
    """
    one = _one(path) or ""
    attributes = _attributes(one) or {}
    if "ome" not in attributes:
        raise ThumbnailError(
            f"{one}: the pyramid isn't finished: the hyperthumb pyramid command that began it goes on with it"
        )
    try:
        return _pyramid_layers(one, attributes)
    except HyperThumbError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, OSError) as error:
        raise ThumbnailError(f"{one}: the pyramid's metadata is damaged: {error!r}") from error


def _pyramid_layers(one: str, attributes: dict[str, Any]) -> list[LayerData]:
    scales = attributes["ome"]["multiscales"][0]
    axes = [str(axis["name"]) for axis in scales["axes"]]
    about = attributes["hyperthumb"]["settings"]
    levels = _levels(one, [str(dataset["path"]) for dataset in scales["datasets"]])
    size = scales["datasets"][0]["coordinateTransformations"][0]["scale"]
    units = [axis.get("unit") for axis in scales["axes"]]
    space: dict[str, Any] = {
        "scale": [length for axis, length in zip(axes, size, strict=True) if axis != "c"],
        "multiscale": True,
        "axis_labels": [axis for axis in axes if axis != "c"],
    }
    if any(units):
        space["units"] = [unit or "pixel" for axis, unit in zip(axes, units, strict=True) if axis != "c"]
    name = Path(one).name.removesuffix(".zarr")
    if "S" in about["axes"]:
        import dask.array as da

        pictures = [da.moveaxis(level, axes.index("c"), -1) for level in levels]
        return [(pictures, {"name": name, "rgb": True, **space}, "image")]
    channels = attributes["ome"]["omero"]["channels"]
    if "c" not in axes:
        return [(levels, {**_channel_look(name, channels[0], False), **space}, "image")]
    at = axes.index("c")
    return [
        (
            [level[(slice(None),) * at + (number,)] for level in levels],
            {**_channel_look(str(channel["label"]), channel, len(channels) > 1), **space},
            "image",
        )
        for number, channel in enumerate(channels)
    ]


def _channel_look(name: str, channel: dict[str, Any], several: bool) -> dict[str, Any]:
    text = str(channel["color"])
    colour = (int(text[:2], 16), int(text[2:4], 16), int(text[4:6], 16))
    window = channel["window"]
    return _look(name, colour if several else None, (float(window["start"]), float(window["end"])), several)


def _levels(path: str, names: Sequence[str]) -> list[Any]:
    """The levels as lazy arrays; their chunks share one cache."""
    try:
        import zarr
    except ImportError as error:
        raise DependencyError(f"opening a pyramid needs zarr: {LARGE}") from error
    arrays = [zarr.open_array(Path(path) / name, mode="r") for name in names]
    largest = max(array.dtype.itemsize * math.prod(array.chunks) for array in arrays)

    @lru_cache(maxsize=_fitting(largest))
    def load(level: int, block: tuple[int, ...]) -> Any:
        array = arrays[level]
        return array[tuple(slice(at * n, (at + 1) * n) for at, n in zip(block, array.chunks, strict=True))]

    def of(level: int) -> Callable[[tuple[int, ...]], Any]:
        return lambda block: load(level, block)

    return [lazy(of(i), array.chunks, array.shape, array.dtype, 0) for i, array in enumerate(arrays)]
