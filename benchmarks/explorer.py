"""How live the notebook explorer is: from the slider's key to the picture painted in the page.

    python benchmarks/explorer.py [--steps 24] [--threads 2]

A real JupyterLab in a real Chromium explores a 512x512 photograph. Prints the median and the slowest
of some slider steps, at both scales, and how long after 50 quick ones the last value is on screen.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from lab import Panel, chromium, jupyter_lab, open_notebook, run_cells

STEP = """async ([key, pause]) => {
  const view = document.querySelector(".ht-swipe");
  const handle = document.querySelector(".ht-explorer .noUi-handle");
  const before = view.dataset.shown, started = performance.now();
  const painted = new Promise((done) => new MutationObserver((_, observer) => {
    if (view.dataset.shown !== before) { observer.disconnect(); done(performance.now() - started); }
  }).observe(view, { attributes: true }));
  handle.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  const taken = await painted;
  await new Promise((done) => setTimeout(done, pause));
  return taken;
}"""


def notebook(threads: int | None) -> str:
    """One cell with the explorer."""
    code = (
        f"import torch; torch.set_num_threads({threads})\n" if threads else ""
    ) + "from skimage import data\nfrom napari_hyperthumb import explore\nexplore(data.astronaut(), bpp=0.3)"
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "execution_count": None, "outputs": []}
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    whole = {"cells": [{**cell, "source": code}], "metadata": {"kernelspec": kernel}}
    return json.dumps({**whole, "nbformat": 4, "nbformat_minor": 5})


def measure(panel: Panel, steps: int) -> None:
    """Steps one by one, then 50 in a row."""
    for label in ("×2", "×4"):
        panel.root.get_by_role("button", name=label).click()
        panel.page.wait_for_timeout(1500)
        panel.rest()
        taken = []
        for number in range(steps):
            key = "ArrowLeft" if number < steps // 2 else "ArrowRight"
            taken.append(panel.page.evaluate(STEP, [key, 60]))
        print(
            f"scale {label}: slider moved to picture painted: median {median(taken):.0f} ms, "
            f"slowest {max(taken):.0f} ms of {steps}"
        )
        panel.rest()
    panel.drag_slider(-150, steps=50)
    started, wanted = time.perf_counter(), panel.slider_value()
    panel.until(lambda: abs(panel.rate() / wanted - 1) < 0.1, 60)
    print(f"50 quick steps: the last value on screen {1000 * (time.perf_counter() - started):.0f} ms after")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--threads", type=int, help="threads of torch (default: its own choice)")
    parser.add_argument("--wait", action="store_true", help="ask before measuring, to quieten the machine")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "explorer.ipynb").write_text(notebook(arguments.threads))
        with jupyter_lab(folder) as address, chromium() as page:
            open_notebook(page, address, "explorer.ipynb")
            run_cells(page, 1)
            panel = Panel(page)
            panel.wait()
            # Other codecs' curves are measured once, in the background; they aren't what is timed here.
            panel.until(lambda: "AVIF" in panel.root.locator(".ht-curves").inner_text(), 300)
            page.wait_for_timeout(3000)
            if arguments.wait:
                input("ready; press Enter ")
            measure(panel, arguments.steps)


if __name__ == "__main__":
    main()
