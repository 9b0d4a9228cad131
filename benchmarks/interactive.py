"""How live the live preview is: a slider step on a 512x512 visible region, with its parts.

    xvfb-run -a -s "-screen 0 1600x1000x24" python benchmarks/interactive.py

Prints medians of: the step as a whole (slider moved to layers updated and painted), and its parts; the
longest time the window didn't answer while a 6K image (6144x3456) is coded; and what the plugin adds
to napari's start. --no-window leaves out everything that needs a screen.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

import numpy as np

SIDE = 512
STEPS = 24


def picture(height: int, width: int) -> np.ndarray:
    """A photograph, repeated."""
    from skimage import data

    photo = data.coffee()
    return np.tile(photo, (-(-height // photo.shape[0]), -(-width // photo.shape[1]), 1))[:height, :width]


def timed(work: Callable[[], object], times: int = STEPS) -> float:
    """Median milliseconds."""
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return 1000 * median(taken)


def parts(scale: int) -> None:
    """What a step consists of, without a window."""
    from napari_hyperthumb.bitstream import read_jpeg
    from napari_hyperthumb.pipeline import reconstruct
    from napari_hyperthumb.session import Session

    session = Session(picture(SIDE, SIDE))
    started = time.perf_counter()
    prepared = session.prepare(scale)
    print(f"scale {scale}: preparing the region, once   {1000 * (time.perf_counter() - started):7.0f} ms")
    levels = iter(np.resize(np.linspace(-1, 1, 7), 10_000))
    coding = prepared.code(0.0)
    contents = read_jpeg(coding.data)
    arguments = (contents.quantised, contents.tables, prepared.shape, session.format, prepared.model)
    rows = {
        "tables": lambda: prepared.tables(next(levels)),
        "thumbnail's planes": lambda: prepared.lr_planes(next(levels)),
        "planes, quantised and written": lambda: prepared.code(next(levels)),
        "file read": lambda: read_jpeg(coding.data),
        "reconstruction": lambda: reconstruct(*arguments, session.device),
        "step in all, with PSNR": lambda: session.step(next(levels), scale),
    }
    for name, work in rows.items():
        print(f"scale {scale}: {name:32s} {timed(work):7.0f} ms")


def window() -> None:
    """The same in a viewer, and whether it answers while a large image is coded."""
    import napari
    from qtpy.QtWidgets import QApplication

    viewer = napari.Viewer()
    viewer.window.resize(1300, 900)
    viewer.add_image(picture(SIDE, SIDE), rgb=True, name="photo")
    _, widget = viewer.window.add_plugin_dock_widget("napari-hyperthumb", "Encode")

    def until(condition: Callable[[], object]) -> float:
        """Process events until something is so; the longest time that took in one go, in seconds."""
        longest = 0.0
        while not condition():
            started = time.perf_counter()
            QApplication.processEvents()
            longest = max(longest, time.perf_counter() - started)
            time.sleep(0.001)
        return longest

    def idle() -> bool:
        return not (widget._runner.busy or widget._background.busy)

    slider = widget.slider.slider
    for scale in (2, 4):
        widget.scale_box.setCurrentIndex({2: 1, 4: 2}[scale])
        widget.slider.box.setValue(0.3)
        until(lambda: widget._shown is not None)
        until(idle)
        slider.setSliderDown(True)
        taken = []
        for number in range(STEPS + 2):
            before = widget._shown
            time.sleep(0.08)  # past the throttle
            started = time.perf_counter()
            slider.setValue(350 + 12 * number)
            until(lambda before=before: widget._shown is not before)
            QApplication.processEvents()
            taken.append(time.perf_counter() - started)
        print(f"scale {scale}: slider moved to picture painted     {1000 * median(taken[2:]):7.0f} ms")
        slider.setSliderDown(False)
        until(idle)

    viewer.layers.clear()
    viewer.add_image(picture(3456, 6144), rgb=True, name="large")
    until(idle)
    widget.encode_button.click()
    started = time.perf_counter()
    longest = until(lambda: widget._shown is not None)
    seconds = time.perf_counter() - started
    print(f"6144x3456 encoded in {seconds:.1f} s; the window's longest pause: {1000 * longest:.0f} ms")
    widget.detach()
    viewer.close()


def startup() -> None:
    """What finding our plugin adds to npe2, and that it brings no torch."""
    code = (
        "import sys, time, npe2, napari.settings;"
        "pm = npe2.PluginManager.instance(); t = time.perf_counter();"
        "pm.discover(); pm.activate('napari-hyperthumb') if {0} else None;"
        "print(time.perf_counter() - t, 'torch' in sys.modules)"
    )
    for active in (False, True):
        runs = [
            subprocess.run(
                [sys.executable, "-c", code.format(active)], capture_output=True, text=True, check=True
            ).stdout.split()
            for _ in range(5)
        ]
        what = "plugins found" if not active else "plugins found, ours activated"
        print(f"{what:39s} {1000 * median(float(r[0]) for r in runs):7.0f} ms, torch imported: {runs[0][1]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no-window", action="store_true", help="only what needs no screen")
    parser.add_argument("--threads", type=int, help="threads of torch (default: its own choice)")
    arguments = parser.parse_args()
    if arguments.threads:
        import torch

        torch.set_num_threads(arguments.threads)
    startup()
    for scale in (2, 4):
        parts(scale)
    if not arguments.no_window:
        window()


if __name__ == "__main__":
    main()
