"""What is drawn in the page by anywidget: Python holds the state, the JavaScript beside it draws.

Works wherever ipywidgets do: JupyterLab, Notebook 7, VS Code, Colab.
"""

from __future__ import annotations

from pathlib import Path

import anywidget
import traitlets

_STATIC = Path(__file__).parent / "static"


class SwipeView(anywidget.AnyWidget):
    """Two pictures under a line that is dragged, with zoom and pan."""

    _esm = _STATIC / "swipe.js"
    _css = _STATIC / "explore.css"
    left = traitlets.Bytes().tag(sync=True)
    """PNG."""
    right = traitlets.Bytes().tag(sync=True)
    """BMP; stretched over the left one unless `true_size`."""
    true_size = traitlets.Bool(False).tag(sync=True)
    left_label = traitlets.Unicode("Original").tag(sync=True)
    right_label = traitlets.Unicode().tag(sync=True)
    legend = traitlets.Dict().tag(sync=True)
    """Of a colour map: `colours` from low to high, `low` and `high` in words; empty for none."""
    frame = traitlets.Int(0).tag(sync=True)
    """Raised with every new picture on the right."""
    shown = traitlets.Int(-1).tag(sync=True)
    """The frame that the page has painted."""
    split = traitlets.Float(0.5).tag(sync=True)
    """Where the line stands, 0 .. 1 of the width."""


class CurvesView(anywidget.AnyWidget):
    """Rate-distortion curves and the operating point; sends ``{"go": {"bpp": .., "scale": ..}}``."""

    _esm = _STATIC / "curves.js"
    _css = _STATIC / "explore.css"
    curves = traitlets.List().tag(sync=True)
    """Of ``{"name", "colour", "scale", "points": [[bpp, PSNR], ..]}``, scale 0 for other codecs."""
    point = traitlets.List().tag(sync=True)
    """[bpp, PSNR], or empty."""


class TablesView(anywidget.AnyWidget):
    """Quantisation tables as heat maps."""

    _esm = _STATIC / "tables.js"
    _css = _STATIC / "explore.css"
    tables = traitlets.List().tag(sync=True)
    """One or two of 8 rows with 8 steps, in natural order."""


class CropView(anywidget.AnyWidget):
    """Which part of a large image is explored; sends ``{"crop": {"row": .., "column": ..}}``."""

    _esm = _STATIC / "crop.js"
    _css = _STATIC / "explore.css"
    overview = traitlets.Bytes().tag(sync=True)
    """PNG of the whole image, small."""
    shape = traitlets.List([1, 1]).tag(sync=True)
    """Of the whole image, [height, width]."""
    region = traitlets.List([[0, 1], [0, 1]]).tag(sync=True)
    """[[top, bottom], [left, right]]."""
