"""Large images read by region: TIFF and Zarr; other pictures are read whole."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from .channels import Index, Layout, with_planes_last
from .errors import DependencyError, HyperThumbError, ImageError
from .files import TIFF, read_image
from .pixels import Array

MAX_SEGMENT = 512 * 2**20
"""Bytes of a strip or tile, once decompressed, that are read at once."""
LARGE = "pip install 'napari-hyperthumb[large]'"


@dataclass(frozen=True)
class Regions:
    """An image whose planes are read rectangle by rectangle."""

    array: Any
    """Anything that numpy's slices work on, axes as in the file."""
    axes: str
    layout: Layout
    """The same, planes last."""
    pixel_size: tuple[float, float] = (1.0, 1.0)
    """Height and width of a pixel, in `unit`."""
    unit: str | None = None
    """"micrometer" or None."""
    channels: tuple[str, ...] = ()
    """Names of the channels, as far as the file has them."""
    file: Any = None
    """What `close` closes."""

    def __enter__(self) -> Regions:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self.file is not None:
            self.file.close()

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the samples."""
        out: np.dtype[Any] = np.dtype(self.array.dtype)
        return out

    def read(self, index: Index, rows: slice, columns: slice) -> Array:
        """A rectangle of a plane, (h, w) or (h, w, 3); index: on the axes of `layout.stacked`."""
        place: dict[str, Any] = dict(zip(self.layout.axes, index, strict=False))
        place.update(Y=rows, X=columns, S=slice(0, 3))
        part = np.asarray(self.array[tuple(place[axis] for axis in self.axes)])
        left = [axis for axis in self.axes if axis in "YXS"]
        out: Array = part.transpose([left.index(axis) for axis in ("YXS" if "S" in left else "YX")])
        return out


def open_regions(path: str | Path, axes: str | None = None, *, alpha: str = "refuse") -> Regions:
    """Open a TIFF, a Zarr array or OME-Zarr image (its largest level), or a picture; close it after use.

    axes: letters of "TCZYXS", for files that don't say, or say it wrongly. alpha: "drop" takes the first
    three of four samples. Raises ImageError naming the file, DependencyError where zarr is missing.
    """
    path = Path(path)
    if not path.exists():
        raise ImageError(f"{path}: no such file")
    try:
        if path.is_dir():
            return _from_zarr(path, axes, alpha)
        if path.suffix.lower() in TIFF:
            return _from_tiff(path, axes, alpha)
        array = read_whole(path, path.stat().st_mtime_ns)
        return _regions(array, axes or ("YXS" if array.ndim == 3 else "YX"), alpha)
    except HyperThumbError as error:
        text = str(error)
        raise type(error)(text if str(path) in text else f"{path}: {text}") from error
    except OSError as error:
        raise ImageError(f"{path}: can't be read: {error.strerror or error}") from error


@lru_cache(maxsize=1)
def read_whole(path: Path, stamp: int) -> Array:
    """A picture that can't be read by region, kept for the next one who asks: `read_whole.cache_clear()`."""
    return read_image(path)


def _regions(array: Any, axes: str | None, alpha: str, **more: Any) -> Regions:
    if axes is None and len(array.shape) != 2:
        with_planes_last(array, None)  # the error that says what to do
    axes = (axes or "YX").upper()
    shape = list(array.shape)
    if len(axes) == len(shape) and "S" in axes and shape[axes.index("S")] == 4:
        if alpha != "drop":
            raise ImageError(
                "has an alpha channel, which a JPEG can't hold: compose it onto a background first, or drop "
                "it (alpha=drop; --alpha drop)"
            )
        shape[axes.index("S")] = 3
    _, layout = with_planes_last(_Shape(tuple(shape)), axes)
    return Regions(array, axes, layout, **more)


@dataclass(frozen=True)
class _Shape:
    shape: tuple[int, ...]

    def transpose(self, order: list[int]) -> _Shape:
        return _Shape(tuple(self.shape[i] for i in order))


