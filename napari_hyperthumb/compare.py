"""Our thumbnails beside the codecs people use, at equal file size: numbers, curves, a sheet to look at.

    thumbnail = encode(image, bpp=0.3)
    rows = compare(image, thumbnail, decode(thumbnail.data))
    sheet(image, rows, "sheet.png")

All of it works on 8-bit images, (H, W) or (H, W, 3) uint8, which is what those codecs take.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, features

from .errors import HyperThumbError, ImageError
from .files import write_atomically
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
        # The level is cjxl's quality: distance 1 at 90, 6.4 at 30, 25 at 0.
        return bytes(jpegxl_encode(image, level=quality, effort=7))

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
    scale: int = 2, *, model: str | os.PathLike[str] | Model | None = None, device: str = "auto"
) -> Codec:
    """Ours as a `Codec` whose quality is the level; model: other weights, which decide the scale."""
    from .codec import decode, encode, load_model
    from .model import LEVELS

    if model is not None:
        model = load_model(model)
        scale = model.scale

    def to_file(image: Pixels, level: float) -> bytes:
        return encode(image, level=level, scale=scale, model=model, device=device).data

    def from_file(data: bytes) -> Pixels:
        return decode(data, model=model, device=device)

    levels = _steps(*LEVELS, 81)
    return Codec(own_name(scale), to_file, from_file, levels, levels[::10], 65_500 * scale)


def own_name(scale: int) -> str:
    """What we call ourselves in tables and pictures."""
    return f"HyperThumb x{scale}"


# ---- measuring -------------------------------------------------------------------------------


def _check(image: object, what: str) -> Pixels:
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
    image = _check(image, "the image")
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
    image, decoded = _check(image, "the image"), _check(decoded, "the decoded image")
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
    image = _check(image, "the image")
    for quality in codec.ladder if qualities is None else qualities:
        data = codec.encode(image, quality)
        decoded = _decoded(codec, data, image)
        yield RatePoint(quality, len(data), bpp(len(data), image.shape), psnr(image, decoded))


# ---- the sheet -------------------------------------------------------------------------------

CROP = (32, 128)
"""Pixels a side of a crop, at least and at most: a third of the picture in between."""
SHOWN = 256
"""Pixels a side of a crop on the sheet."""
CELL = 8
"""Crops lie on a grid of this many pixels."""
MARGIN, GAP, LINE, HEAD = 28, 14, 30, 440
"""Pixels round the sheet, between columns, a line of the table, height of the whole picture."""
BIG, SMALL = 16, 13
"""Font sizes."""
INK, SOFT, RULE = "#1b1b1f", "#6b6f76", "#d5d8dc"
FRAMES = ("#e4572e", "#17a398", "#8e5cd9")


@dataclass(frozen=True)
class _Crop:
    rows: slice
    columns: slice

    def of(self, image: Pixels) -> Pixels:
        return image[self.rows, self.columns]

    def overlaps(self, other: _Crop) -> bool:
        pairs = ((self.rows, other.rows), (self.columns, other.columns))
        return all(a.start < b.stop and b.start < a.stop for a, b in pairs)


def _cell_means(values: NDArray[Any]) -> NDArray[np.float64]:
    """(H, W) to means over cells of CELL x CELL pixels, fewer at the far edges."""
    at = [np.arange(0, side, CELL) for side in values.shape]
    sums = np.add.reduceat(np.add.reduceat(values, at[0], 0, np.float64), at[1], 1)
    rows, columns = (np.diff(starts, append=side) for starts, side in zip(at, values.shape, strict=True))
    means: NDArray[np.float64] = sums / np.outer(rows, columns)
    return means


def _cell_errors(a: Pixels, b: Pixels) -> NDArray[np.float64]:
    """Root mean squared difference in every cell; in strips, as images may be large."""
    strips = []
    for start in range(0, a.shape[0], 32 * CELL):
        rows = slice(start, start + 32 * CELL)
        square = (a[rows].astype(np.float32) - b[rows].astype(np.float32)) ** 2
        strips.append(_cell_means(square if square.ndim == 2 else square.mean(2)))
    return np.sqrt(np.concatenate(strips))


def _detail(image: Pixels) -> NDArray[np.float64]:
    """Mean absolute gradient in every cell."""
    flat = np.asarray(Image.fromarray(image).convert("L"), np.float32)
    slopes = np.zeros_like(flat)
    for axis, side in enumerate(flat.shape):
        if side > 1:
            slopes += np.abs(np.gradient(flat, axis=axis))
    return _cell_means(slopes)


def _crop_size(shape: tuple[int, ...]) -> tuple[int, int]:
    side = max(CROP[0], min(CROP[1], min(shape) // 3 // CELL * CELL))
    return min(side, shape[0]), min(side, shape[1])


def _window_means(cells: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Means over every crop that lies inside of an image of `shape`."""
    total = np.pad(cells.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    size = _crop_size(shape)
    h, w = (-(-side // CELL) for side in size)
    means: NDArray[np.float64] = (total[h:, w:] - total[:-h, w:] - total[h:, :-w] + total[:-h, :-w]) / (h * w)
    # The last window may end in a cell that the edge cuts short.
    rows, columns = ((side - part) // CELL + 1 for side, part in zip(shape, size, strict=True))
    return means[:rows, :columns]


def _crops(original: Pixels, rows: Sequence[Coded]) -> list[_Crop]:
    """Up to three places worth a look that don't overlap.

    Where the codecs differ most from each other; where the picture has most detail; where they differ
    most for how little detail there is: blocks, ringing and lost texture in calm areas.
    """
    shape = original.shape[:2]
    height, width = _crop_size(shape)
    errors = np.stack([_cell_errors(original, row.image) for row in rows])
    differ = _window_means(errors.std(0) if len(rows) > 1 else errors[0], shape)
    busy = _window_means(_detail(original), shape)
    found: list[_Crop] = []
    for score in (differ, busy, differ / (busy + 12)):
        for index in np.argsort(-score, axis=None, kind="stable"):
            top, left = (int(i) * CELL for i in np.unravel_index(index, score.shape))
            crop = _Crop(slice(top, top + height), slice(left, left + width))
            if not any(crop.overlaps(other) for other in found):
                found.append(crop)
                break
    return found


def _picture(image: Pixels) -> Image.Image:
    return Image.fromarray(image).convert("RGB")


def _width(text: str, size: int) -> int:
    return math.ceil(ImageDraw.Draw(Image.new("L", (1, 1))).textlength(text, ImageFont.load_default(size)))


def _write(
    draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int, ink: str, anchor: str = "la"
) -> None:
    draw.text(at, text, fill=ink, font=ImageFont.load_default(size), anchor=anchor)


def _tag(draw: ImageDraw.ImageDraw, x: int, y: int, number: int) -> None:
    draw.rectangle((x, y, x + 21, y + 21), fill=FRAMES[number])
    _write(draw, (x + 11, y + 11), str(number + 1), BIG, "white", "mm")


def _decibels(value: float) -> str:
    return f"{value:.2f} dB" if math.isfinite(value) else "exact"


def _overview(original: Pixels, crops: Sequence[_Crop], width: int, height: int) -> Image.Image:
    """The whole picture inside of width x height, with the crops framed in it."""
    picture = _picture(original)
    fit = min(width / picture.width, height / picture.height)
    # Enlarged by whole numbers only: every pixel stays a square.
    fit, way = (fit, Image.Resampling.LANCZOS) if fit < 1 else (min(int(fit), 8), Image.Resampling.NEAREST)
    picture = picture.resize((max(1, round(picture.width * fit)), max(1, round(picture.height * fit))), way)
    draw = ImageDraw.Draw(picture)
    for number, crop in enumerate(crops):
        left, top = int(crop.columns.start * fit), int(crop.rows.start * fit)
        right, bottom = (int(part.stop * fit) - 1 for part in (crop.columns, crop.rows))
        draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=FRAMES[number], width=3)
        beside = right + 1 if right + 22 < picture.width else left - 22
        _tag(draw, left if right - left > 60 else beside, top, number)
    return picture


def _table(original: Pixels, rows: Sequence[Coded]) -> list[tuple[str, ...]]:
    table: list[tuple[str, ...]] = [("", "bytes", "bpp", "PSNR", "SSIM")]
    for row in rows:
        rate, quality = bpp(row.nbytes, original.shape), "-" if row.ssim is None else f"{row.ssim:.4f}"
        name = f"{row.name} (no smaller file)" if row.exceeds else row.name
        table.append((name, f"{row.nbytes:,}", f"{rate:.3f}", _decibels(row.psnr), quality))
    known = slice(None) if any(row.ssim is not None for row in rows) else slice(-1)
    return [line[known] for line in table]


def _draw_table(
    draw: ImageDraw.ImageDraw, x: int, y: int, table: Sequence[tuple[str, ...]], widths: Sequence[int]
) -> None:
    for index, line in enumerate(table):
        right, ink = x, INK if index else SOFT
        for number, (text, wide) in enumerate(zip(line, widths, strict=True)):
            right += wide
            _write(draw, (right if number else x, y), text, BIG, ink, "ra" if number else "la")
        draw.line((x, y + LINE - 5, right - 1, y + LINE - 5), fill=RULE)
        y += LINE


def sheet(original: Pixels, rows: Sequence[Coded], path: str | os.PathLike[str] | None = None) -> Image.Image:
    """Draw a page for judging by eye: the picture with up to three crops marked, and each of them large.

    rows: from `compare`. path: where to write it as PNG, whole or not at all; None: nowhere.
    Raises ImageError for images that aren't 8-bit or have different shapes, HyperThumbError for no rows.
    """
    original = _check(original, "the original")
    if not rows:
        raise HyperThumbError("nothing to draw: no coded images")
    for row in rows:
        if _check(row.image, row.name).shape != original.shape:
            raise ImageError(f"{row.name} has shape {row.image.shape}, the original {original.shape}")
    crops = _crops(original, rows)
    height, width = crops[0].of(original).shape[:2]
    zoom = max(2, SHOWN // max(height, width))
    height, width = height * zoom, width * zoom

    # Columns are as wide as their captions need, the page as wide as the columns or the table.
    images = [original, *(row.image for row in rows)]
    names = ["Original", *(row.name for row in rows)]
    whole = ["uncompressed", *(f"{row.nbytes:,} bytes · {_decibels(row.psnr)} in all" for row in rows)]
    named = max(_width(name, BIG) for name in names) + GAP + _width("100.00 dB", BIG)
    column = max(width, named, *(_width(text, SMALL) for text in whole))
    table = _table(original, rows)
    widths = [max(_width(line[i], BIG) for line in table) + 2 * GAP for i in range(len(table[0]))]
    inner = max(len(images) * (column + GAP) - GAP, sum(widths) + SHOWN + MARGIN)
    picture = _overview(original, crops, inner - sum(widths) - MARGIN, HEAD)
    head = max(picture.height, LINE * (len(table) + 1))
    step = height + 48 + MARGIN

    page = Image.new("RGB", (inner + 2 * MARGIN, 2 * MARGIN + head + len(crops) * step), "white")
    draw = ImageDraw.Draw(page)
    page.paste(picture, (MARGIN, MARGIN))
    left = MARGIN + picture.width + MARGIN
    # The numbers spread over what the picture leaves, as far as they still read as lines.
    spare = min(inner + MARGIN - left, 760) - sum(widths)
    widths = [wide + spare // len(widths) for wide in widths]
    kind = "gray" if original.ndim == 2 else "RGB"
    _write(draw, (left, MARGIN), f"{original.shape[1]} x {original.shape[0]} pixels, {kind}", BIG, SOFT)
    _draw_table(draw, left, MARGIN + LINE, table, widths)
    for number, crop in enumerate(crops):
        top = 2 * MARGIN + head + number * step
        below = top + height + 7
        for index, image in enumerate(images):
            x = MARGIN + index * (column + GAP)
            part = _picture(crop.of(image)).resize((width, height), Image.Resampling.NEAREST)
            page.paste(part, (x, top))
            _write(draw, (x, below), names[index], BIG, INK)
            _write(draw, (x, below + 23), whole[index], SMALL, SOFT)
            if index:
                here = _decibels(psnr(crop.of(original), crop.of(image)))
                _write(draw, (x + column, below), here, BIG, INK, "ra")
        _tag(draw, MARGIN, top, number)
    if path is not None:
        buffer = io.BytesIO()
        page.save(buffer, "PNG")
        write_atomically(os.fspath(path), buffer.getvalue())
    return page
