"""A large image while it is being decoded: its thumbnail, enlarged, into which the parts go as they come."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Image

if TYPE_CHECKING:
    from ..pixels import Array, Format

PREVIEWED = 2**23
"""Pixels from which there is one; smaller images are there before it would be seen."""
SHARE = 0.2
"""Of the time that drawing may take from the decoding, at most."""


class Preview:
    """Filled on the thread that decodes, drawn on the main one.

    put: makes the layer of these pixels, which change later. remove: takes it away.
    """

    def __init__(self, put: Callable[[Array], Image | None], remove: Callable[[Image], object]) -> None:
        self._put, self._remove = put, remove
        self._canvas: Array | None = None
        self._layer: Image | None = None
        self._ended = False
        self._next = 0.0

    def begin(self, thumbnail: Array, scale: int, region: tuple[slice, slice], fmt: Format) -> None:
        """The thumbnail enlarged. Any thread.

        thumbnail: (h, w) or (h, w, 3) uint8. region: rows and columns of the image.
        """
        from ..session import as_original

        rows, columns = (np.arange(*part.indices(part.stop)) // scale for part in region)
        self._canvas = as_original(thumbnail, fmt)[rows[:, None], columns]

    def place(self, rows: slice, columns: slice, part: Array) -> None:
        """A part that is done, where `codec.decode` says. Any thread."""
        canvas = self._canvas  # the main thread may end the preview meanwhile
        if canvas is not None:
            canvas[rows, columns] = part

    def draw(self) -> None:
        """What there is so far, unless it was drawn a moment ago."""
        started = perf_counter()
        if self._canvas is None or self._ended or started < self._next:
            return
        if self._layer is None:
            self._layer = self._put(self._canvas)
        else:
            self._layer.refresh(thumbnail=False, extent=False)
        now = perf_counter()
        self._next = now + (now - started) / SHARE

    def end(self, done: bool) -> None:
        """The image itself has taken the layer (done), or won't come."""
        if not (done or self._ended or self._layer is None):
            self._remove(self._layer)
        self._ended = True
        self._canvas = self._layer = None
