"""What the tests of the napari plugin share."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

needs_screen = pytest.mark.skipif(
    sys.platform.startswith("linux") and not os.environ.get("DISPLAY"),
    reason="needs a screen: run under xvfb-run",
)


def run_now(work: Callable[..., Any], done: Callable[[Any], None], progress: Callable[[float], None]) -> None:
    """A `jobs.Start` that works at once, on this thread."""
    done(work(progress))


class Waiting:
    """A `jobs.Start` that keeps jobs until they are told to run."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Callable[..., Any], Callable[[Any], None], Callable[[float], None]]] = []

    def __call__(self, work: Any, done: Any, progress: Any) -> None:
        self.jobs.append((work, done, progress))

    def run(self) -> None:
        """Run the first job."""
        work, done, progress = self.jobs.pop(0)
        done(work(progress))


def until(condition: Callable[[], object], seconds: float = 90) -> None:
    """Process events until something is so."""
    from qtpy.QtWidgets import QApplication

    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it didn't happen in time"
        QApplication.processEvents()
        time.sleep(0.005)


def small_photo() -> np.ndarray:
    """(64, 96, 3) uint8."""
    from samples import make_photo

    return make_photo(64, 96)
