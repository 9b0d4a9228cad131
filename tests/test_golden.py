"""Files made once, never again (tests/golden/make.py): they must decode to the same pictures for ever."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_hyperthumb import Channel, decode, info, load_model, open_stack
from napari_hyperthumb.codec import WEIGHTS
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
    assert decoded.dtype == fmt.dtype
    assert decoded.shape == (shape if fmt.gray else (*shape, 3))
    assert_same(decoded, expected, fmt.range)


def assert_same(decoded: np.ndarray, expected: np.ndarray, value_range: tuple[float, float]) -> None:
    """As far as processors agree: at most one level of 8 bits, and that seldom."""
    assert (decoded.dtype, decoded.shape) == (expected.dtype, expected.shape)
    level = (value_range[1] - value_range[0]) / 255
    difference = abs(decoded.astype(np.float64) - expected)
    assert difference.max() <= level
    assert difference.mean() <= 0.02 * level


def test_golden_stack_is_what_it_always_was():
    stack = open_stack(GOLDEN / "stack-x2.ht.tif")
    assert (stack.layout.axes, stack.layout.shape, stack.dtype) == ("CZYX", (2, 2, 40, 56), np.uint16)
    assert stack.channels == (Channel("DAPI", (0, 0, 255)), Channel("µ", (0, 255, 0)))
    assert stack.ranges == ((0, 10_000), (900, 30_000))
    with np.load(GOLDEN / "stack-x2.npz") as expected:
        decoded = stack.decode(model=GOLDEN / "golden-x2.safetensors")
        for channel, value_range in enumerate(stack.ranges):
            assert_same(decoded[channel], expected["arr_0"][channel], value_range)


@pytest.fixture
def pyramid(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its weights are found by their digest."""
    pytest.importorskip("zarr")
    monkeypatch.setenv(WEIGHTS, str(GOLDEN / "golden-x2.safetensors"))
    return GOLDEN / "pyramid-x2.zarr"


def test_golden_pyramid_is_read_by_zarr_alone(pyramid):
    import zarr

    group = zarr.open_group(pyramid, mode="r")
    (image,) = group.attrs["ome"]["multiscales"]
    assert [dataset["path"] for dataset in image["datasets"]] == ["0", "1"]
    with np.load(GOLDEN / "pyramid-x2.npz") as expected:
        for level in "01":
            assert_same(group[level][...], expected[level], (0, 255))


def test_golden_pyramid_is_opened_in_napari(pyramid):
    pytest.importorskip("dask")
    from napari_hyperthumb._napari_large import read_pyramid

    ((levels, options, kind),) = read_pyramid(str(pyramid))
    assert (kind, options["name"], options["scale"]) == ("image", "pyramid-x2", [1, 1])
    with np.load(GOLDEN / "pyramid-x2.npz") as expected:
        for number, level in enumerate(levels):
            assert_same(level.compute(), expected[str(number)], (0, 255))