def _from_tiff(path: Path, axes: str | None, alpha: str) -> Regions:
    import tifffile

    try:
        tiff = tifffile.TiffFile(path)
    except Exception as error:  # damaged TIFF files end in any of a dozen types
        raise ImageError(f"not a TIFF file that can be read: {error}") from error
    try:
        return _tiff_regions(tiff, path, axes, alpha)
    except BaseException as error:
        tiff.close()
        if isinstance(error, HyperThumbError) or not isinstance(error, Exception):
            raise
        raise ImageError(f"not a TIFF file that can be read: {error}") from error


def _tiff_regions(tiff: Any, path: Path, axes: str | None, alpha: str) -> Regions:
    import tifffile

    series = tiff.series[0]
    known = str(series.axes)
    if axes is None and set(known) <= set("TCZYXS"):
        axes = known
    more = _about(tiff.ome_metadata)
    if series.dataoffset is not None:  # not compressed, in one piece
        tiff.close()
        return _regions(tifffile.memmap(path, series=0, mode="r"), axes, alpha, **more)
    segment = math.prod(series.keyframe.chunks) * series.dtype.itemsize
    if segment > MAX_SEGMENT:
        raise ImageError(
            f"its strips or tiles have {segment / 2**20:.0f} MiB each, so it can't be read by region: "
            "save it again in tiles (tifffile: tile=(512, 512); libvips: --tile)"
        )
    array = _zarr().open_array(series.aszarr(level=0), mode="r")
    return _regions(array, axes, alpha, file=tiff, **more)


def _zarr() -> Any:
    try:
        import zarr
    except ImportError as error:
        raise DependencyError(f"reading by region needs zarr: {LARGE}") from error
    return zarr


def _about(ome: str | None) -> dict[str, Any]:
    """Pixel size in micrometres and channel names from OME-XML, as far as they are there."""
    if ome is None:
        return {}
    import tifffile

    try:
        found: Any = tifffile.xml2dict(ome)["OME"]["Image"]
        found = (found[0] if isinstance(found, (list, tuple)) else found)["Pixels"]
        channels = found.get("Channel", ())
        channels = [channels] if isinstance(channels, dict) else channels
        out: dict[str, Any] = {"channels": tuple(str(one.get("Name", "")) for one in channels)}
        size = (float(found.get("PhysicalSizeY", 0)), float(found.get("PhysicalSizeX", 0)))
        if min(size) > 0 and found.get("PhysicalSizeXUnit", "µm") == "µm":
            out |= {"pixel_size": size, "unit": "micrometer"}
        return out
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _from_zarr(path: Path, axes: str | None, alpha: str) -> Regions:
    zarr = _zarr()
    try:
        node = zarr.open(path, mode="r")
        if not hasattr(node, "shape"):
            return _from_ome_zarr(node, axes, alpha)
    except HyperThumbError:
        raise
    except Exception as error:
        raise ImageError(f"not a Zarr array or OME-Zarr image that can be read: {error}") from error
    names = getattr(node.metadata, "dimension_names", None)
    if axes is None and names and all(names):
        axes = "".join(str(name)[0] for name in names).upper()
    return _regions(node, axes, alpha)


def _from_ome_zarr(group: Any, axes: str | None, alpha: str) -> Regions:
    attributes = dict(group.attrs)
    scales = (attributes.get("ome", attributes).get("multiscales") or [None])[0]
    if scales is None:
        raise ImageError("a Zarr group without an OME-Zarr image: give the path of one of its arrays")
    first = scales["datasets"][0]
    named = [axis if isinstance(axis, dict) else {"name": axis} for axis in scales["axes"]]
    letters = "".join(str(axis["name"])[0] for axis in named).upper()
    size, unit = (1.0, 1.0), named[letters.index("X")].get("unit")
    for transform in first.get("coordinateTransformations", ()):
        if transform.get("type") == "scale":
            size = (transform["scale"][letters.index("Y")], transform["scale"][letters.index("X")])
    return _regions(group[first["path"]], axes or letters, alpha, pixel_size=size, unit=unit)
