"""Two small plots: rate-distortion curves with the operating point, and the predicted tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter
from napari.utils.theme import get_theme
from qtpy.QtWidgets import QSizePolicy, QWidget

if TYPE_CHECKING:
    from ..compare import RatePoint
    from ..session import RateCurve

OURS = {2: "#f5a623", 4: "#e4572e"}
RIVALS = {"JPEG": "#9aa0a6", "WebP": "#5fa8d3", "AVIF": "#17a398", "JPEG XL": "#b388eb"}
HEIGHT = 230


class Plot(FigureCanvasQTAgg):
    """A matplotlib canvas in the colours of a napari theme."""

    def __init__(self, theme: str, parent: QWidget | None = None) -> None:
        self.figure = Figure(figsize=(3.4, 2.3), dpi=100, layout="constrained")
        super().__init__(self.figure)
        self.setParent(parent)
        self.setMinimumSize(260, HEIGHT)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.set_theme(theme)

    def set_theme(self, theme: str) -> None:
        """Take the colours of a theme and draw again."""
        colours = get_theme(theme)
        self.ink, self.paper = colours.text.as_hex(), colours.background.as_hex()
        self.faint = colours.secondary.as_hex()
        self.figure.set_facecolor(self.paper)
        self.redraw()

    def redraw(self) -> None:
        """Draw from what is known; subclasses say how."""

    def style(self, axes: Any) -> None:
        """Axes in the theme's colours, with small type."""
        axes.set_facecolor(self.paper)
        axes.tick_params(colors=self.ink, labelsize=7.5, which="both")
        for spine in axes.spines.values():
            spine.set_color(self.faint)


class CurvePlot(Plot):
    """PSNR against bits per pixel, of one picture."""

    def __init__(self, theme: str, parent: QWidget | None = None) -> None:
        self.curves: Mapping[int, RateCurve] = {}
        self.rivals: dict[str, Sequence[RatePoint]] = {}
        self.sampled = False
        self.point: tuple[float, float] | None = None
        self._marker: Any = None
        super().__init__(theme, parent)

    def set_curves(self, curves: Mapping[int, RateCurve], sampled: bool) -> None:
        """Another picture."""
        self.curves, self.sampled = curves, sampled
        self.rivals, self.point = {}, None
        self.redraw()

    def add_rival(self, name: str, points: Sequence[RatePoint]) -> None:
        """One more curve to compare with."""
        self.rivals[name] = points
        self.redraw()

    def move_point(self, bpp: float, psnr: float) -> None:
        """Where we are; only this point is drawn anew."""
        self.point = (bpp, psnr)
        if self._marker is None:
            self.redraw()
            return
        self._marker.set_data([bpp], [psnr])
        self.draw_idle()

    def redraw(self) -> None:
        self.figure.clear()
        axes = self.figure.add_subplot()
        self.style(axes)
        self._marker = None
        if not self.curves:
            axes.set_axis_off()
            text = "Move the slider or press Encode:\nthe curves of this picture appear here."
            axes.text(0.5, 0.5, text, ha="center", va="center", color=self.ink, fontsize=8.5)
            self.draw_idle()
            return
        for name, points in self.rivals.items():
            rates, quality = [p.bpp for p in points], [p.psnr for p in points]
            axes.plot(rates, quality, "-", color=RIVALS.get(name, self.ink), lw=1.2, label=name)
        for scale, curve in self.curves.items():
            rates, quality = [p.bpp for p in curve.points], [p.psnr for p in curve.points]
            axes.plot(rates, quality, "-", color=OURS[scale], lw=2.2, label=f"HyperThumb ×{scale}")
        if self.point is not None:
            self._marker = axes.plot(
                *([x] for x in self.point), "o", ms=8, mfc=self.paper, mec=self.ink, mew=1.8, zorder=9
            )[0]
        low = min(curve.range[0] for curve in self.curves.values())
        high = max(curve.range[1] for curve in self.curves.values())
        axes.set_xscale("log")
        axes.set_xlim(low / 1.4, high * 1.4)
        ours = [p.psnr for curve in self.curves.values() for p in curve.points if np.isfinite(p.psnr)]
        if ours:
            axes.set_ylim(min(ours) - 3, max(ours) + 3)
        ticks = [t for t in (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10) if low / 1.4 <= t <= high * 1.4]
        axes.set_xticks(ticks)
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(color=self.faint, lw=0.5, alpha=0.6)
        where = "patches of the picture" if self.sampled else "this picture"
        axes.set_xlabel(f"bits per pixel, {where}", color=self.ink, fontsize=8)
        axes.set_ylabel("PSNR (dB)", color=self.ink, fontsize=8)
        axes.legend(fontsize=7, frameon=False, labelcolor=self.ink, loc="lower right", handlelength=1.4)
        self.draw_idle()


class TablesPlot(Plot):
    """The two quantisation tables as heat maps on one scale."""

    def __init__(self, theme: str, parent: QWidget | None = None) -> None:
        self.tables: np.ndarray | None = None
        self.gray = False
        super().__init__(theme, parent)

    def set_tables(self, tables: np.ndarray, gray: bool) -> None:
        """(2, 8, 8), luma and chroma; gray: there is no chroma."""
        if self.tables is not None and gray == self.gray and np.array_equal(tables, self.tables):
            return
        self.tables, self.gray = tables, gray
        self.redraw()

    def redraw(self) -> None:
        self.figure.clear()
        if self.tables is None:
            empty = self.figure.add_subplot()
            self.style(empty)
            empty.set_axis_off()
            text = "The quantisation tables that the\nnetwork predicts appear here."
            empty.text(0.5, 0.5, text, ha="center", va="center", color=self.ink, fontsize=8.5)
            self.draw_idle()
            return
        names = ("Luma",) if self.gray else ("Luma", "Chroma")
        axes: Any = self.figure.subplots(1, len(names), squeeze=False)[0]
        image: Any = None
        for one, name, table in zip(axes, names, self.tables, strict=False):
            self.style(one)
            image = one.imshow(table, cmap="viridis", vmin=1, vmax=max(16, int(self.tables.max())))
            one.set_title(f"{name} steps, {table.min()}–{table.max()}", color=self.ink, fontsize=8)
            one.set_xticks([0, 7], ["low", "high"])
            one.set_yticks([0, 7], ["low", "high"], rotation=90, va="center")
        bar = self.figure.colorbar(image, ax=list(axes), shrink=0.75, aspect=14, pad=0.02)
        bar.ax.tick_params(colors=self.ink, labelsize=7.5)
        bar.outline.set_edgecolor(self.faint)
        axes[0].set_ylabel("vertical frequency", color=self.ink, fontsize=8)
        for one in axes:
            one.set_xlabel("horizontal frequency", color=self.ink, fontsize=8)
        self.draw_idle()
