"""Arrays to thumbnails and back: the public functions.

thumbnail = encode(image, bpp=0.3)
thumbnail.save("photo.ht.jpg")
image = decode("photo.ht.jpg")
"""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .bitstream import Contents, read_frame, read_jpeg
from .checkpoint import BUNDLED, Model, bundled_path, load_checkpoint
from .device import pick_device
from .errors import (
    HyperThumbError,
    HyperThumbWarning,
    ImageError,
    ModelError,
    NotAThumbnailError,
    RateError,
    ThumbnailError,
)
from .files import TIFF_MAGIC, write_atomically
from .pipeline import Coding, PreparedImage, Report, familiar_tables, no_report, part_of, reconstruct
from .pixels import Array, Format, ValueRange, check_image
from .targets import Candidate, Target, best_of, improve, meet_target, parse_target
from .transport import from_jxl, to_jxl

SCALES = (2, 4)
EFFORTS = ("fast", "best")
MAX_PIXELS = 500_000_000
"""HR pixels that `decode` reconstructs unless told otherwise."""
WEIGHTS = "HYPERTHUMB_WEIGHTS"
"""Environment variable: more weights files that `decode` may find by digest, separated as in PATH."""
Source = str | os.PathLike[str] | bytes | BinaryIO


@dataclass(frozen=True)
class Thumbnail:
    """An encoded image: the bytes of a JPEG file, and what is known about them."""

    data: bytes = field(repr=False)
    scale: int
    shape: tuple[int, ...]
    """Of the original array."""
    level: float
    """Rate level, -1 .. 1; below -1 the tables are coarser than the predictor's."""
    tables: NDArray[np.int64] = field(repr=False, compare=False)
    """(2, 8, 8): luma and chroma quantisation steps, 1 .. 255."""
    model: str
    """Name and digest of the weights."""

    @property
    def nbytes(self) -> int:
        """Size of the file."""
        return len(self.data)

    @property
    def bpp(self) -> float:
        """Bits of the whole file per HR pixel."""
        return 8 * len(self.data) / (self.shape[0] * self.shape[1])

    @cached_property
    def lr(self) -> NDArray[np.uint8]:
        """The picture any viewer shows: (h, w) or (h, w, 3) uint8, RGB."""
        with Image.open(io.BytesIO(self.data)) as image:
            return np.asarray(image)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file, whole or not at all. Raises HyperThumbError when it can't be written.

        A name that ends in .jxl gets the same JPEG inside JPEG XL (module `transport`).
        """
        jxl = str(os.fspath(path)).lower().endswith(".jxl")
        write_atomically(os.fspath(path), to_jxl(self.data) if jxl else self.data)


# ---- models ----------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def _load(path: Path, stamp: tuple[int, int]) -> Model:
    return load_checkpoint(path)


def weights_path(name: str | os.PathLike[str]) -> Path:
    """Where weights lie that are given by bundled name or by file."""
    return bundled_path(str(name)) if str(name) in BUNDLED.values() else Path(name)


def load_model(name: str | os.PathLike[str] | Model) -> Model:
    """Weights by bundled name ("ht-x2", "ht-x4") or by file; kept in memory once loaded.

    Raises ModelError when there are none, or the file isn't one of ours.
    """
    if isinstance(name, Model):
        return name
    path = weights_path(name)
    try:
        stat = path.stat()
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{name}: no such weights; give a .safetensors file or one of {', '.join(BUNDLED.values())}"
        ) from error
    return _load(path, (stat.st_mtime_ns, stat.st_size))


def model_for(model: str | os.PathLike[str] | Model | None, scale: int) -> Model:
    """These weights, or the bundled ones of a scale (None). Raises ModelError, also for another scale's."""
    loaded = load_model(BUNDLED[scale] if model is None else model)
    if loaded.scale != scale:
        raise ModelError(f"the weights {loaded.name} are for scale {loaded.scale}, not {scale}")
    return loaded


# ---- encode ----------------------------------------------------------------------------------


