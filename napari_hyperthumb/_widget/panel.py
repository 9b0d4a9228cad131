"""What the dock widgets share: work off the main thread with its status line, and an orderly end."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from napari.viewer import Viewer
from qtpy.QtCore import QEvent
from qtpy.QtWidgets import QWidget

from .controls import Status, notify
from .jobs import Runner


class Panel(QWidget):
    """A dock widget with one `_runner`, whose progress and Cancel button are in `status`.

    napari takes a widget out of its dock when that is closed, but doesn't destroy it. From then on it
    must neither answer the viewer nor touch its layers: `detach` is called, and undoes what `follow` and
    `at_end` were given, last things first.
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.status = Status()
        self._ends: list[Callable[[], object]] = []
        self._runner = self.runner(changed=self.status.set_busy)
        self.status.cancel_button.clicked.connect(self._cancel)

    def runner(self, **options: Any) -> Runner:
        """A runner that ends with this widget."""
        made = Runner(**options)
        self.at_end(made.close)
        self.destroyed.connect(made.close)  # the viewer's window was closed
        return made

    def at_end(self, *undo: Callable[[], object]) -> None:
        """What to do when the dock is closed."""
        self._ends.extend(undo)

    def follow(self, callback: Callable[..., object], *events: Any) -> None:
        """Call back at events of the viewer for as long as the dock is open."""
        for event in events:
            event.connect(callback)
            self.at_end(partial(event.disconnect, callback))

    def detach(self) -> None:
        """Follow the viewer no longer, and stop what runs."""
        while self._ends:
            self._ends.pop()()

    def event(self, event: QEvent) -> bool:
        if event.type() == QEvent.Type.ParentChange and self.parent() is None:
            self.detach()
        return bool(super().event(event))

    def _cancel(self) -> None:
        self._runner.cancel()
        self.status.say("Cancelled")

    def _failed(self, error: Exception) -> None:
        self.status.say(notify(error))
