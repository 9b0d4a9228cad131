"""Our thumbnails beside the codecs people use, at equal file size: numbers and curves.

    thumbnail = encode(image, bpp=0.3)
    rows = compare(image, thumbnail, decode(thumbnail.data))
    sheet.sheet(image, rows, "sheet.png")  # to look at

All of it works on 8-bit images, (H, W) or (H, W, 3) uint8, which is what those codecs take.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from .errors import ImageError
from .metrics import bpp, psnr, ssim

if TYPE_CHECKING:
    from .checkpoint import Model
    from .codec import Thumbnail

Pixels = NDArray[np.uint8]
SSIM_SIDE = 11
"""SSIM's window: images with a shorter side have none."""


@dataclass(frozen=True)
class Codec:
    """A way to turn an 8-bit image into bytes and back."""

    name: str
    encode: Callable[[Pixels, float], bytes] = field(repr=False)
    """Image and quality to the bytes of a whole file."""
    decode: Callable[[bytes], Pixels] = field(repr=False)
    """Those bytes to an image of the shape that was encoded."""
    qualities: tuple[float, ...] = field(repr=False)
    """Every quality worth trying, smallest file first."""
    ladder: tuple[float, ...] = field(repr=False)
    """About ten of them, for a curve over 0.05 .. 1.2 bpp on photographs."""
    max_side: int = 65_500
    """Pixels a side that the format can hold."""


@dataclass(frozen=True)
class Coded:
    """An image as one codec's file gives it back."""

    name: str
    data: bytes = field(repr=False)
    image: Pixels = field(repr=False)
    psnr: float
    """dB over all samples."""
    ssim: float | None = None
    """None where it wasn't asked for, or the image is smaller than its window."""
    quality: float | None = None
    """The codec's own setting; for ours the level."""
    exceeds: bool = False
    """The codec's smallest file, which is larger than what was wanted."""

    @property
    def nbytes(self) -> int:
        """Size of the file."""
        return len(self.data)


@dataclass(frozen=True)
class RatePoint:
    """One point of a rate-distortion curve: a real file, decoded."""

    quality: float
    nbytes: int
    bpp: float
    psnr: float


# ---- the codecs ------------------------------------------------------------------------------


def _save(image: Pixels, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, form, **options)
    return buffer.getvalue()


def _jpeg(image: Pixels, quality: float) -> bytes:
    # Colours are subsampled 4:2:0 by default.
    files = [_save(image, "JPEG", quality=int(quality), optimize=True, progressive=p) for p in (False, True)]
    return min(files, key=len)


def _webp(image: Pixels, quality: float) -> bytes:
    return _save(image, "WEBP", quality=quality, method=6)


def _avif(image: Pixels, quality: float) -> bytes:
    # Tiles depend on the machine's cores and cost bytes: off, so that files are the same everywhere.
    return _save(image, "AVIF", quality=int(quality), speed=6, autotiling=False)


def _avif_for_psnr(image: Pixels, quality: float) -> bytes:
    tune = {"tune": "psnr"}
    return _save(image, "AVIF", quality=int(quality), speed=6, autotiling=False, codec="aom", advanced=tune)


def _opened(data: bytes) -> Pixels:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))


def _steps(first: float, last: float, count: int, power: float = 1) -> tuple[float, ...]:
    return tuple(first + (last - first) * (i / (count - 1)) ** power for i in range(count))


def _jpeg_xl() -> Codec | None:
    try:
        from imagecodecs import JPEGXL, jpegxl_decode, jpegxl_encode
    except ImportError:
        return None
    if not JPEGXL.available:
        return None

    def encode(image: Pixels, quality: float) -> bytes:
        # The level is cjxl's quality: distance 1 at 90, 6.4 at 30, 25 at 0. Fractions count, whatever
        # the annotation says.
        level: Any = quality
        return bytes(jpegxl_encode(image, level=level, effort=7))

    def decode(data: bytes) -> Pixels:
        return np.asarray(jpegxl_decode(data))

    ladder = (0, 6, 12, 20, 30, 45, 60, 72, 80, 86)
    return Codec("JPEG XL", encode, decode, _steps(0, 99.75, 400), ladder)


def available_codecs(*, psnr_tuned: bool = False) -> tuple[Codec, ...]:
    """JPEG, WebP, AVIF and JPEG XL, as far as they are installed.

    psnr_tuned: also AVIF told to aim at PSNR. Left alone, recent libaom aims at the eye and gives some
    PSNR away for it: 0.1 to 0.8 dB on photographs.
    """
    ladder: tuple[float, ...] = (1, 3, 5, 8, 11, 16, 23, 32, 45, 60, 72)
    found = [Codec("JPEG", _jpeg, _opened, tuple(map(float, range(1, 101))), ladder)]
    if features.check("webp"):
        # Its size climbs steeply just above quality 0.
        ladder = (0, 0.01, 0.3, 2, 6, 14, 25, 40, 55, 70, 80)
        found.append(Codec("WebP", _webp, _opened, _steps(0, 100, 201, 2), ladder, 16_383))
    if features.check("avif"):
        qualities = tuple(map(float, range(101)))
        ladder = (2, 8, 14, 20, 27, 34, 41, 48, 55, 62, 69)
        found.append(Codec("AVIF", _avif, _opened, qualities, ladder))
        if psnr_tuned:
            found.append(Codec("AVIF (PSNR)", _avif_for_psnr, _opened, qualities, ladder))
    jpeg_xl = _jpeg_xl()
    return (*found, jpeg_xl) if jpeg_xl else tuple(found)


