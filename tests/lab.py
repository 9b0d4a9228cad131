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
from collections.abc import Iterator
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
    page.goto(address.format(name))
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

    def wait(self, seconds: float = 300) -> None:
        """Until the first picture, numbers and curve are there."""
        self.canvas.wait_for(timeout=1000 * seconds)
        self.root.locator(".ht-curves .point").wait_for(timeout=1000 * seconds)
        self.page.wait_for_function(
            "() => document.querySelector('.ht-swipe .ht-tag.right')?.textContent", timeout=1000 * seconds
        )

    def numbers(self) -> dict[str, str]:
        """Name to value, as shown."""
        cells = self.root.locator(".ht-cell")
        pairs = cells.evaluate_all("cells => cells.map(c => [...c.children].map(x => x.textContent))")
        return dict(pairs)

    def point(self) -> tuple[float, float]:
        """Where the operating point is drawn, in the plot's own units."""
        dot = self.root.locator(".ht-curves .point")
        return float(dot.get_attribute("cx")), float(dot.get_attribute("cy"))

    def pixels(self) -> str:
        """The drawn picture as a data address: equal only where every pixel is."""
        return str(self.canvas.evaluate("canvas => canvas.toDataURL()"))

    def drag_slider(self, pixels: float, steps: int = 10) -> None:
        """Drag the rate's handle so far to the right."""
        self.drag(self.root.locator(".widget-slider .noUi-handle").first, pixels, 0, steps)

    def drag_line(self, pixels: float) -> None:
        """Drag the swipe line from the middle so far to the right."""
        self.drag(self.canvas, pixels, 0, 10)

    def drag(self, locator: Any, dx: float, dy: float, steps: int) -> None:
        box = locator.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + dx, y + dy, steps=steps)
        self.page.mouse.up()