def _scales(
    scale: int | str, target: Target, model: str | os.PathLike[str] | Model | None
) -> tuple[int, ...]:
    if model is not None:
        loaded = load_model(model)
        own = loaded.scale
        if scale not in ("auto", own):
            raise ModelError(f"the weights {loaded.name} are for scale {own}, not {scale}")
        return (own,)
    if scale == "auto":
        # A level alone says nothing about size: scale 2 keeps more of the picture.
        return (2,) if target.kind == "level" else SCALES
    if isinstance(scale, int) and scale in SCALES:
        return (scale,)
    raise RateError(f'scale must be "auto", 2 or 4, not {scale!r}')


def encode(
    image: object,
    *,
    bpp: float | None = None,
    nbytes: int | None = None,
    psnr: float | None = None,
    level: float | None = None,
    scale: int | str = "auto",
    effort: str = "fast",
    seconds: float | None = None,
    device: str = "auto",
    model: str | os.PathLike[str] | Model | None = None,
    value_range: ValueRange | None = None,
    alpha: str = "refuse",
    progress: Report = no_report,
) -> Thumbnail:
    """Code an image into a small JPEG that holds the whole of it.

    image: (H, W) or (H, W, 3), 1x1 and up; uint8, other integers, or float. Gray images become
    one-component files.
    bpp, nbytes, psnr, level: at most one. bpp and nbytes are never exceeded and met within 1%, or
    as closely as the level allows, by coding the image for real; psnr (dB, against the value range) is
    reached with as few bytes as the level allows; level is -1 (smallest) .. 1. Default: level 0.
    scale: HR side / thumbnail side, 2 or 4; "auto" takes the one with the smaller error at the
    wanted size (for a level: 2).
    effort: "fast" makes a few passes through the decoder once the size is found; "best" then looks for
    better coefficients for the same decoder (module `refine`), some dozens of passes.
    seconds: budget of "best", checked between passes; None: until it is done.
    device: "auto", "cpu", "cuda", "mps".
    model: weights by file or name instead of the bundled ones.
    value_range: values that become black and white; None: 0..255 for uint8, otherwise the data's
    minimum and maximum. Kept in the file.
    alpha: "refuse" an image with an alpha channel, or "drop" that channel.
    progress: called with the fraction done; an exception raised there ends the work.

    Raises ImageError, RateError, ModelError or DeviceError, all of them HyperThumbError.
    """
    if effort not in EFFORTS:
        raise RateError(f'effort must be "fast" or "best", not {effort!r}')
    if seconds is not None and not seconds > 0:
        raise RateError(f"seconds must be more than 0, not {seconds}")
    array, fmt = check_image(image, alpha=alpha, value_range=value_range)
    target = parse_target(array.shape, bpp, nbytes, psnr, level)
    where = pick_device(device)
    candidates: list[Candidate] = []
    failures: list[HyperThumbError] = []
    scales = _scales(scale, target, model)
    share = 1.0 if effort == "fast" else 0.1
    for index, one in enumerate(scales):
        part = part_of(progress, share * index / len(scales), share * (index + 0.5) / len(scales))
        try:
            prepared = PreparedImage(array, fmt, model_for(model, one), where, report=part)
            candidates.append(meet_target(prepared, target, no_report))
            prepared.release()
        except (RateError, ImageError) as error:
            failures.append(error)
        progress(share * (index + 1) / len(scales))
    if not candidates:
        # The largest scale reaches the smallest files, the smallest scale the best quality.
        raise failures[0 if target.kind == "psnr" and isinstance(failures[0], RateError) else -1]
    chosen = best_of(candidates, target)
    if effort == "best":
        budget = math.inf if seconds is None else seconds
        chosen = improve(chosen, target, budget, part_of(progress, share, 1.0))
    return thumbnail_of(chosen.prepared, chosen.coding)


def thumbnail_of(prepared: PreparedImage, coding: Coding) -> Thumbnail:
    """A coding of an image as users get it."""
    used = prepared.model
    return Thumbnail(
        data=coding.data,
        scale=used.scale,
        shape=prepared.array.shape,
        level=coding.level,
        tables=coding.tables.reshape(2, 8, 8),
        model=f"{used.name}-{used.digest}",
    )


# ---- decode ----------------------------------------------------------------------------------