def hyperthumb(
    scale: int = 2,
    *,
    model: str | os.PathLike[str] | Model | None = None,
    effort: str = "fast",
    device: str = "auto",
) -> Codec:
    """Ours as a `Codec` whose quality is the level; model: other weights, which decide the scale."""
    from .codec import decode, encode, load_model
    from .model import LEVELS

    if model is not None:
        model = load_model(model)
        scale = model.scale

    def to_file(image: Pixels, level: float) -> bytes:
        return encode(image, level=level, scale=scale, model=model, effort=effort, device=device).data

    def from_file(data: bytes) -> Pixels:
        return decode(data, model=model, device=device)

    levels = _steps(*LEVELS, 81)
    return Codec(own_name(scale, effort), to_file, from_file, levels, levels[::10], 65_500 * scale)


def own_name(scale: int, effort: str = "fast") -> str:
    """What we call ourselves in tables and pictures."""
    return f"HyperThumb x{scale}" + ("" if effort == "fast" else f" ({effort})")


# ---- measuring -------------------------------------------------------------------------------


def check_eight_bit(image: object, what: str) -> Pixels:
    array = np.asarray(image)
    if array.dtype != np.uint8 or (array.ndim != 2 and array.shape[2:] != (3,)):
        raise ImageError(
            f"{what} has shape {array.shape} and dtype {array.dtype}; the codecs to compare with take "
            "uint8 of shape (H, W) or (H, W, 3) only"
        )
    if 0 in array.shape:
        raise ImageError(f"{what} is empty: shape {array.shape}")
    return array


def _decoded(codec: Codec, data: bytes, image: Pixels) -> Pixels:
    decoded = codec.decode(data)
    if image.ndim == 2 and decoded.ndim == 3:  # WebP has no gray images
        decoded = np.asarray(Image.fromarray(decoded).convert("L"))
    return decoded


def _ssim(image: Pixels, decoded: Pixels) -> float | None:
    return ssim(image, decoded) if min(image.shape[:2]) >= SSIM_SIDE else None


def closest(codec: Codec, image: Pixels, nbytes: int, *, with_ssim: bool = False) -> Coded:
    """The image at the codec's highest quality whose file has at most `nbytes` bytes.

    Found by bisection with real files: the next quality up gives a larger file than that. Where the
    codec's smallest file is larger already, that one comes back with `exceeds` set.
    Raises ImageError for an image that isn't 8-bit, or too large for the format.
    """
    image = check_eight_bit(image, "the image")
    if max(image.shape[:2]) > codec.max_side:
        raise ImageError(f"{codec.name} has at most {codec.max_side} pixels a side")
    data, fits, too_large = b"", -1, len(codec.qualities)
    while too_large - fits > 1:
        middle = (fits + too_large) // 2
        trial = codec.encode(image, codec.qualities[middle])
        if len(trial) <= nbytes:
            data, fits = trial, middle
        else:
            too_large = middle
    if fits < 0:
        data = codec.encode(image, codec.qualities[0])
    decoded = _decoded(codec, data, image)
    return Coded(
        name=codec.name,
        data=data,
        image=decoded,
        psnr=psnr(image, decoded),
        ssim=_ssim(image, decoded) if with_ssim else None,
        quality=codec.qualities[max(fits, 0)],
        exceeds=fits < 0,
    )


def compare(
    image: Pixels,
    thumbnail: Thumbnail,
    decoded: Pixels,
    *,
    codecs: Sequence[Codec] | None = None,
    with_ssim: bool = False,
    progress: Callable[[float], None] = lambda fraction: None,
) -> list[Coded]:
    """A thumbnail and what it decodes to, then each codec at no more than the thumbnail's bytes.

    codecs: None for all there are. Those that can't hold an image of this size are left out.
    progress: called with the fraction done; an exception raised there ends the work.
    Raises ImageError for images that aren't 8-bit, or of different shapes.
    """
    image, decoded = check_eight_bit(image, "the image"), check_eight_bit(decoded, "the decoded image")
    if image.shape != decoded.shape:
        raise ImageError(f"the image has shape {image.shape}, the decoded one {decoded.shape}")
    usable = [
        codec
        for codec in (available_codecs() if codecs is None else codecs)
        if max(image.shape[:2]) <= codec.max_side
    ]
    ours = Coded(
        name=own_name(thumbnail.scale),
        data=thumbnail.data,
        image=decoded,
        psnr=psnr(image, decoded),
        ssim=_ssim(image, decoded) if with_ssim else None,
        quality=thumbnail.level,
    )
    rows = [ours]
    for codec in usable:
        rows.append(closest(codec, image, thumbnail.nbytes, with_ssim=with_ssim))
        progress((len(rows) - 1) / len(usable))
    return rows


def rd_points(codec: Codec, image: Pixels, qualities: Sequence[float] | None = None) -> Iterator[RatePoint]:
    """The rate-distortion curve of one image, point by point from the smallest file up.

    qualities: None for the codec's ladder. A generator: stop taking from it to cancel.
    """
    image = check_eight_bit(image, "the image")
    for quality in codec.ladder if qualities is None else qualities:
        data = codec.encode(image, quality)
        decoded = _decoded(codec, data, image)
        yield RatePoint(quality, len(data), bpp(len(data), image.shape), psnr(image, decoded))
