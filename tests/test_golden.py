"""Files made once, never again (tests/golden/make.py): they must decode to the same pictures for ever."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_hyperthumb import decode, info, load_model
from napari_hyperthumb.pixels import Format

GOLDEN = Path(__file__).parent / "golden"
DIGESTS = {2: "eb0607c4ec8e5185", 4: "9d71a2484098bfac"}
# Name: scale, HR size, format.
FILES = {
    "rgb-x2": (2, (64, 80), Format()),
    "gray-x4": (4, (64, 80), Format(gray=True)),
    "uint16-x2": (2, (64, 80), Format("uint16", (7000.0, 48200.0), True)),
    "odd-x4": (4, (37, 51), Format()),
    "rgb-version-2-x4": (4, (64, 80), Format()),
    "float32-version-2-x2": (2, (50, 70), Format("float32", (1.2857141494750977, 30.71428680419922), True)),
}


@pytest.mark.parametrize("scale", DIGESTS)
def test_golden_weights_load_and_keep_their_digest(scale):
    model = load_model(GOLDEN / f"golden-x{scale}.safetensors")
    assert (model.scale, model.digest) == (scale, DIGESTS[scale])


@pytest.mark.parametrize("name", FILES)
def test_golden_file_says_what_it_always_said(name):
    scale, shape, fmt = FILES[name]
    found = info(GOLDEN / f"{name}.ht.jpg")
    assert (found.scale, found.shape, found.format) == (scale, shape, fmt)
    assert (found.model, found.digest) == (f"golden-x{scale}", DIGESTS[scale])
    assert found.lost == ()


@pytest.mark.parametrize("name", FILES)
def test_golden_file_decodes_to_the_picture_it_always_was(name):
    scale, shape, fmt = FILES[name]
    if (GOLDEN / f"{name}.npy").exists():
        expected = np.load(GOLDEN / f"{name}.npy")
    else:
        with Image.open(GOLDEN / f"{name}.png") as image:
            expected = np.asarray(image)
    decoded = decode(GOLDEN / f"{name}.ht.jpg", model=GOLDEN / f"golden-x{scale}.safetensors")
    assert decoded.dtype == expected.dtype == fmt.dtype
    assert decoded.shape == expected.shape == (shape if fmt.gray else (*shape, 3))
    level = (fmt.range[1] - fmt.range[0]) / 255
    difference = abs(decoded.astype(np.float64) - expected)
    assert difference.max() <= level
    assert difference.mean() <= 0.02 * level