def _read(source: Source) -> tuple[bytes, str]:
    """The JPEG, taken out of JPEG XL where it is inside, and what to call it."""
    data, name = _read_source(source)
    if data.startswith(TIFF_MAGIC):
        raise ThumbnailError(f"{name}: a TIFF: stacks of thumbnails are read by open_stack")
    try:
        return from_jxl(data), name
    except HyperThumbError as error:
        raise _named(name, error) from error


def _read_source(source: Source) -> tuple[bytes, str]:
    if isinstance(source, bytes):
        return source, "the data"
    if hasattr(source, "read"):
        data = source.read()
        if not isinstance(data, bytes):
            raise ThumbnailError("the file object gives text; open it in binary mode")
        return data, str(getattr(source, "name", "the data"))
    path = Path(os.fspath(source))
    try:
        return path.read_bytes(), str(path)
    except (OSError, ValueError) as error:
        raise ThumbnailError(f"{path}: can't be read: {getattr(error, 'strerror', None) or error}") from error


def _named(name: str, error: HyperThumbError) -> HyperThumbError:
    text = str(error)
    return type(error)(text if text.startswith(name) else f"{name}: {text}")


@dataclass(frozen=True)
class Info:
    """What a thumbnail file is."""

    nbytes: int
    bpp: float
    scale: int
    shape: tuple[int, int]
    """HR height and width."""
    lr_size: tuple[int, int]
    """Thumbnail height and width."""
    format: Format
    model: str
    digest: str
    tables: NDArray[np.int64] = field(repr=False, compare=False)
    """(2, 8, 8)"""
    lost: tuple[str, ...]
    """What another program did to the file, in words."""


