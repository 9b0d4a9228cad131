"""A thumbnail is an ordinary picture to programs that know nothing of us: ImageMagick and a browser."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from samples import make_photo

from napari_hyperthumb.checkpoint import Model
from napari_hyperthumb.codec import encode

# By their full names: elsewhere on the PATH there may be wrappers that draw nothing.
IDENTIFY, CONVERT, CHROMIUM = Path("/usr/bin/identify"), Path("/usr/bin/convert"), Path("/usr/bin/chromium")
TOLERANCE = 3
"""8-bit levels that decoders may differ by: in the inverse DCT and the colour conversion."""


@pytest.fixture(scope="module")
def thumbnails(models: dict[int, Model], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Colour and gray, both scales, no side of a thumbnail a multiple of 8."""
    folder = tmp_path_factory.mktemp("thumbnails")
    pictures = {"colour": make_photo(90, 141), "gray": make_photo(75, 102)[:, :, 0]}
    paths = []
    for scale, model in models.items():
        for name, picture in pictures.items():
            paths.append(folder / f"{name}-x{scale}.ht.jpg")
            encode(picture, level=0.5, model=model).save(paths[-1])
    return paths


def pillow(path: Path) -> np.ndarray:
    """(h, w) or (h, w, 3) uint8."""
    with Image.open(path) as image:
        assert image.width % 8
        assert image.height % 8
        return np.asarray(image)


def assert_close(shown: np.ndarray, expected: np.ndarray) -> None:
    assert shown.shape == expected.shape
    assert expected.std() > 20
    assert np.abs(shown.astype(int) - expected).max() <= TOLERANCE


def run(*command: object, timeout: float = 60) -> str:
    words = list(map(str, command))
    done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not IDENTIFY.exists(), reason="no ImageMagick; `make system` installs it")
def test_imagemagick_knows_size_and_colours(thumbnails):
    for path in thumbnails:
        expected = pillow(path)
        kind = "sRGB" if expected.ndim == 3 else "Gray"
        words = run(IDENTIFY, "-format", "%m %w %h %z %[colorspace]", path).split()
        assert words == ["JPEG", str(expected.shape[1]), str(expected.shape[0]), "8", kind]


@pytest.mark.skipif(not CONVERT.exists(), reason="no ImageMagick; `make system` installs it")
def test_imagemagick_shows_the_same_pixels(thumbnails, tmp_path):
    for path in thumbnails:
        run(CONVERT, path, "-depth", "8", tmp_path / "out.png")
        with Image.open(tmp_path / "out.png") as image:
            assert_close(np.asarray(image), pillow(path))


@pytest.mark.skipif(not CHROMIUM.exists(), reason="no Chromium; `make system` installs it")
def test_browser_shows_the_same_pixels(thumbnails, tmp_path):
    pictures = [pillow(path) for path in thumbnails]
    width, height = max(p.shape[1] for p in pictures), sum(p.shape[0] for p in pictures)
    images = "".join(f'<img src="{path.as_uri()}" style="display: block">' for path in thumbnails)
    page = tmp_path / "page.html"
    page.write_text(f'<!doctype html><body style="margin: 0; background: #123456">{images}</body>')
    run(
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--force-color-profile=srgb", "--force-device-scale-factor=1", "--hide-scrollbars",
        f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={max(width, 600)},{height + 100}",
        f"--screenshot={tmp_path / 'screenshot.png'}", page.as_uri(),
        timeout=300,
    )  # fmt: skip
    with Image.open(tmp_path / "screenshot.png") as image:
        screenshot = np.asarray(image.convert("RGB"))
    top = 0
    for picture in pictures:
        rows, columns = picture.shape[:2]
        shown = screenshot[top : top + rows]
        assert_close(shown[:, :columns], picture if picture.ndim == 3 else np.dstack([picture] * 3))
        assert (shown[:, columns:] == (0x12, 0x34, 0x56)).all()  # at its natural size
        top += rows
