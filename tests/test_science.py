"""docs/science.md: what it tells people to run, runs, in its order, on pictures of the names it uses."""

from __future__ import annotations

import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from documents import blocks
from PIL import Image
from samples import make_photo
from typer.testing import CliRunner

from napari_hyperthumb.cli import app

for module in ("zarr", "distributed", "imagecodecs", "napari"):
    pytest.importorskip(module)

SCIENCE = Path(__file__).parents[1] / "docs" / "science.md"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What its commands read."""
    monkeypatch.chdir(tmp_path)
    photo = make_photo(160, 200)
    cells = np.stack([[photo[..., c].astype(np.uint16) * (40 * c + 3) for _ in range(2)] for c in range(2)])
    tifffile.imwrite("cells.tif", cells[0, 0])
    tifffile.imwrite("cells.ome.tif", cells, metadata={"axes": "CZYX"}, photometric="minisblack")
    tifffile.imwrite("stack.tif", cells[0, :, :48, :64], photometric="minisblack", metadata=None)
    tifffile.imwrite("slide.tif", photo, photometric="rgb", tile=(64, 64))
    Path("pictures").mkdir()
    for name in ("photo.png", "pictures/1.png", "pictures/2.png"):
        Image.fromarray(photo[:64, :96]).save(name)
    return tmp_path


@pytest.fixture
def background() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that end with the test."""
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def run_line(line: str, address: str, background: list[subprocess.Popen[bytes]]) -> str:
    """One line of a shell block; what it printed. Our command runs in this process: it's loaded already."""
    words = shlex.split(line.replace("host:8786", address), comments=True)
    if words[:2] == ["dask", "scheduler"]:
        host, port = address.split(":")
        words[2:2] = ["--host", host, "--port", port, "--no-dashboard"]
    if words[0] == "dask":
        assert words[-1] == "&"
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        background.append(subprocess.Popen([sys.executable, "-m", *words[:-1]], **quiet))
        return ""
    assert words[0] == "hyperthumb", line
    result = CliRunner().invoke(app, words[1:], catch_exceptions=False)
    assert result.exit_code == 0, f"{line}\n{result.output}"
    return result.output


def test_everything_in_it_runs(folder: Path, background: list[subprocess.Popen[bytes]]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    from napari.components import ViewerModel
    from npe2 import PluginManager

    PluginManager.instance().discover()  # as napari does when it starts
    viewer = ViewerModel()
    names = {"viewer": viewer}
    printed = []
    found = blocks(SCIENCE.read_text(encoding="utf-8"))
    assert [block.language for block in found] == ["sh", "text", "python", "sh", "sh", "sh", "sh", "python"]
    for block in found:
        if block.language == "python":
            exec(compile(block.text, f"science.md, line {block.line}", "exec"), names)
        elif block.language == "sh":
            printed += [run_line(line, address, background) for line in block.text.splitlines()]
    given = {"cells.tif", "cells.ome.tif", "stack.tif", "slide.tif", "pictures", "photo.png"}
    assert {path.name for path in folder.iterdir()} - given - {"dask-scratch-space"} == {
        "cells.ht.jpg",
        "clipped.ht.jpg",
        "narrow.ht.jpg",
        "cells.ht.tif",
        "stack.ht.tif",
        "ranges.ht.tif",
        "cells-again.tif",
        "slide.zarr",
        "thumbnails",
        "photo.ht.jxl",
    }
    assert "error at most" in printed[0] and "RMS" in printed[0]
    assert len(names["stack"].costs or ()) == 0  # of the opened one; its array:
    assert names["array"].shape == tifffile.imread("cells-again.tif").shape == (2, 2, 160, 200)
    assert len(list((folder / "thumbnails").iterdir())) == 2
    assert any("found done" in text for text in printed)
    (layer,) = viewer.layers
    assert layer.multiscale and layer.rgb and layer.data[0].shape == (160, 200, 3)
