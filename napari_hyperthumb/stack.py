"""Stacks and channels: planes coded one by one into an OME-TIFF of thumbnails.

stack = encode_stack(array, "CZYX", bpp=0.3)
stack.save("cells.ht.tif")
array = open_stack("cells.ht.tif").decode()

Any program that reads TIFF opens `*.ht.tif` as the small stack: each page is the JPEG of a thumbnail,
with the value range and the dtype of its plane inside, byte for byte what `encode` makes of that plane.
The axes, and the channels' names and colours, stand in the OME-XML.
"""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .channels import Cost, Index, Layout, Ranges, cost_of, joined, plane_at, value_ranges, with_planes_last
from .checkpoint import Model
from .codec import MAX_PIXELS, Info, Thumbnail, decode, encode, info
from .errors import HyperThumbError, HyperThumbWarning, ImageError, ThumbnailError
from .files import image_bytes, write_atomically
from .pipeline import Report, no_report, part_of
from .pixels import Array, ValueRange

MAX_PLANES = 1_000_000
_WORD = "HyperThumb "
_BIG = 2**32 - 2**25
"""Bytes that a classic TIFF holds."""


@dataclass(frozen=True)
class Channel:
    """What a channel is called and shown in."""

    name: str = ""
    colour: tuple[int, int, int] | None = None
    """Red, green, blue, 0 .. 255."""


@dataclass(frozen=True)
class Stack:
    """Encoded planes, and how they lie in the array."""

    planes: tuple[bytes, ...] = field(repr=False)
    """Thumbnail files, the last of `layout.stacked` running fastest."""
    layout: Layout
    """Of the array, planes last."""
    channels: tuple[Channel, ...] = ()
    costs: tuple[Cost, ...] | None = None
    """Of each channel; None where they weren't measured."""
    name: str = "the stack"

    @property
    def nbytes(self) -> int:
        """Bytes of all thumbnails; the file has a few more."""
        return sum(map(len, self.planes))

    @property
    def bpp(self) -> float:
        """Bits of all thumbnails per HR pixel."""
        height, width = self.layout.plane
        return 8 * self.nbytes / (len(self.planes) * height * width)

    @cached_property
    def info(self) -> Info:
        """What the first plane says about itself: dtype, scale, weights."""
        return info(self.planes[0])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the array."""
        return np.dtype(self.info.format.dtype)

    @cached_property
    def ranges(self) -> tuple[ValueRange, ...]:
        """What was coded as black and white, for each channel."""
        first = (next(self.layout.indices(channel)) for channel in range(self.layout.channels))
        return tuple(info(self.planes[self._at(index)]).format.range for index in first)

    def _at(self, index: Index) -> int:
        return int(np.ravel_multi_index(index, self.layout.stacked)) if index else 0

    def plane(self, index: Index, **options: Any) -> Array:
        """One plane, (H, W) or (H, W, 3), reconstructed. options: as `decode` has them."""
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", HyperThumbWarning)
                plane = decode(self.planes[self._at(index)], **options)
        except HyperThumbError as error:
            text = str(error).removeprefix("the data: ")
            raise type(error)(f"{self.name}, plane {index}: {text}") from error
        for note in caught:
            text = str(note.message).removeprefix("the data: ")
            warnings.warn(f"{self.name}, plane {index}: {text}", HyperThumbWarning, stacklevel=2)
        wanted = self.layout.shape[len(self.layout.stacked) :]
        if plane.shape != wanted or plane.dtype != self.dtype:
            raise ThumbnailError(
                f"{self.name}, plane {index}: is {plane.dtype} of shape {plane.shape}, "
                f"the others are {self.dtype} of {wanted}"
            )
        return plane

    def decode(self, *, max_pixels: int = MAX_PIXELS, progress: Report = no_report, **options: Any) -> Array:
        """The whole array in the original's dtype, `layout.shape`.

        max_pixels: refuse more, before anything is allocated. options: as `decode` has them.
        """
        height, width = self.layout.plane
        if (count := len(self.planes)) * height * width > max_pixels:
            raise ThumbnailError(
                f"{self.name}: {count} planes of {width}x{height} pixels are more than {max_pixels} pixels; "
                "take them one by one (Stack.plane), or raise max_pixels (--max-pixels)"
            )
        out = np.empty(self.layout.shape, self.dtype)
        for number, index in enumerate(self.layout.indices()):
            part = part_of(progress, number / count, (number + 1) / count)
            out[index] = self.plane(index, progress=part, **options)
        return out

    def to_bytes(self) -> bytes:
        """The OME-TIFF file."""
        import tifffile

        lr = self.info.lr_size
        samples = (3,) if self.layout.rgb else ()
        # Axes of length 1 don't show in OME-XML: there it's always five.
        metadata: dict[str, Any] = {"axes": self.layout.axes, "Description": _WORD + self.layout.axes}
        if self.channels and "C" in self.layout.axes and not self.layout.rgb:
            metadata["Channel"] = {"Name": [c.name or f"channel {i}" for i, c in enumerate(self.channels)]}
            if all(c.colour for c in self.channels):
                metadata["Channel"]["Color"] = [_packed(c.colour) for c in self.channels if c.colour]
        buffer = io.BytesIO()
        tifffile.imwrite(
            buffer,
            iter(self.planes),
            shape=(*self.layout.stacked, *lr, *samples),
            dtype=np.uint8,
            photometric="ycbcr" if self.layout.rgb else "minisblack",
            subsampling=(1, 1) if self.layout.rgb else None,
            compression="jpeg",
            rowsperstrip=lr[0],
            ome=True,
            bigtiff=self.nbytes > _BIG,
            metadata=metadata,
        )
        return buffer.getvalue()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the OME-TIFF, whole or not at all. Raises HyperThumbError."""
        write_atomically(os.fspath(path), self.to_bytes())