def _metadata(
    contents: Contents, name: str, scale: int | None
) -> tuple[int, tuple[int, int], Format, tuple[str, ...]]:
    """Scale, HR shape, format, and what was lost."""
    meta = contents.metadata
    lost = contents.lost
    gray = contents.quantised.shape[0] == 1
    if meta is None:
        if scale is None:
            raise NotAThumbnailError(
                f"{name}: a JPEG without a thumbnail's metadata: an ordinary picture, or its metadata "
                "was stripped. To decode it all the same give the scale (scale=2 or 4; --scale)"
            )
        if scale not in SCALES:
            raise RateError(f"scale must be 2 or 4, not {scale!r}")
        text = (
            "its metadata is missing: the exact size, the original's dtype and value range, and which "
            "weights coded it aren't known"
        )
        lost = (*lost, text)
        shape = (contents.size[0] * scale, contents.size[1] * scale)
        return scale, shape, Format(gray=gray), lost
    if scale is not None and scale != meta.scale:
        raise RateError(f"{name}: was coded at scale {meta.scale}, not {scale}")
    shape = meta.shape
    if tuple(-(-side // meta.scale) for side in shape) != contents.size:
        shape = (contents.size[0] * meta.scale, contents.size[1] * meta.scale)
    return meta.scale, shape, meta.format, lost


def info(source: Source) -> Info:
    """What a thumbnail file says about itself, without reconstructing the image.

    Raises ThumbnailError; NotAThumbnailError for an ordinary JPEG.
    """
    data, name = _read(source)
    try:
        contents = read_jpeg(data)
    except HyperThumbError as error:
        raise _named(name, error) from error
    scale, shape, fmt, lost = _metadata(contents, name, None)
    assert contents.metadata is not None
    return Info(
        nbytes=len(data),
        bpp=8 * len(data) / (shape[0] * shape[1]),
        scale=scale,
        shape=shape,
        lr_size=contents.size,
        format=fmt,
        model=contents.metadata.model,
        digest=contents.metadata.digest,
        tables=contents.tables.reshape(2, 8, 8),
        lost=lost,
    )


def _decoder_for(
    contents: Contents,
    scale: int,
    model: str | os.PathLike[str] | Model | None,
    name: str,
    any_model: bool,
) -> Model:
    meta = contents.metadata
    if model is None and meta is not None:
        more = [Path(one) for one in os.environ.get(WEIGHTS, "").split(os.pathsep) if one]
        for path in (*sorted(bundled_path("any").parent.glob("*.safetensors")), *more):
            candidate = load_model(path)
            if candidate.digest == meta.digest:
                return candidate
    loaded = model_for(model, scale)
    if meta is not None and meta.digest != loaded.digest:
        text = (
            f"{name}: was coded with the weights {meta.model} ({meta.digest}), "
            f"not with {loaded.name} ({loaded.digest})"
        )
        if not any_model:
            raise ModelError(
                f"{text}: give those weights (model=FILE; --model), or decode with these at a loss "
                "of quality (any_model=True; --any-model)"
            )
        warnings.warn(f"{text}: expect a loss of quality", HyperThumbWarning, stacklevel=3)
    return loaded


def decode(
    source: Source,
    *,
    scale: int | None = None,
    model: str | os.PathLike[str] | Model | None = None,
    any_model: bool = False,
    device: str = "auto",
    backend: str = "auto",
    region: tuple[slice, slice] | None = None,
    max_pixels: int = MAX_PIXELS,
    progress: Callable[[float], None] = no_report,
    show: Callable[[slice, slice, Array], None] | None = None,
) -> Array:
    """The full-resolution image from a thumbnail file.

    source: path, bytes, or a file open in binary mode.
    scale: only for a JPEG whose metadata was stripped. model: weights by file or name, instead of the
    bundled ones that the file names. any_model: decode with other weights than the file's all the same.
    backend: what runs the decoder: "torch", "openvino" (float32) or "openvino-int8" (both of the extra
    "fast"). "auto": the environment's HYPERTHUMB_BACKEND if set; else eight bits for
    large 8-bit pictures where they cost at most 0.05 dB, and PyTorch for the rest (module `backend`).
    region: rows and columns of the image, as slices without a step; only they are reconstructed.
    max_pixels: refuse larger images, before anything is allocated.
    progress: called with the fraction done; an exception raised there ends the work.
    show: called with each part of a large image as soon as it is decoded: its rows and columns, as slices of
    what is returned, and its pixels, which are part of that.

    Returns (H, W) or (H, W, 3) of the original's dtype. Warns (HyperThumbWarning) of what another
    program did to the file. Raises ThumbnailError, ModelError, DeviceError or DependencyError.
    """
    data, name = _read(source)
    where = pick_device(device)
    try:
        contents = _checked(data, max_pixels)
    except HyperThumbError as error:
        raise _named(name, error) from error
    actual, shape, fmt, lost = _metadata(contents, name, scale)
    for text in lost:
        warnings.warn(f"{name}: {text}", HyperThumbWarning, stacklevel=2)
    _check_pixels(shape, max_pixels, name)
    used = _decoder_for(contents, actual, model, name, any_model)
    quantised, tables = contents.quantised, contents.tables
    if not contents.own_tables:
        quantised, tables = familiar_tables(quantised, tables, used, where)
    return reconstruct(
        quantised,
        tables,
        shape,
        fmt,
        used,
        where,
        region=None if region is None else _region(region, shape),
        backend=backend,
        report=progress,
        show=show,
    )


def _check_pixels(shape: tuple[int, int], max_pixels: int, name: str) -> None:
    if shape[0] * shape[1] > max_pixels:
        raise ThumbnailError(
            f"{name}: the image has {shape[1]}x{shape[0]} pixels, more than {max_pixels}; "
            "raise max_pixels (--max-pixels) if you trust the file"
        )


def _checked(data: bytes, max_pixels: int) -> Contents:
    frame = read_frame(data)
    # The smallest scale there is: an image behind this frame has at least this many pixels.
    least = (frame.height * min(SCALES), frame.width * min(SCALES))
    _check_pixels(least, max_pixels, "the JPEG")
    return read_jpeg(data)


def _region(region: tuple[slice, slice], shape: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    if len(region) != 2 or not all(isinstance(part, slice) for part in region):
        raise ThumbnailError(f"the region must be two slices, rows and columns, not {region}")
    spans = []
    for part, length in zip(region, shape, strict=True):
        start, stop, step = part.indices(length)
        if step != 1 or stop <= start:
            raise ThumbnailError(f"the region {region} is empty or has a step")
        spans.append((start, stop))
    return spans[0], spans[1]
