"""Two small plots: rate-distortion curves with the operating point, and the predicted tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg
from matplotlib.figure import Figure
from napari.utils.theme import get_theme
from qtpy.QtWidgets import QSizePolicy, QWidget

from ..plots import Palette, draw_curves, draw_tables, placeholder

if TYPE_CHECKING:
    from ..compare import RatePoint
    from ..session import RateCurve

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
        theme_colours = get_theme(theme)
        self.colours = Palette(
            theme_colours.text.as_hex(), theme_colours.background.as_hex(), theme_colours.secondary.as_hex()
        )
        self.figure.set_facecolor(self.colours.paper)
        self.redraw()

    def redraw(self) -> None:
        """Draw from what is known; subclasses say how."""


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
        self._marker = None
        if not self.curves:
            text = "Move the slider or press Encode:\nthe curves of this picture appear here."
            placeholder(axes, text, self.colours)
        else:
            where = "patches of the picture" if self.sampled else "this picture"
            self._marker = draw_curves(
                axes, self.curves, self.rivals, point=self.point, where=where, palette=self.colours
            )
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
            text = "The quantisation tables that the\nnetwork predicts appear here."
            placeholder(self.figure.add_subplot(), text, self.colours)
        else:
            draw_tables(self.figure, self.tables, gray=self.gray, palette=self.colours)
        self.draw_idle()
