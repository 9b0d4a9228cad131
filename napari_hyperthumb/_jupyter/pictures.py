"""What the page and a saved notebook show, as files: pictures, error maps, the static sheet."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from ..compare import Pixels
from ..pixels import Array, Format
from ..plots import draw_curves, draw_tables
from ..session import as_eight_bit, difference, peak
from .engine import ERROR, THUMBNAIL, Update
from .words import caption, cells

ERROR_SPAN = 32 / 255
"""The error map's brightest colour, of the value range; fixed, so that maps at two rates compare."""
_MAGMA: Pixels = (colormaps["magma"](np.arange(256))[:, :3] * 255).round().astype(np.uint8)


def png(pixels: Pixels) -> bytes:
    """(H, W) or (H, W, 3) as PNG: lossless, and little time spent on making it small."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def bmp(pixels: Pixels) -> bytes:
    """The same as BMP, for pictures that change all the time: deflate alone would take 35 ms of a step."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "BMP")
    return buffer.getvalue()


def error_map(image: Array, original: Array, fmt: Format) -> Pixels:
    """(H, W, 3): the mean absolute difference over channels, black to yellow."""
    share = difference(image, original) / (peak(fmt) * ERROR_SPAN)
    return _MAGMA[np.clip(np.rint(share * 255), 0, 255).astype(np.uint8)]


def right_pixels(update: Update) -> Pixels:
    """What lies right of the swipe line."""
    step = update.step
    if update.wanted.right == THUMBNAIL:
        return step.thumbnail.lr
    if update.wanted.right == ERROR:
        return error_map(step.image, step.original, step.format)
    return as_eight_bit(step.image if update.right is None else update.right, step.format)


def overview(array: Array, fmt: Format, side: int = 240) -> Pixels:
    """The whole image made small, (h, w) or (h, w, 3), every so many pixels averaged by Pillow."""
    # Coarsely thinned first: an image of gigabytes must not be turned into levels whole.
    thin = max(1, max(array.shape[:2]) // (4 * side))
    small = Image.fromarray(as_eight_bit(array[::thin, ::thin], fmt))
    small.thumbnail((side, side), Image.Resampling.BOX)
    return np.asarray(small)


def _show(axes: Any, pixels: NDArray[np.uint8], title: str) -> None:
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_title(title, fontsize=9, loc="left")
    axes.set_axis_off()


def _parts(figure: Any, rows: int, columns: int, **shares: Any) -> Any:
    return figure.subfigures(rows, columns, **shares)


def static_sheet(update: Update) -> bytes:
    """What stays in a notebook that is saved: both pictures, the curve, the tables and the numbers.

    JPEG, about 100 kB.
    """
    step, explored = update.step, update.explored
    figure = Figure(figsize=(11, 6.6), dpi=90, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = _parts(figure, 2, 1, height_ratios=(1.35, 1))
    left, right = above.subplots(1, 2)
    _show(left, as_eight_bit(step.original, step.format), "Original")
    _show(right, right_pixels(update), caption(update))
    plot, numbers, tables = _parts(below, 1, 3, width_ratios=(1.25, 0.75, 1.35))
    point = (step.thumbnail.bpp, step.psnr)
    draw_curves(plot.add_subplot(), explored.curves, explored.rivals, point=point)
    words = numbers.add_subplot()
    words.set_axis_off()
    for index, cell in enumerate(cells(update)):
        y = 1 - index * 0.105
        words.text(0.0, y, cell.name, fontsize=8, color="#6b6f76", va="top", transform=words.transAxes)
        words.text(0.42, y, cell.value, fontsize=8.5, va="top", transform=words.transAxes)
    draw_tables(tables, step.thumbnail.tables, gray=step.format.gray)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="jpeg", pil_kwargs={"quality": 85, "optimize": True})
    return buffer.getvalue()
