"""A real JupyterLab in a real Chromium, for tests, screenshots and the explorer's benchmark."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
SIZE = {"width": 1480, "height": 1150}


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def jupyter_lab(folder: Path) -> Iterator[str]:
    """JupyterLab serving a folder; gives the address to put ``{}`` with a notebook's name into."""
    port, token = _free_port(), secrets.token_hex(16)
    home = folder / ".jupyter"
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
        *(f"--ServerApp.port={port}", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}"),
        *("--ServerApp.port_retries=0", "--LabApp.news_url=None"),
    ]
    # Settings and workspaces of whoever runs this stay out of it.
    places = {
        name: str(home) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTERLAB_SETTINGS_DIR")
    }
    places["JUPYTERLAB_WORKSPACES_DIR"] = str(home / "workspaces")
    quiet = home / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    log = (folder / "lab.log").open("w")
    server = subprocess.Popen(command, env={**os.environ, **places}, stdout=log, stderr=log)
    try:
        until = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token={token}", timeout=5).close()
                break
            except (urllib.error.URLError, OSError) as error:
                if server.poll() is not None or time.monotonic() > until:
                    text = (folder / "lab.log").read_text()
                    raise RuntimeError(f"JupyterLab didn't start:\n{text}") from error
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/lab/tree/{{}}?token={token}"
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        log.close()


@contextmanager
def chromium(size: dict[str, int] | None = None) -> Iterator[Any]:
    """A page of a browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield browser.new_page(viewport=size or SIZE)
        finally:
            browser.close()


def open_notebook(page: Any, address: str, name: str) -> None:
    """Open a notebook and wait for its kernel."""
    page.goto(address.format(name), timeout=120_000)
    page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=120_000)
    # The indicator beside the kernel's name says idle before there is a kernel.
    page.get_by_text("Python 3 (ipykernel) | Idle").first.wait_for(timeout=120_000)


def run_cells(page: Any, count: int) -> None:
    """Run the first cells, one after the other."""
    page.locator(".jp-Notebook .jp-Cell").first.click()
    page.keyboard.press("Escape")
    for _ in range(count):
        page.keyboard.press("Shift+Enter")


class Panel:
    """The explorer in a page."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.root = page.locator(".ht-explorer")
        self.canvas = self.root.locator(".ht-swipe canvas")
        self.errors: list[str] = []
        self.notebook = Path()
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def wait(self, seconds: float = 300) -> None:
        """Until the first picture, numbers and curve are there."""
        self.canvas.wait_for(timeout=1000 * seconds)
        self.root.locator(".ht-curves .point").wait_for(timeout=1000 * seconds)
        self.until(lambda: self.frame() > 0, seconds)
        self.root.scroll_into_view_if_needed()

    def rest(self, seconds: float = 120) -> None:
        """Until SSIM is there, which is measured when the slider rests."""
        self.until(lambda: "…" not in self.numbers().get("SSIM", "…"), seconds)

    def settle(self, seconds: float = 60) -> None:
        """Until the numbers are those of the rate that the slider says."""
        self.until(lambda: abs(self.rate() / self.slider_value() - 1) < 0.1, seconds)
        self.rest()

    def until(self, condition: Callable[[], object], seconds: float) -> None:
        """Look again and again until something is so."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it didn't happen in time"
            self.page.wait_for_timeout(50)

    def frame(self) -> int:
        """The number of the frame that is painted; 0 for none."""
        return int(self.root.locator(".ht-swipe").get_attribute("data-shown") or 0)

    def numbers(self) -> dict[str, str]:
        """Name to value, as shown."""
        cells = self.root.locator(".ht-cell")
        pairs = cells.evaluate_all("cells => cells.map(c => [...c.children].map(x => x.textContent))")
        return dict(pairs)

    def rate(self) -> float:
        """bpp of the file on screen."""
        return float(self.numbers()["Rate"].split()[0])

    def slider_value(self) -> float:
        """bpp that the slider says."""
        return float(self.root.locator(".widget-slider .widget-readout").first.inner_text())

    def point(self) -> tuple[float, float]:
        """Where the operating point is drawn, in the plot's own units."""
        dot = self.root.locator(".ht-curves .point")
        return float(dot.get_attribute("cx")), float(dot.get_attribute("cy"))

    def zoom(self) -> float:
        """Per cent."""
        return float(self.root.locator(".ht-tools output").inner_text().rstrip("%"))

    def pixels(self) -> str:
        """The drawn picture as a data address: equal only where every pixel is."""
        return str(self.canvas.evaluate("canvas => canvas.toDataURL()"))

    def colours(self, share: float) -> list[int]:
        """A column of drawn pixels at a share of the width, RGBA one after the other."""
        code = """(canvas, share) => Array.from(canvas.getContext("2d").getImageData(
            Math.round(share * canvas.width), canvas.height / 4, 1, canvas.height / 2).data)"""
        return list(self.canvas.evaluate(code, share))

    def kernel_is_idle(self) -> bool:
        """As JupyterLab's status bar says."""
        return bool(self.page.get_by_text("Python 3 (ipykernel) | Idle").count())

    def choose_right(self, name: str) -> None:
        """What lies right of the line."""
        self.root.locator("select").select_option(label=name)

    def click_curve(self, share: float) -> None:
        """Click at a share of the plot's width."""
        box = self.root.locator(".ht-curves svg").bounding_box()
        self.page.mouse.click(box["x"] + share * box["width"], box["y"] + 0.4 * box["height"])

    def drag_slider(self, pixels: float, steps: int = 10) -> None:
        """Drag the rate's handle so far to the right."""
        self.drag(self.root.locator(".widget-slider .noUi-handle").first, pixels, 0, steps)

    def drag_line(self, to: float, start: float = 0.5) -> None:
        """Drag the swipe line between two shares of the width."""
        width = self.canvas.bounding_box()["width"]
        self.drag(self.canvas, (to - start) * width, 0, 10, at=(start, 0.5))

    def drag(
        self, locator: Any, dx: float, dy: float, steps: int, at: tuple[float, float] = (0.5, 0.5)
    ) -> None:
        """Press the mouse at a share of an element's size, move, release."""
        box = locator.bounding_box()
        x, y = box["x"] + at[0] * box["width"], box["y"] + at[1] * box["height"]
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + dx, y + dy, steps=steps)
        self.page.mouse.up()
