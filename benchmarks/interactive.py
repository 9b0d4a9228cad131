"""How live the live preview is: a slider step on a 512x512 visible region, with its parts.

    xvfb-run -a -s "-screen 0 1600x1000x24" python benchmarks/interactive.py

Prints medians of: the step as a whole (slider moved to layers updated and painted), and its parts; the
longest times the window didn't answer while a 6K image (6144x3456) is coded; and what the plugin adds
to napari's start. `parts` needs no screen. --weights FILE measures other weights than the bundled ones.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from statistics import median

import numpy as np

SIDE = 512
STEPS = 24
THROTTLE = 0.08
"""Seconds after which a moved slider is looked at again."""


def picture(height: int, width: int) -> np.ndarray:
    """A photograph, repeated."""
    from skimage import data

    photo = data.coffee()
    return np.tile(photo, (-(-height // photo.shape[0]), -(-width // photo.shape[1]), 1))[:height, :width]


def timed(work: Callable[[], object], pause: float = 0) -> str:
    """The median of wall times, beside the fastest and the CPU time: machines have other things to do."""
    wall, cpu = [], []
    for _ in range(STEPS):
        time.sleep(pause)
        started = time.perf_counter(), time.process_time()
        work()
        wall.append(1000 * (time.perf_counter() - started[0]))
        cpu.append(1000 * (time.process_time() - started[1]))
    return f"{median(wall):6.0f} ms (fastest {min(wall):.0f}, CPU {median(cpu):.0f})"


def parts(scale: int, weights: str) -> None:
    """What a step consists of, without a window."""
    from napari_hyperthumb._widget.preferences import models
    from napari_hyperthumb.bitstream import read_jpeg
    from napari_hyperthumb.pipeline import reconstruct
    from napari_hyperthumb.session import Session

    session = Session(picture(SIDE, SIDE), models=models(weights))
    started = time.perf_counter()
    prepared = session.prepare(scale)
    print(f"scale {scale}: preparing the region, once   {1000 * (time.perf_counter() - started):7.0f} ms")
    levels = iter(np.resize(np.linspace(-1, 1, 7), 10_000))
    coding = prepared.code(0.0, rounds=0)
    contents = read_jpeg(coding.data)
    arguments = (contents.quantised, contents.tables, prepared.shape, session.format, prepared.model)
    rows = {
        "tables": lambda: prepared.tables(next(levels)),
        "thumbnail's planes": lambda: prepared.lr_planes(next(levels)),
        "planes, quantised and written": lambda: prepared.code(next(levels), rounds=0),
        "file read": lambda: read_jpeg(coding.data),
        "reconstruction": lambda: reconstruct(*arguments, session.device),
        "quick step in all, with PSNR": lambda: session.step(next(levels), scale, quick=True),
        "the same as a file, with moves": lambda: session.step(next(levels), scale),
    }
    for name, work in rows.items():
        print(f"scale {scale}: {name:32s} {timed(work)}")


class Window:
    """A viewer with the encode widget."""

    def __init__(self) -> None:
        import napari

        self.viewer = napari.Viewer()
        self.viewer.window.resize(1300, 900)
        _, self.widget = self.viewer.window.add_plugin_dock_widget("napari-hyperthumb", "Encode")
        self.slider = self.widget.slider.slider

    def open(self, height: int, width: int) -> None:
        """Show a picture of that size."""
        self.viewer.layers.clear()
        self.viewer.add_image(picture(height, width), rgb=True, name="photo")

    def until(self, condition: Callable[[], object]) -> None:
        """Process events until something is so."""
        from qtpy.QtWidgets import QApplication

        while not condition():
            QApplication.processEvents()
            time.sleep(0.001)

    def idle(self) -> bool:
        """Whether nothing runs any more."""
        return not (self.widget._runner.busy or self.widget._background.busy)

    def step(self, position: int) -> float:
        """Move the slider; seconds until the picture is painted."""
        before = self.widget._shown
        started = time.perf_counter()
        self.slider.setValue(position)
        self.until(lambda: self.widget._shown is not before)
        self.viewer.window._qt_viewer.canvas.native.repaint()
        return time.perf_counter() - started

    def close(self) -> None:
        """Stop what runs."""
        self.widget.detach()
        self.viewer.close()


def slide(weights: str) -> None:
    """A slider step in a viewer."""
    window = Window()
    window.open(SIDE, SIDE)
    window.widget.weights_box.choose(weights)
    for scale in scales(weights):
        window.widget.scale_box.setCurrentIndex(0 if weights else {2: 1, 4: 2}[scale])
        window.slider.setSliderDown(True)
        first = window.step(340)
        window.until(window.idle)
        positions = iter(range(350, 1000, 12))
        taken = timed(
            lambda positions=positions: window.step(next(positions)), pause=0.08
        )  # past the throttle
        title = f"scale {scale}: slider moved to picture painted"
        print(f"{title:41s} {taken}; the first of all {1000 * first:.0f} ms")
    window.close()


def large(weights: str) -> None:
    """Whether a window answers while a 6K image is coded."""
    window = Window()
    window.open(3456, 6144)
    window.widget.weights_box.choose(weights)
    window.slider.setSliderDown(True)
    first = window.step(300)
    gaps = Gaps()
    for position in range(320, 500, 30):
        window.step(position)
    print(f"6144x3456: the slider dragged (first step {first:.1f} s); {gaps.text()}")
    window.slider.setSliderDown(False)
    window.until(window.idle)
    window.widget.target_box.setCurrentIndex(1)  # a file size: the long way, with a search
    window.widget.bytes_box.setValue(800)
    before = window.widget._shown
    gaps = Gaps()
    started = time.perf_counter()
    window.widget.encode_button.click()
    window.until(lambda: window.widget._shown is not before)
    seconds = time.perf_counter() - started
    print(f"6144x3456: coded to 800 kB in {seconds:.1f} s; {gaps.text()}")
    window.close()


class Gaps:
    """How long the window did not answer: the time between ticks of a timer."""

    def __init__(self) -> None:
        from qtpy.QtCore import QTimer

        self.last, self.all = time.perf_counter(), []
        self.timer = QTimer()
        self.timer.timeout.connect(self.tick)
        self.timer.start(10)

    def tick(self) -> None:
        now = time.perf_counter()
        self.all.append(now - self.last)
        self.last = now

    def text(self) -> str:
        """Stops counting."""
        self.timer.stop()
        self.tick()
        longest = sorted(self.all)[-3:][::-1]
        return "the window's longest pauses: " + ", ".join(f"{1000 * x:.0f} ms" for x in longest)


def startup(weights: str) -> None:
    """What our plugin adds to napari's start, and that it brings no torch."""
    code = (
        "import sys, time; t = time.perf_counter(); import npe2;"
        "pm = npe2.PluginManager.instance(); pm.discover(); [pm.disable(p) for p in {0}];"
        "found = time.perf_counter() - t; import napari; v = napari.Viewer(show=False);"
        "print(found, time.perf_counter() - t, 'torch' in sys.modules)"
    )
    for off in (["napari-hyperthumb"], []):
        runs = [
            subprocess.run(
                [sys.executable, "-c", code.format(off)], capture_output=True, text=True, check=True
            ).stdout.split()
            for _ in range(5)
        ]
        found, window = (1000 * median(float(run[column]) for run in runs) for column in (0, 1))
        title = f"{'without' if off else 'with'} our plugin"
        print(f"{title:20s} plugins found {found:5.0f} ms, window {window:5.0f} ms, torch: {runs[0][2]}")


def scales(weights: str) -> tuple[int, ...]:
    """Those of a file with weights, or of the bundled ones."""
    from napari_hyperthumb._widget.preferences import models

    return tuple(models(weights) or (2, 4))


def every_part(weights: str) -> None:
    """Each scale's parts."""
    for scale in scales(weights):
        parts(scale, weights)


def main() -> None:
    wanted = {"startup": startup, "parts": every_part, "slider": slide, "large": large}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", help=f"only some of: {', '.join(wanted)}")
    parser.add_argument("--threads", type=int, help="threads of torch (default: its own choice)")
    parser.add_argument("--weights", default="", help="a .safetensors file (default: the bundled ones)")
    arguments = parser.parse_args()
    if arguments.threads:
        import torch

        torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NAPARI_CONFIG"] = f"{folder}/settings.yaml"  # not those of whoever runs this
        for name, measure in wanted.items():
            if name in (arguments.what or wanted):
                measure(arguments.weights)


if __name__ == "__main__":
    main()
