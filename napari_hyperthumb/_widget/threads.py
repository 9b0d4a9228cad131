"""How a job gets onto one of napari's threads, and its outcome back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from napari.qt.threading import create_worker
from qtpy.QtCore import QObject, QThreadPool, Signal

from .jobs import Report


class _Bridge(QObject):
    """Carries progress from the worker's thread to the main one."""

    progressed = Signal(float)


def start_on_thread(
    work: Callable[[Report], Any], done: Callable[[Any], None], progress: Callable[[float], None]
) -> None:
    """`jobs.Start` with a napari worker."""
    pool = QThreadPool.globalInstance()
    # A thread more for as long as this job lasts: the pool has as many as the machine has cores, and a job
    # that waits for another to end (`Runner.behind`) would keep the only one from it.
    pool.releaseThread()
    bridge = _Bridge()
    bridge.progressed.connect(progress)
    # In a list: a worker raises what it returns where that is an exception.
    worker = create_worker(lambda: [work(bridge.progressed.emit)], _start_thread=False)

    def returned(outcome: list[Any]) -> None:
        pool.reserveThread()
        bridge.progressed.disconnect()
        bridge.deleteLater()
        try:
            done(outcome[0])
        except RuntimeError as error:
            if "has been deleted" not in str(error):
                raise  # else the window was closed in the meantime

    worker.returned.connect(returned)
    worker.start()
