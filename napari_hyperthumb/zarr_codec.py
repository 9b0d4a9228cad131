"""The Zarr v3 codec `hyperthumb`: array to bytes, one thumbnail a chunk.

zarr.create_array(..., serializer=HyperThumbCodec(level=0.5), compressors=None)

It is registered by entry point: where this package is installed, `zarr.open` reads such arrays without
being told. A stored chunk is a thumbnail file. It may show more than its chunk, the same on all four sides
(`hyperthumb pyramid` writes such chunks, with their neighbours' pixels around them): the chunk is the middle
of it. One grid of files so serves two arrays: with `view="image"` the chunk is reconstructed, with
`view="thumbnail"` it is the small picture itself, in the image's own dtype and values.
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer

from .bitstream import read_frame, read_jpeg
from .codec import SCALES, Thumbnail, decode, encode
from .errors import HyperThumbError, HyperThumbWarning, ImageError, ThumbnailError
from .model import LEVELS
from .pixels import DTYPES, Array, ValueRange, from_levels

NAME = "hyperthumb"
VIEWS = ("image", "thumbnail")
MAX_MARGIN = 128
"""HR pixels that a stored thumbnail may show beyond its chunk."""


@cache
def _turns() -> threading.Semaphore:
    """How many chunks are worked on at a time: Zarr asks for many, and each takes all of torch's threads."""
    return threading.Semaphore(max(1, (os.cpu_count() or 1) // torch.get_num_threads()))


def plane_of(chunk: Array, colour_axis: int | None) -> Array:
    """A chunk as a picture, (H, W) or (H, W, 3)."""
    if colour_axis is None:
        return chunk.reshape(chunk.shape[-2:])
    colours = np.moveaxis(chunk, colour_axis, -1)
    return colours.reshape(colours.shape[-3:])


def chunk_of(plane: Array, shape: tuple[int, ...], colour_axis: int | None) -> Array:
    """The reverse of `plane_of`."""
    if colour_axis is None:
        return plane.reshape(shape)
    lengths = list(shape)
    samples = lengths.pop(colour_axis)
    out = np.moveaxis(plane.reshape(*lengths, samples), -1, colour_axis)
    return np.ascontiguousarray(out)


def plane_shape(shape: tuple[int, ...], colour_axis: int | None) -> tuple[int, int]:
    """Height and width of a chunk of this shape. Raises ImageError for chunks that aren't one picture."""
    lengths = list(shape)
    samples = 1 if colour_axis is None else 3
    good = len(lengths) >= (2 if colour_axis is None else 3)
    if good and colour_axis is not None:
        good = -len(lengths) <= colour_axis < 0 and lengths.pop(colour_axis) == 3
    if not good or math.prod(lengths[:-2]) != 1:
        raise ImageError(
            f"a chunk of shape {tuple(shape)} isn't one picture: chunks have length 1 on every axis but rows "
            f"and columns{' and 3 on the colour axis' if samples == 3 else ''}"
        )
    return lengths[-2], lengths[-1]


def _middle(plane: Array, shape: tuple[int, int], largest: int) -> Array:
    """The chunk in the middle of what its thumbnail shows."""
    margins = {length - wanted for length, wanted in zip(plane.shape[:2], shape, strict=True)}
    margin = margins.pop()
    if margins or margin < 0 or margin % 2 or margin > 2 * largest:
        raise ThumbnailError(
            f"a stored thumbnail of {plane.shape[1]}x{plane.shape[0]} pixels doesn't fit its chunk of "
            f"{shape[1]}x{shape[0]}: the array's metadata and its chunks don't belong together"
        )
    half = margin // 2
    return plane[half : half + shape[0], half : half + shape[1]]


def read_chunk(data: bytes, shape: tuple[int, int], view: str) -> Array:
    """A stored chunk as a picture: (h, w) or (h, w, 3) of the original's dtype.

    data: the thumbnail file. shape: height and width of the chunk in pixels of the view.
    Raises ThumbnailError or ModelError.
    """
    largest = (shape[0] + 2 * MAX_MARGIN, shape[1] + 2 * MAX_MARGIN)
    if view == "image":
        image = decode(data, max_pixels=largest[0] * largest[1])
        return _middle(image, shape, MAX_MARGIN)
    frame = read_frame(data)
    if frame.height > largest[0] or frame.width > largest[1]:
        raise ThumbnailError(
            f"a stored thumbnail of {frame.width}x{frame.height} pixels doesn't fit its chunk"
        )
    contents = read_jpeg(data)
    if contents.metadata is None:
        raise ThumbnailError("a stored chunk is a JPEG without a thumbnail's metadata")
    lr = Thumbnail(data, 0, (), 0.0, contents.tables, "").lr
    levels = (lr[:, :, None] if lr.ndim == 2 else lr).astype(np.float32)
    return _middle(from_levels(levels, contents.metadata.format), shape, MAX_MARGIN)


@dataclass(frozen=True)
class HyperThumbCodec(ArrayBytesCodec):
    """One thumbnail a chunk.

    Chunks must be pictures: length 1 on every axis but rows and columns (the last two, colours aside),
    and 3 on the colour axis if there is one. Any dtype of `encode`: uint8, other integers of up to 32
    bits, float. Lossy: see `docs/science.md` for what must not be coded so.
    """

    is_fixed_size = False

    level: float = 0.0
    """Rate level for chunks that are written, -1 (smallest) .. 1."""
    scale: int = 2
    """Chunk side / thumbnail side for chunks that are written, 2 or 4."""
    value_range: ValueRange | None = None
    """Values that become black and white in chunks that are written; None: 0..255 for uint8, otherwise each
    chunk's own minimum and maximum."""
    colour_axis: int | None = None
    """Counted from the end: -1 for (H, W, 3), -3 for (3, H, W); None: gray."""
    view: str = "image"
    """What chunks are read as: "image", reconstructed, or "thumbnail", as any viewer shows the file."""

    def __post_init__(self) -> None:
        if self.view not in VIEWS:
            raise ImageError(f"view must be one of {', '.join(VIEWS)}, not {self.view!r}")
        if self.scale not in SCALES or not LEVELS[0] <= self.level <= LEVELS[1]:
            raise ImageError(f"scale {self.scale!r} or level {self.level!r} isn't one that chunks can have")
        if self.value_range is not None:
            low, high = self.value_range
            object.__setattr__(self, "value_range", (float(low), float(high)))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> HyperThumbCodec:
        """From the array's metadata. Raises ImageError for settings that this version doesn't know."""
        settings = dict(data.get("configuration") or {})
        unknown = sorted(set(settings) - set(cls.__dataclass_fields__))
        if data.get("name") != NAME or unknown:
            raise ImageError(f"not settings of the codec {NAME} that this version knows: {unknown or data}")
        if settings.get("value_range") is not None:
            settings["value_range"] = tuple(settings["value_range"])
        return cls(**settings)

    def to_dict(self) -> dict[str, Any]:
        """For the array's metadata."""
        limits = None if self.value_range is None else list(self.value_range)
        return {
            "name": NAME,
            "configuration": {
                "level": self.level,
                "scale": self.scale,
                "value_range": limits,
                "colour_axis": self.colour_axis,
                "view": self.view,
            },
        }

    def validate(self, *, shape: tuple[int, ...], dtype: Any, chunk_grid: Any) -> None:
        """Raise ImageError for arrays whose chunks can't be coded."""
        plane_shape(tuple(chunk_grid.chunk_shape), self.colour_axis)
        name = dtype.to_native_dtype().name
        if name not in DTYPES:
            raise ImageError(f"dtype {name} can't be coded; convert to one of {', '.join(sorted(DTYPES))}")

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Thumbnails have no fixed size."""
        raise NotImplementedError("thumbnails have no fixed size")

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        return await asyncio.to_thread(self._decoded, chunk_data, chunk_spec)

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer | None:
        return await asyncio.to_thread(self._encoded, chunk_data, chunk_spec)

    def _decoded(self, data: Buffer, spec: ArraySpec) -> NDBuffer:
        shape = plane_shape(spec.shape, self.colour_axis)
        with _turns():
            plane = read_chunk(data.to_bytes(), shape, self.view)
        wanted = np.dtype(spec.dtype.to_native_dtype())
        if plane.dtype != wanted.newbyteorder("=") or (plane.ndim == 3) != (self.colour_axis is not None):
            raise ThumbnailError(
                f"a stored thumbnail holds {plane.dtype} of shape {plane.shape}, the array is {wanted}: "
                "its metadata and its chunks don't belong together"
            )
        chunk = chunk_of(plane, spec.shape, self.colour_axis).astype(wanted, copy=False)
        out: NDBuffer = spec.prototype.nd_buffer.from_numpy_array(chunk)
        return out

    def _encoded(self, chunk: NDBuffer, spec: ArraySpec) -> Buffer:
        if self.view != "image":
            raise HyperThumbError("an array of thumbnails is read-only: write to the one of their images")
        plane_shape(spec.shape, self.colour_axis)
        with _turns(), warnings.catch_warnings():
            warnings.simplefilter("ignore", HyperThumbWarning)
            thumbnail = encode(
                plane_of(np.asarray(chunk.as_numpy_array()), self.colour_axis),
                level=self.level,
                scale=self.scale,
                value_range=self.value_range,
            )
        out: Buffer = spec.prototype.buffer.from_bytes(thumbnail.data)
        return out


def chunk_path(index: Iterable[int]) -> str:
    """Where Zarr's default chunk keys put a chunk, below its array."""
    return "/".join(["c", *map(str, index)])
