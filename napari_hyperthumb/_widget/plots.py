"""Two small plots: rate-distortion curves with the operating point, and the predicted tables.

They follow a slider: what moves is drawn over a kept picture of the rest, in a millisecond, where
drawing all of a figure takes fifty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg
from matplotlib.figure import Figure
from napari.utils.theme import get_theme
from qtpy.QtWidgets import QSizePolicy, QWidget

from ..plots import Palette, draw_curves, draw_tables, placeholder, table_title

if TYPE_CHECKING:
    from ..compare import RatePoint
    from ..session import RateCurve

HEIGHT = 230


class Plot(FigureCanvasQTAgg):
    """A matplotlib canvas in the colours of a napari theme."""

    def __init__(self, theme: str, parent: QWidget | None = None) -> None:
        self.figure = Figure(figsize=(3.4, 2.3), dpi=100, layout="constrained")
        super().__init__(self.figure)
        self._moving: list[Any] = []
        self._still: Any = None
        self.mpl_connect("draw_event", self._drawn)
        self.mpl_connect("resize_event", lambda event: self._forget())
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
        """Draw everything from what is known."""
        self.figure.clear()
        self._moving = self.fill()
        for artist in self._moving:
            artist.set_animated(True)
        self._forget()
        self.draw_idle()

    def fill(self) -> list[Any]:
        """Put what is known into the empty figure; returns the artists that move. Subclasses say how."""
        return []

    def move(self) -> None:
        """Draw the moving artists where they are now."""
        if self._still is None:
            self.draw_idle()
            return
        self.restore_region(self._still)
        self._draw_moving()
        self.blit(self.figure.bbox)

    def _forget(self) -> None:
        self._still = None

    def _drawn(self, event: object) -> None:
        self._still = self.copy_from_bbox(self.figure.bbox)
        self._draw_moving()

    def _draw_moving(self) -> None:
        for artist in self._moving:
            artist.axes.draw_artist(artist)


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
        self.move()

    def fill(self) -> list[Any]:
        self._marker = None
        axes = self.figure.add_subplot()
        if not self.curves:
            text = "Move the slider or press Encode:\nthe curves of this picture appear here."
            placeholder(axes, text, self.colours)
            return []
        where = "patches of the picture" if self.sampled else "this picture"
        self._marker = draw_curves(
            axes, self.curves, self.rivals, point=self.point, where=where, palette=self.colours
        )
        return [] if self._marker is None else [self._marker]


class TablesPlot(Plot):
    """The two quantisation tables as heat maps on one scale."""

    def __init__(self, theme: str, parent: QWidget | None = None) -> None:
        self.tables: np.ndarray | None = None
        self.gray = False
        self._images: list[Any] = []
        super().__init__(theme, parent)

    def set_tables(self, tables: np.ndarray, gray: bool) -> None:
        """(2, 8, 8), luma and chroma; gray: there is no chroma."""
        fresh = self.tables is None or gray != self.gray
        self.tables, self.gray = tables, gray
        if fresh:
            self.redraw()
            return
        for image, name, table in zip(self._images, ("Luma", "Chroma"), tables, strict=False):
            image.set_data(table)
            image.axes.set_title(table_title(name, table))
        self.move()

    def fill(self) -> list[Any]:
        self._images = []
        if self.tables is None:
            text = "The quantisation tables that the\nnetwork predicts appear here."
            placeholder(self.figure.add_subplot(), text, self.colours)
            return []
        self._images = draw_tables(self.figure, self.tables, gray=self.gray, palette=self.colours)
        return [*self._images, *(image.axes.title for image in self._images)]
