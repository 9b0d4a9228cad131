"""Before and after, on both sides of a line that is dragged across the canvas."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from napari.layers import Image, Shapes
from napari.viewer import Viewer

from .layers import KEY, display_limits, find, label, show
from .sources import placement, visible_region

NEAR = 12
"""Screen pixels from the line in which it can be grabbed."""
THICK = 2.0
"""Of the line, in screen pixels."""
LINE = "swipe line"


def camera_of(viewer: Viewer) -> Any:
    """The camera; napari 0.9 moved it into the scene."""
    return viewer.scene.camera if hasattr(viewer, "scene") else viewer.camera


class Swipe:
    """Shows `after` on the right of a line, over a layer that is whole. Other layers stay untouched.

    moved: called with the line's column when it moves by hand.
    """

    def __init__(self, viewer: Viewer, moved: Callable[[float], None] = lambda column: None) -> None:
        self._viewer, self._moved = viewer, moved
        self._source: Image | None = None
        self._after: np.ndarray | None = None
        self._index: tuple[int, ...] = ()
        self._column = 0
        self._right = ""

    @property
    def active(self) -> bool:
        """Whether there is a line."""
        return self._after is not None

    @property
    def column(self) -> int:
        """First column of the right side."""
        return self._column

    def start(self, source: Image, index: tuple[int, ...], after: np.ndarray, name: str) -> None:
        """Draw a line through the middle of what is on screen, with `after` on its right.

        name: of what is on the right.
        """
        self.stop()
        self._source, self._index, self._after = source, index, after
        self._right = f"{name}, right side"
        start, stop = visible_region(source, (after.shape[0], after.shape[1]))[1]
        self._put_right((start + stop) // 2)
        place = placement(source, index, 1, (0, 0))
        colour = {"edge_color": "white", "edge_width": self._width()}
        line = self._viewer.add_shapes(
            [self._line()], shape_type="line", name=LINE, metadata={KEY: {"kind": "swipe"}}, **colour, **place
        )
        line.editable = False
        self._raise()
        self._viewer.layers.selection = {source}
        self._viewer.mouse_move_callbacks.append(self._hover)
        self._viewer.mouse_drag_callbacks.append(self._drag)
        camera_of(self._viewer).events.zoom.connect(self._zoomed)

    def stop(self) -> None:
        """Take line and right side away."""
        if not self.active:
            return
        self._after = None
        for name in (self._right, LINE):
            if name in self._viewer.layers:
                self._viewer.layers.remove(name)
        self._viewer.mouse_move_callbacks.remove(self._hover)
        self._viewer.mouse_drag_callbacks.remove(self._drag)
        camera = camera_of(self._viewer)
        camera.events.zoom.disconnect(self._zoomed)
        camera.mouse_pan = True
        self._source = None

    def move(self, column: float) -> None:
        """Put the line in front of a column."""
        if not self.active:
            return
        self._put_right(round(column))
        line = self._line_layer()
        if line is not None:
            line.data = [self._line()]

    def show_right(self, visible: bool) -> None:
        """Hide the right side for a moment, or show it again."""
        layer = find(self._viewer, self._right)
        if layer is not None:
            layer.visible = visible

    def _put_right(self, column: int) -> None:
        assert self._after is not None and self._source is not None
        self._column = min(max(column, 0), self._after.shape[1] - 1)
        right = show(
            self._viewer,
            self._source,
            self._right,
            self._after[:, self._column :],
            index=self._index,
            offset=(0, self._column),
            rgb=self._after.ndim == 3,
            contrast_limits=display_limits(self._source),
            colormap=None if self._after.ndim == 3 else self._source.colormap,
            metadata={"kind": "swipe"},
        )
        label(right, True, "top_right")

    def _raise(self) -> None:
        for name in (self._right, LINE):
            if name in self._viewer.layers:
                at = self._viewer.layers.index(name)
                self._viewer.layers.move(at, len(self._viewer.layers))

    def _line(self) -> np.ndarray:
        assert self._after is not None
        zeros = (0.0,) * len(self._index)
        column = self._column - 0.5
        return np.array([(*zeros, -0.5, column), (*zeros, self._after.shape[0] - 0.5, column)])

    def _line_layer(self) -> Shapes | None:
        return next((x for x in self._viewer.layers if x.name == LINE and isinstance(x, Shapes)), None)

    def _width(self) -> float:
        assert self._source is not None
        return THICK / (camera_of(self._viewer).zoom * abs(float(self._source.scale[-1])))

    def _zoomed(self, event: object = None) -> None:
        line = self._line_layer()
        if self.active and line is not None:
            line.edge_width = [self._width()]

    def _column_at(self, position: Any) -> float:
        assert self._source is not None
        return float(self._source.world_to_data(position)[-1]) + 0.5

    def _is_near(self, position: Any) -> bool:
        return self.active and abs(self._column_at(position) - self._column) < NEAR / THICK * self._width()

    def _hover(self, viewer: Any, event: Any) -> None:
        # The canvas must not pan while the line is dragged.
        camera_of(self._viewer).mouse_pan = not self._is_near(event.position)

    def _drag(self, viewer: Any, event: Any) -> Iterator[None]:
        if not self._is_near(event.position):
            return
        camera = camera_of(self._viewer)
        camera.mouse_pan = False
        yield
        while event.type == "mouse_move":
            self.move(self._column_at(event.position))
            self._moved(self._column)
            yield
        camera.mouse_pan = True
