"""Rate-distortion curves and quantisation tables drawn with matplotlib; no Qt, no pyplot.

figure = Figure(layout="constrained")
draw_curves(figure.add_subplot(), session.calibrate(), point=(step.thumbnail.bpp, step.psnr))
draw_tables(figure, step.thumbnail.tables)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.ticker import NullFormatter, ScalarFormatter
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .compare import RatePoint
    from .session import RateCurve

OURS = {2: "#f5a623", 4: "#e4572e"}
RIVALS = {"JPEG": "#9aa0a6", "WebP": "#5fa8d3", "AVIF": "#17a398", "JPEG XL": "#b388eb"}
STEPS = (2, 64)
"""Ends of the tables' colours, fixed so that tables at two rates compare; few steps lie beyond."""
RATE_TICKS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


@dataclass(frozen=True)
class Palette:
    """Colours of everything that isn't data, and the sizes of type."""

    ink: str = "#1b1b1f"
    paper: str = "#ffffff"
    faint: str = "#c9ccd1"
    label: float = 8
    small: float = 7.5


def style(axes: Any, palette: Palette) -> None:
    """Axes in the palette's colours, with small type."""
    axes.set_facecolor(palette.paper)
    axes.tick_params(colors=palette.ink, labelsize=palette.small, which="both")
    for spine in axes.spines.values():
        spine.set_color(palette.faint)


def placeholder(axes: Any, text: str, palette: Palette) -> None:
    """Words where nothing is known yet."""
    style(axes, palette)
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center", color=palette.ink, fontsize=palette.label + 0.5)


def draw_curves(
    axes: Any,
    curves: Mapping[int, RateCurve],
    rivals: Mapping[str, Sequence[RatePoint]] | None = None,
    *,
    point: tuple[float, float] | None = None,
    where: str = "this picture",
    palette: Palette | None = None,
) -> Any:
    """PSNR against bits per pixel, of one picture, on a logarithmic axis.

    curves: ours by scale. rivals: other codecs' by name. point: where we are, (bpp, PSNR).
    where: what was measured. Returns the marker of the point, a `Line2D`, or None.
    """
    palette = palette or Palette()
    style(axes, palette)
    for name, points in (rivals or {}).items():
        rates, quality = [p.bpp for p in points], [p.psnr for p in points]
        axes.plot(rates, quality, "-", color=RIVALS.get(name, palette.ink), lw=1.2, label=name)
    for scale, curve in curves.items():
        rates, quality = [p.bpp for p in curve.points], [p.psnr for p in curve.points]
        axes.plot(rates, quality, "-", color=OURS[scale], lw=2.2, label=f"HyperThumb ×{scale}")
    marker = None
    if point is not None:
        look = {"ms": 8, "mfc": palette.paper, "mec": palette.ink, "mew": 1.8, "zorder": 9}
        marker = axes.plot([point[0]], [point[1]], "o", **look)[0]
    low = min(curve.range[0] for curve in curves.values())
    high = max(curve.range[1] for curve in curves.values())
    rate_axis(axes, low, high)
    ours = [p.psnr for curve in curves.values() for p in curve.points if np.isfinite(p.psnr)]
    if ours:
        axes.set_ylim(min(ours) - 3, max(ours) + 3)
    axes.grid(color=palette.faint, lw=0.5, alpha=0.6)
    axes.set_xlabel(f"bits per pixel, {where}", color=palette.ink, fontsize=palette.label)
    axes.set_ylabel("PSNR (dB)", color=palette.ink, fontsize=palette.label)
    axes.legend(
        fontsize=palette.small - 0.5,
        facecolor=palette.paper,
        edgecolor="none",
        framealpha=0.85,
        labelcolor=palette.ink,
        loc="lower right",
        handlelength=1.4,
    )
    return marker


def rate_axis(axes: Any, low: float, high: float) -> None:
    """A logarithmic axis of bpp with plain numbers, a little wider than low .. high."""
    axes.set_xscale("log")
    axes.set_xlim(low / 1.4, high * 1.4)
    axes.set_xticks([t for t in RATE_TICKS if low / 1.4 <= t <= high * 1.4])
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())


def draw_tables(
    figure: Any, tables: NDArray[np.integer[Any]], *, gray: bool = False, palette: Palette | None = None
) -> list[Any]:
    """The two quantisation tables as heat maps on one logarithmic colour scale.

    figure: a `Figure` or `SubFigure`. tables: (2, 8, 8), luma and chroma; gray: there is no chroma.
    Returns the heat maps, `AxesImage`s.
    """
    palette = palette or Palette()
    names: Iterable[str] = ("Luma",) if gray else ("Luma", "Chroma")
    axes: Any = figure.subplots(1, 1 if gray else 2, squeeze=False)[0]
    images: list[Any] = []
    for one, name, table in zip(axes, names, tables, strict=False):
        style(one, palette)
        images.append(one.imshow(table, cmap="viridis", norm=LogNorm(*STEPS)))
        one.set_title(table_title(name, table), color=palette.ink, fontsize=palette.label)
        one.set_xticks([0, 7], ["low", "high"])
        one.set_yticks([0, 7], ["low", "high"], rotation=90, va="center")
    bar = figure.colorbar(images[0], ax=list(axes), shrink=0.75, aspect=14, pad=0.02)
    bar.set_ticks([2, 4, 8, 16, 32, 64], labels=["2", "4", "8", "16", "32", "64"])
    bar.ax.minorticks_off()
    bar.ax.tick_params(colors=palette.ink, labelsize=palette.small)
    bar.outline.set_edgecolor(palette.faint)
    axes[0].set_ylabel("vertical frequency", color=palette.ink, fontsize=palette.label)
    for one in axes:
        one.set_xlabel("horizontal frequency", color=palette.ink, fontsize=palette.label)
    return images


def table_title(name: str, table: NDArray[np.integer[Any]]) -> str:
    """A table's name and the range of its steps."""
    return f"{name} steps, {table.min()}–{table.max()}"
