"""Notebook 02 in JupyterLab, driven by a real Chromium as a student would."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("anywidget", reason="needs the extra [notebook]")
pytest.importorskip("playwright", reason="needs the extra [test]")

from lab import CHROMIUM, Panel, chromium, jupyter_lab, open_notebook, run_cells

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "02_rate_distortion.ipynb"
UNTIL_PANEL = 4
"""Cells up to the explorer."""
SECONDS = 60

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")


@pytest.fixture(scope="module")
def panel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Panel]:
    folder = tmp_path_factory.mktemp("lab")
    shutil.copy(NOTEBOOK, folder)
    with jupyter_lab(folder) as address, chromium() as page:
        open_notebook(page, address, NOTEBOOK.name)
        run_cells(page, UNTIL_PANEL)
        panel = Panel(page)
        panel.notebook = folder / NOTEBOOK.name
        panel.wait()
        panel.rest()
        yield panel
        if picture := os.environ.get("HYPERTHUMB_SCREENSHOT"):
            before = panel.slider_value()
            panel.click_curve(0.3)
            panel.until(lambda: panel.slider_value() != before, SECONDS)
            panel.until(lambda: "AVIF" in panel.root.locator(".ht-curves").inner_text(), 300)
            panel.settle()
            panel.root.screenshot(path=picture)


def test_the_slider_moves_picture_numbers_and_point(panel: Panel) -> None:
    numbers, point, pixels = panel.numbers(), panel.point(), panel.pixels()
    frame = panel.frame()
    panel.drag_slider(90)
    panel.until(lambda: panel.frame() > frame, SECONDS)
    panel.settle()
    after = panel.numbers()
    assert int(after["File"].split()[0].replace(",", "")) > int(numbers["File"].split()[0].replace(",", ""))
    assert float(after["PSNR"].split()[0]) > float(numbers["PSNR"].split()[0])
    assert panel.point()[1] < point[1]  # upwards
    assert panel.pixels() != pixels


def test_fast_dragging_ends_on_the_last_value(panel: Panel) -> None:
    panel.drag_slider(-200, steps=50)
    wanted = panel.slider_value()
    panel.settle()
    assert panel.slider_value() == wanted
    panel.until(panel.kernel_is_idle, SECONDS)


def test_the_line_is_dragged_in_the_page_alone(panel: Panel) -> None:
    frame, before = panel.frame(), panel.pixels()
    left, right = panel.colours(0.2), panel.colours(0.8)
    panel.drag_line(0.0)
    panel.until(lambda: panel.pixels() != before, SECONDS)
    panel.drag_line(0.9, start=0.0)
    assert panel.frame() == frame  # nothing came from the kernel
    assert panel.colours(0.2) == left  # the original again, as it was left of the line before
    assert panel.colours(0.8) != right  # the original, where the reconstruction was
    panel.drag_line(0.5, start=0.9)
    panel.until(lambda: panel.pixels() == before, SECONDS)


def test_a_click_on_the_curve_goes_there(panel: Panel) -> None:
    point = panel.point()
    panel.click_curve(0.8)
    panel.until(lambda: panel.point()[0] > point[0] + 30, SECONDS)
    panel.settle()


def test_zoom_and_pan(panel: Panel) -> None:
    fitted, pixels = panel.zoom(), panel.pixels()
    panel.root.get_by_label("Zoom in").click()
    assert panel.zoom() > fitted
    zoomed = panel.pixels()
    assert zoomed != pixels
    panel.drag(panel.canvas, 60, 40, 5, at=(0.25, 0.5))
    assert panel.pixels() != zoomed
    panel.canvas.hover()
    panel.page.mouse.wheel(0, -300)
    panel.page.wait_for_timeout(200)
    assert panel.zoom() > 1.4 * fitted
    panel.root.get_by_label("The whole picture").click()
    assert panel.pixels() == pixels


def test_other_pictures_on_the_right(panel: Panel) -> None:
    panel.settle()  # a quick look may still be on screen
    seen = {panel.pixels()}
    for right in ("Error map", "Thumbnail", "JPEG", "Reconstruction"):
        frame = panel.frame()
        panel.choose_right(right)
        panel.until(lambda frame=frame: panel.frame() > frame, SECONDS)
        panel.rest()
        seen.add(panel.pixels())
    assert len(seen) == 4
    assert panel.errors == []


def test_a_saved_notebook_keeps_a_picture(panel: Panel) -> None:
    def pictures() -> list[str]:
        try:
            cells = json.loads(panel.notebook.read_text())["cells"]
        except json.JSONDecodeError:  # half written
            return []
        data = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
        return [one["image/jpeg"] for one in data if "image/jpeg" in one]

    before = pictures()  # those the notebook came with
    panel.drag_slider(-60)
    panel.settle()
    panel.page.wait_for_timeout(5000)  # the picture is drawn once the slider rests
    panel.page.keyboard.press("Escape")
    panel.page.keyboard.press("Control+s")
    panel.until(lambda: len(pictures()) == 1 and pictures() != before, SECONDS)
    assert not panel.page.locator(
        ".jp-OutputArea-child:has(.ht-explorer) + .jp-OutputArea-child"
    ).is_visible()
