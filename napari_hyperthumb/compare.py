"""Our thumbnails beside the codecs people use, at equal file size: numbers, curves, a sheet to look at.

    thumbnail = encode(image, bpp=0.3)
    rows = compare(image, thumbnail, decode(thumbnail.data))
    sheet(image, rows, "sheet.png")

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
    files = (
        _save(image, "JPEG", quality=int(quality), subsampling="4:2:0", optimize=True, progressive=p)
        for p in (False, True)
    )
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

    ladder = (0.0, 6.0, 12.0, 20.0, 30.0, 45.0, 60.0, 72.0, 80.0, 86.0)
    return Codec("JPEG XL", encode, decode, _steps(0, 99.75, 400), ladder)


def available_codecs(*, psnr_tuned: bool = False) -> tuple[Codec, ...]:
    """JPEG, WebP, AVIF and JPEG XL, as far as they are installed.

    psnr_tuned: also AVIF told to aim at PSNR. Left alone, current libaom aims at the eye (tune=iq) and
    gives PSNR away for it: about 0.7 dB on photographs.
    """
    # JPEG's quality 1 and 2 are the same tables. WebP's size climbs steeply from quality 0.
    found = [
        Codec(
            "JPEG",
            _jpeg,
            _opened,
            tuple(map(float, range(1, 101))),
            (1, 3, 5, 8, 11, 16, 23, 32, 45, 60, 72),
        )
    ]
    if features.check("webp"):
        ladder = (0.0, 0.01, 0.3, 2.0, 6.0, 14.0, 25.0, 40.0, 55.0, 70.0, 80.0)
        found.append(Codec("WebP", _webp, _opened, _steps(0, 100, 201, 2), ladder, 16_383))
    if features.check("avif"):
        qualities = tuple(map(float, range(101)))
        ladder = (2, 8, 14, 20, 27, 34, 41, 48, 55, 62, 69)
        found.append(Codec("AVIF", _avif, _opened, qualities, ladder))
        if psnr_tuned:
            found.append(Codec("AVIF, tuned for PSNR", _avif_for_psnr, _opened, qualities, ladder))
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
    data, at = codec.encode(image, codec.qualities[0]), 0
    exceeds = len(data) > nbytes
    too_large = len(codec.qualities)
    while not exceeds and too_large - at > 1:
        middle = (at + too_large) // 2
        trial = codec.encode(image, codec.qualities[middle])
        if len(trial) <= nbytes:
            data, at = trial, middle
        else:
            too_large = middle
    decoded = _decoded(codec, data, image)
    return Coded(
        name=codec.name,
        data=data,
        image=decoded,
        psnr=psnr(image, decoded),
        ssim=_ssim(image, decoded) if with_ssim else None,
        quality=codec.qualities[at],
        exceeds=exceeds,
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

CROP = 128
"""Pixels a side of a crop."""
CELL = 256
"""Pixels a side of a crop as it is shown."""
CELLS = 8
"""Crops lie on a grid of this many pixels."""
MARGIN, GAP = 28, 14
INK, SOFT, LINE = "#1b1b1f", "#6b6f76", "#d5d8dc"
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


def _cell_means(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """(H, W) or (H, W, 3) to means over cells of CELLS x CELLS pixels, fewer at the far edges."""
    at = [np.arange(0, side, CELLS) for side in values.shape[:2]]
    flat = values if values.ndim == 2 else values.mean(2)
    sums = np.add.reduceat(np.add.reduceat(flat, at[0], 0), at[1], 1)
    counts = [np.diff(np.append(a, side)) for a, side in zip(at, values.shape, strict=False)]
    return np.asarray(sums / np.outer(*counts), np.float64)


def _window_means(cells: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """Means over all windows of size[0] x size[1] cells."""
    total = np.pad(cells.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    h, w = size
    return (total[h:, w:] - total[:-h, w:] - total[h:, :-w] + total[:-h, :-w]) / (h * w)


def _crops(original: Pixels, rows: Sequence[Coded]) -> list[_Crop]:
    """Up to three places worth a look that don't overlap, first the most telling.

    Where the codecs differ most from each other; where the picture has most detail; where they differ
    most for how little detail there is, which shows blocks, ringing and lost texture in calm areas.
    """
    values = original.astype(np.float32)
    flat = values if values.ndim == 2 else values.mean(2)
    detail = sum(np.abs(d) for d in np.gradient(flat)) if min(flat.shape) > 1 else np.zeros_like(flat)
    errors = [_cell_means((row.image.astype(np.float32) - values) ** 2) for row in rows]
    spread = np.stack([np.sqrt(e) for e in errors]).std(0) if len(rows) > 1 else np.sqrt(errors[0])
    size = tuple(-(-min(CROP, side) // CELLS) for side in flat.shape)
    # A window whose last cell is cut short by the edge would stick out: only whole ones are choices.
    choices = tuple(slice((side - min(CROP, side)) // CELLS + 1) for side in flat.shape)
    busy = _window_means(_cell_means(detail), (size[0], size[1]))[choices]
    differ = _window_means(spread, (size[0], size[1]))[choices]
    found: list[_Crop] = []
    for score in (differ, busy, differ / (busy + 12.0)):
        for index in np.argsort(-score, axis=None, kind="stable"):
            top, left = (int(i) * CELLS for i in np.unravel_index(index, score.shape))
            crop = _Crop(
                slice(top, min(top + CROP, flat.shape[0])), slice(left, min(left + CROP, flat.shape[1]))
            )
            if not any(crop.overlaps(other) for other in found):
                found.append(crop)
                break
    return found


def _picture(image: Pixels) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(image)).convert("RGB")


def _font(size: int) -> Any:
    return ImageFont.load_default(size=size)


def _width(text: str, size: int) -> int:
    return int(np.ceil(_font(size).getlength(text)))


def _decibels(value: float) -> str:
    return f"{value:.2f} dB" if np.isfinite(value) else "exact"


def _tag(draw: ImageDraw.ImageDraw, corner: tuple[int, int], number: int) -> None:
    x, y = corner
    draw.rectangle((x, y, x + 21, y + 21), fill=FRAMES[number])
    draw.text((x + 11, y + 11), str(number + 1), fill="white", font=_font(15), anchor="mm")


def _overview(original: Pixels, crops: Sequence[_Crop], width: int, height: int) -> Image.Image:
    """The whole picture inside of width x height, with the crops framed in it."""
    picture = _picture(original)
    fit = min(width / picture.width, height / picture.height)
    fit = min(float(int(fit)), 8.0) if fit >= 1 else fit
    size = (max(1, round(picture.width * fit)), max(1, round(picture.height * fit)))
    way = Image.Resampling.NEAREST if fit >= 1 else Image.Resampling.LANCZOS
    picture = picture.resize(size, way)
    draw = ImageDraw.Draw(picture)
    for number, crop in enumerate(crops):
        left, top = int(crop.columns.start * fit), int(crop.rows.start * fit)
        right, bottom = int(crop.columns.stop * fit) - 1, int(crop.rows.stop * fit) - 1
        draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=FRAMES[number], width=3)
        _tag(draw, (left, top), number)
    return picture


def _table(original: Pixels, rows: Sequence[Coded]) -> list[tuple[str, ...]]:
    table: list[tuple[str, ...]] = [("", "bytes", "bpp", "PSNR", "SSIM")]
    for row in rows:
        note = " (its smallest file)" if row.exceeds else ""
        rate = bpp(row.nbytes, original.shape)
        quality = "-" if row.ssim is None else f"{row.ssim:.4f}"
        table.append((row.name + note, f"{row.nbytes:,}", f"{rate:.3f}", _decibels(row.psnr), quality))
    shown = slice(None) if any(row.ssim is not None for row in rows) else slice(-1)
    return [line[shown] for line in table]


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
    zoom = max(2, CELL // max(height, width))
    height, width = height * zoom, width * zoom

    # Columns are as wide as their captions need, the page as wide as columns or table need.
    whole = ["uncompressed", *(f"{row.nbytes:,} bytes · {_decibels(row.psnr)} in all" for row in rows)]
    names = ["Original", *(row.name for row in rows)]
    wide = max(_width(name, 16) + _width("000.00 dB", 16) + GAP for name in names)
    column = max(width, wide, *(_width(text, 13) for text in whole))
    table = _table(original, rows)
    widths = [max(_width(line[i], 16) for line in table) + 2 * GAP for i in range(len(table[0]))]
    inner = max(len(names) * (column + GAP) - GAP, sum(widths) + CELL + 2 * GAP)
    picture = _overview(original, crops, inner - sum(widths) - 2 * GAP, max(340, 30 * len(table) + 60))
    head = max(picture.height, 30 * len(table) + 60)
    page = Image.new(
        "RGB", (inner + 2 * MARGIN, 2 * MARGIN + head + len(crops) * (height + 2 * MARGIN + 40)), "white"
    )
    draw = ImageDraw.Draw(page)
    page.paste(picture, (MARGIN, MARGIN))
    _draw_table(draw, (MARGIN + picture.width + 2 * GAP, MARGIN), original, table, widths)
    for number, crop in enumerate(crops):
        y = 2 * MARGIN + head + number * (height + 2 * MARGIN + 40)
        for index, image in enumerate([original, *(row.image for row in rows)]):
            x = MARGIN + index * (column + GAP)
            part = _picture(crop.of(image)).resize((width, height), Image.Resampling.NEAREST)
            page.paste(part, (x, y))
            if index == 0:
                _tag(draw, (x, y), number)
            below = y + height + 7
            draw.text((x, below), names[index], fill=INK, font=_font(16))
            draw.text((x, below + 23), whole[index], fill=SOFT, font=_font(13))
            if index:
                here = _decibels(psnr(crop.of(original), crop.of(image)))
                draw.text((x + column, below), here, fill=INK, font=_font(16), anchor="ra")
    if path is not None:
        buffer = io.BytesIO()
        page.save(buffer, "PNG")
        write_atomically(os.fspath(path), buffer.getvalue())
    return page


def _draw_table(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    original: Pixels,
    table: Sequence[tuple[str, ...]],
    widths: Sequence[int],
) -> None:
    x, y = corner
    title = f"{original.shape[1]} x {original.shape[0]} pixels, {'gray' if original.ndim == 2 else 'RGB'}"
    draw.text((x, y), title, fill=SOFT, font=_font(16))
    for index, line in enumerate(table):
        top = y + 34 + 30 * index
        draw.line((x, top + 26, x + sum(widths), top + 26), fill=LINE)
        right = x
        for number, (text, wide) in enumerate(zip(line, widths, strict=True)):
            right += wide
            at, anchor = ((x, top), "la") if number == 0 else ((right, top), "ra")
            draw.text(at, text, fill=SOFT if index == 0 else INK, font=_font(16), anchor=anchor)
