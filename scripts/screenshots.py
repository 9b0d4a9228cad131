"""Render every widget with a real picture into docs/images/napari-*.jpg.

    xvfb-run -a -s "-screen 0 1600x1000x24" python scripts/screenshots.py

Dark theme, and the same in the light one as *-light.jpg. Look at them: nothing may be cramped, cut off
or unlabelled.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_config = tempfile.TemporaryDirectory()
os.environ["NAPARI_CONFIG"] = f"{_config.name}/settings.yaml"  # not those of whoever runs this

import napari  # noqa: E402
from PIL import Image  # noqa: E402
from qtpy.QtWidgets import QApplication  # noqa: E402

SIZE = (1400, 900)
LARGEST = 300_000


def until(condition: Callable[[], object], seconds: float = 400) -> None:
    """Process events until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("a widget didn't finish in time")
        QApplication.processEvents()
        time.sleep(0.01)


def settle(seconds: float = 0.5) -> None:
    """Let everything be drawn."""
    end = time.monotonic() + seconds
    until(lambda: time.monotonic() > end)


def idle(widget: Any) -> None:
    """Wait for a widget's work, in the background too."""
    until(lambda: not any(getattr(widget, name).busy for name in RUNNERS if hasattr(widget, name)))


RUNNERS = ("_runner", "_background", "_scorer")


def as_jpeg(path: Path) -> None:
    """A screenshot of a photograph is a photograph: a fifth of the bytes."""
    small = path.with_suffix(".jpg")
    with Image.open(path) as picture:
        for quality in (88, 75, 60, 45):  # an error map is noise
            picture.convert("RGB").save(small, quality=quality, subsampling=0, optimize=True)
            if small.stat().st_size < LARGEST:
                break
    path.unlink()
    print(f"{small}  {small.stat().st_size / 1000:.0f} kB")


class Studio:
    """A viewer of one size, photographed in both themes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.viewer = napari.Viewer()
        self.viewer.window.resize(*SIZE)
        self.dock: Any = None

    def open(self, name: str) -> Any:
        """Show one widget alone."""
        if self.dock is not None:
            self.viewer.window.remove_dock_widget(self.dock)
        self.dock, widget = self.viewer.window.add_plugin_dock_widget("napari-hyperthumb", name)
        return widget

    def shoot(self, name: str) -> None:
        """One picture in each theme."""
        for theme, suffix in (("light", "-light"), ("dark", "")):
            self.viewer.theme = theme
            settle()
            path = self.folder / f"napari-{name}{suffix}.png"
            self.viewer.screenshot(str(path), canvas_only=False, flash=False)
            as_jpeg(path)


def encode(studio: Studio) -> None:
    studio.viewer.open_sample("napari-hyperthumb", "histology")
    widget = studio.open("Encode")
    widget.slider.box.setValue(0.4)
    until(lambda: widget._shown is not None and widget._shown.step.whole)
    idle(widget)
    studio.shoot("encode")
    for layer in studio.viewer.layers:
        layer.visible = layer.name.endswith("error")
    widget.error_box.setCurrentIndex(1)
    widget.tabs.setCurrentIndex(1)
    studio.shoot("error")
    studio.viewer.layers.clear()
    widget.detach()


def compare(studio: Studio) -> None:
    studio.viewer.open_sample("napari-hyperthumb", "photograph")
    widget = studio.open("Compare")
    widget.rate_box.setValue(0.25)
    widget.compare_button.click()
    until(lambda: widget._comparison is not None and widget._scores)
    idle(widget)
    widget.a_box.setCurrentIndex(2)
    widget.b_box.setCurrentIndex(1)
    widget.mode_buttons.button(2).click()
    studio.shoot("swipe")
    widget.mode_buttons.button(1).click()
    studio.shoot("grid")
    widget.mode_buttons.button(0).click()
    widget.error_button.click()
    studio.shoot("difference")
    figure = studio.folder / "napari-figure.png"
    widget.export(str(figure))
    idle(widget)
    as_jpeg(figure)
    widget.detach()
    studio.viewer.layers.clear()


def decode(studio: Studio) -> None:
    from skimage import data

    from napari_hyperthumb import encode

    path = studio.folder / "tissue.ht.jpg"
    encode(data.immunohistochemistry(), bpp=0.4).save(path)
    widget = studio.open("Decode")
    widget.open(str(path))
    until(lambda: widget._described is not None)
    widget.decode_button.click()
    until(lambda: len(studio.viewer.layers) == 2)
    idle(widget)
    studio.shoot("decode")
    path.unlink()
    widget.detach()
    studio.viewer.layers.clear()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    scenes = {"encode": encode, "compare": compare, "decode": decode}
    parser.add_argument("what", nargs="*", help=f"only some of: {', '.join(scenes)}")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    arguments = parser.parse_args()
    folder = arguments.out
    folder.mkdir(parents=True, exist_ok=True)
    studio = Studio(folder)
    for name, scene in scenes.items():
        if name in (arguments.what or scenes):
            scene(studio)
    studio.viewer.close()


if __name__ == "__main__":
    main()