def array_bytes(array: Array, layout: Layout, channels: Sequence[Channel] = ()) -> bytes:
    """A decoded stack as an OME-TIFF of its own: every plane, in full size, zlib-compressed."""
    if not layout.stacked:
        return image_bytes(array, ".tif")
    import tifffile

    metadata: dict[str, Any] = {"axes": layout.axes}
    if channels:
        metadata["Channel"] = {"Name": [channel.name for channel in channels]}
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        array,
        photometric="rgb" if layout.rgb else "minisblack",
        compression="zlib",
        ome=array.dtype != np.float16,  # which OME doesn't have
        bigtiff=array.nbytes > _BIG,
        metadata=metadata,
    )
    return buffer.getvalue()


def _packed(colour: tuple[int, int, int]) -> int:
    """OME's colours: red, green, blue and alpha in a signed number of 32 bits."""
    red, green, blue = colour
    value = red << 24 | green << 16 | blue << 8 | 255
    return value - 2**32 if value >= 2**31 else value


def _unpacked(value: int) -> tuple[int, int, int]:
    return value >> 24 & 255, value >> 16 & 255, value >> 8 & 255


def encode_stack(
    array: Any,
    axes: str | None = None,
    *,
    value_range: Ranges = None,
    scale: int | str = "auto",
    channels: Sequence[Channel] = (),
    measure: bool = True,
    model: str | os.PathLike[str] | Model | None = None,
    device: str = "auto",
    progress: Report = no_report,
    **options: Any,
) -> Stack:
    """Code a stack or channels plane by plane.

    array: numpy, or a lazy array that is read one plane at a time (dask, Zarr): uint8, other integers of up
    to 32 bits, or float, in any order of axes.
    axes: a letter of "TCZYXS" for each axis; S are the three colours of RGB planes. Only an array with two
    axes may go without.
    value_range: what becomes black and white, for each channel (RGB: one for all colours). None: 0 .. 255
    for uint8, else "data", the least and greatest value of the channel in all its planes; `Percentile(0.1,
    99.9)`; one pair; or one pair for each channel, such as contrast limits. Values beyond are clipped.
    scale: 2, 4, or "auto": the better one for the middle plane, then used for all.
    measure: decode each plane and say what it cost: `Stack.costs`.
    options: as `encode` has them: bpp, psnr or level (for each plane), effort, seconds.
    progress: called with the fraction done; an exception raised there ends the work.

    Returns a Stack with Y, X (and S) as the last axes. Raises ImageError, RateError, ModelError, DeviceError.
    """
    array, layout = with_planes_last(array, axes)
    for name in ("nbytes", "alpha"):
        if name in options:
            raise TypeError(f"encode_stack has no {name!r}: every plane is coded for itself; use bpp")
    if channels and len(channels) != layout.channels:
        raise ImageError(f"{len(channels)} channel names for {layout.channels} channels")
    if layout.rgb and layout.channels > 1:
        raise ImageError("an RGB stack can't have channels too: code each channel as a stack of its own")
    ranges = value_ranges(array, layout, value_range)
    count = int(np.prod(layout.stacked))
    common: dict[str, Any] = {"model": model, "device": device, **options}

    def coded(index: Index, size: int | str, report: Report) -> tuple[Array, Thumbnail]:
        plane = plane_at(array, index)
        limits = ranges[layout.channel(index)]
        try:
            return plane, encode(plane, value_range=limits, scale=size, progress=report, **common)
        except HyperThumbError as error:
            raise type(error)(f"plane {index}: {error}" if index else str(error)) from error

    if scale == "auto" and model is None and count > 1 and ("bpp" in options or "psnr" in options):
        middle = tuple(int(i) for i in np.unravel_index(count // 2, layout.stacked))
        scale = coded(middle, scale, no_report)[1].scale
    planes: list[bytes] = []
    costs: list[list[Cost]] = [[] for _ in range(layout.channels)]
    for number, index in enumerate(layout.indices()):
        part = part_of(progress, number / count, (number + 1) / count)
        plane, thumbnail = coded(index, scale, part)
        planes.append(thumbnail.data)
        if measure:
            channel = layout.channel(index)
            back = decode(thumbnail.data, model=model, device=device)
            costs[channel].append(cost_of(plane, back, ranges[channel]))
    measured = tuple(joined(one) for one in costs) if measure else None
    return Stack(tuple(planes), layout, tuple(channels), measured)


def open_stack(source: str | os.PathLike[str] | bytes) -> Stack:
    """Read a `*.ht.tif`; nothing is reconstructed yet. Raises ThumbnailError, naming the file."""
    name = "the data" if isinstance(source, bytes) else str(Path(source))
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb") as file:
            return _open(file, name)
    except OSError as error:
        raise ThumbnailError(f"{name}: can't be read: {error.strerror or error}") from error


def _open(file: BinaryIO, name: str) -> Stack:
    import tifffile

    try:
        with tifffile.TiffFile(file) as tiff:
            return _read(tiff, name)
    except HyperThumbError:
        raise
    except Exception as error:  # damaged TIFF files end in any of a dozen types
        raise ThumbnailError(f"{name}: not a TIFF that can be read: {error}") from error


def _read(tiff: Any, name: str) -> Stack:
    ome = tiff.ome_metadata
    series = tiff.series[0]
    if ome is None:
        raise ThumbnailError(f"{name}: a TIFF that isn't a stack of thumbnails (no OME-XML)")
    pages = series.pages
    if len(pages) > MAX_PLANES:
        raise ThumbnailError(f"{name}: {len(pages)} planes are more than {MAX_PLANES}")
    planes = []
    for number, page in enumerate(pages):
        if page is None or len(page.dataoffsets) != 1 or int(getattr(page, "compression", 7)) != 7:
            raise ThumbnailError(f"{name}, page {number}: isn't a thumbnail (one JPEG a page)")
        tiff.filehandle.seek(page.dataoffsets[0])
        planes.append(tiff.filehandle.read(page.databytecounts[0]))
    try:
        first = info(planes[0])
    except HyperThumbError as error:
        raise type(error)(f"{name}: {str(error).removeprefix('the data: ')}") from error
    image = _ome_image(ome)
    axes = str(image.get("Description", "")).removeprefix(_WORD) or str(series.axes)
    lengths = dict(zip(series.get_axes(False), series.get_shape(False), strict=True))
    height, width = first.shape
    lengths.update(Y=height, X=width, S=3)
    rgb = not first.format.gray
    shape = tuple(int(lengths.get(axis, 1)) for axis in axes)
    if axes.endswith("S") != rgb or not axes.endswith("YXS" if rgb else "YX"):
        raise ThumbnailError(f"{name}: its axes {axes!r} don't fit its planes")
    try:
        layout = with_planes_last(_Shape(shape), axes)[1]
    except ImageError as error:
        raise ThumbnailError(f"{name}: {error}") from error
    if math.prod(layout.stacked) != len(planes):
        raise ThumbnailError(f"{name}: {len(planes)} planes can't fill axes {axes} of lengths {shape}")
    channels = _channels(image) if "C" in axes else ()
    return Stack(tuple(planes), layout, channels if len(channels) == layout.channels else (), None, name)


@dataclass(frozen=True)
class _Shape:
    shape: tuple[int, ...]


def _ome_image(ome: str) -> dict[str, Any]:
    import tifffile

    found: Any = tifffile.xml2dict(ome)["OME"]["Image"]
    image: dict[str, Any] = found[0] if isinstance(found, (list, tuple)) else found
    return image


def _channels(image: dict[str, Any]) -> tuple[Channel, ...]:
    found: Any = image.get("Pixels", {}).get("Channel", ())
    found = [found] if isinstance(found, dict) else found
    return tuple(
        Channel(str(one.get("Name", "")), _unpacked(int(one["Color"])) if "Color" in one else None)
        for one in found
    )
