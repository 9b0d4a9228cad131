"""A picture to judge codecs by: the whole image, a table, and magnified crops side by side."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .compare import Coded, Pixels, check_eight_bit
from .errors import HyperThumbError, ImageError
from .files import write_atomically
from .metrics import bpp, psnr

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
    original = check_eight_bit(original, "the original")
    if not rows:
        raise HyperThumbError("nothing to draw: no coded images")
    for row in rows:
        if check_eight_bit(row.image, row.name).shape != original.shape:
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
