"""Other codecs at equal size, curves, and the sheet."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from samples import make_photo

from napari_hyperthumb.checkpoint import Model
from napari_hyperthumb.codec import Thumbnail, decode, encode
from napari_hyperthumb.compare import (
    Codec,
    Coded,
    available_codecs,
    closest,
    compare,
    hyperthumb,
    rd_points,
)
from napari_hyperthumb.errors import HyperThumbError, ImageError
from napari_hyperthumb.sheet import MARGIN, _crops, sheet

CODECS = available_codecs(psnr_tuned=True)
each_codec = pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)


def counting(decoded: np.ndarray, sizes: Callable[[float], int] = int) -> tuple[Codec, list[float]]:
    """A codec whose file of quality q has sizes(q) bytes and decodes to `decoded`; and what it was asked."""
    asked: list[float] = []

    def encode(image: np.ndarray, quality: float) -> bytes:
        asked.append(quality)
        return bytes(sizes(quality))

    qualities = tuple(map(float, range(10, 100)))
    return Codec("counting", encode, lambda data: decoded, qualities, qualities[::10]), asked


@pytest.fixture(scope="module")
def ours(photo: np.ndarray, models: dict[int, Model]) -> tuple[Thumbnail, np.ndarray]:
    thumbnail = encode(photo, level=0.0, model=models[2])
    return thumbnail, decode(thumbnail.data, model=models[2])


# ---- codecs ----------------------------------------------------------------------------------


@each_codec
@pytest.mark.parametrize("gray", [False, True], ids=["rgb", "gray"])
def test_codecs_give_back_the_shape(codec: Codec, gray: bool, photo: np.ndarray) -> None:
    image = np.ascontiguousarray(photo[:33, :47, 0]) if gray else photo[:33, :47]
    coded = closest(codec, image, 10**6)
    assert coded.image.shape == image.shape
    assert coded.image.dtype == np.uint8
    assert coded.psnr > 30


@each_codec
def test_ladders_climb_within_the_qualities(codec: Codec) -> None:
    for steps in (codec.qualities, codec.ladder):
        assert list(steps) == sorted(set(steps))
    assert codec.qualities[0] <= codec.ladder[0] < codec.ladder[-1] <= codec.qualities[-1]


def test_the_shorter_of_baseline_and_progressive_jpeg_is_taken() -> None:
    y, x = np.mgrid[:256, :256]
    waves = (128 + 60 * np.sin(x * y / 900) + 60 * np.cos((x + 2 * y) / 11)).astype(np.uint8)
    for image, progressive in ((waves, True), (waves[:16, :16], False)):
        files = []
        for way in (False, True):
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "JPEG", quality=60, optimize=True, progressive=way)
            files.append(buffer.getvalue())
        assert (len(files[True]) < len(files[False])) == progressive
        assert CODECS[0].encode(image, 60) == files[progressive]


def test_without_imagecodecs_there_is_no_jpeg_xl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    names = [codec.name for codec in available_codecs()]
    assert names[0] == "JPEG"
    assert "JPEG XL" not in names


def test_import_is_light() -> None:
    code = "import sys, napari_hyperthumb.compare; print([m for m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    for heavy in ("torch", "matplotlib", "qtpy", "napari", "skimage"):
        assert f"'{heavy}'" not in loaded


# ---- closest ---------------------------------------------------------------------------------


@each_codec
def test_closest_takes_the_largest_file_that_fits(codec: Codec, photo: np.ndarray) -> None:
    wanted = 2000
    coded = closest(codec, photo, wanted)
    assert coded.nbytes <= wanted
    assert not coded.exceeds
    at = codec.qualities.index(coded.quality)
    assert len(codec.encode(photo, codec.qualities[at + 1])) > wanted
    assert coded.data == codec.encode(photo, codec.qualities[at])


@each_codec
def test_closest_marks_what_exceeds(codec: Codec, photo: np.ndarray) -> None:
    coded = closest(codec, photo, 10)
    assert coded.exceeds
    assert coded.quality == codec.qualities[0]
    assert coded.nbytes == len(codec.encode(photo, codec.qualities[0])) > 10


@pytest.mark.parametrize(
    ("wanted", "quality", "exceeds"),
    [(57, 57, False), (10, 10, False), (99, 99, False), (10**9, 99, False), (9, 10, True), (0, 10, True)],
)
def test_closest_bisects(wanted: int, quality: float, exceeds: bool) -> None:
    image = np.zeros((4, 4), np.uint8)
    codec, asked = counting(image)
    coded = closest(codec, image, wanted)
    assert (coded.quality, coded.exceeds) == (quality, exceeds)
    assert coded.nbytes == quality
    assert len(asked) <= 8


def test_closest_on_sizes_that_do_not_always_rise() -> None:
    image = np.zeros((4, 4), np.uint8)
    codec, _ = counting(image, lambda q: int(q) + (7 if q % 3 == 0 else 0))
    for wanted in range(17, 110):
        assert closest(codec, image, wanted).nbytes <= wanted


def test_psnr_checked_by_hand() -> None:
    image = np.full((8, 8), 100, np.uint8)
    codec, _ = counting(np.full((8, 8), 105, np.uint8))
    coded = closest(codec, image, 50)
    assert coded.psnr == pytest.approx(34.1514, abs=1e-4)  # 10 log10(255^2 / 25)
    assert coded.ssim is None


def test_ssim_on_request_where_its_window_fits() -> None:
    for side, known in ((10, False), (11, True)):
        image = np.full((side, 30), 100, np.uint8)
        codec, _ = counting(image)
        assert closest(codec, image, 50, with_ssim=True).ssim == (pytest.approx(1) if known else None)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint16),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4), np.uint8),
        np.zeros((2, 2, 2, 3), np.uint8),
        np.zeros(5, np.uint8),
    ],
    ids=["16-bit", "alpha", "empty", "stack", "line"],
)
def test_other_images_are_refused(image: np.ndarray) -> None:
    codec, _ = counting(image)
    for act in (lambda: closest(codec, image, 50), lambda: next(rd_points(codec, image))):
        with pytest.raises(ImageError, match="the image"):
            act()


# ---- compare ---------------------------------------------------------------------------------


def test_compare_at_our_bytes(photo: np.ndarray, ours: tuple[Thumbnail, np.ndarray]) -> None:
    thumbnail, decoded = ours
    done: list[float] = []
    rows = compare(photo, thumbnail, decoded, progress=done.append, with_ssim=True)
    assert [row.name for row in rows] == ["HyperThumb x2", *(codec.name for codec in available_codecs())]
    assert rows[0].data == thumbnail.data
    assert all(row.nbytes <= thumbnail.nbytes or row.exceeds for row in rows[1:])
    assert all(row.ssim is not None and 0 < row.ssim < 1 for row in rows)
    assert len(done) == len(rows) - 1
    assert done[-1] == 1


def test_compare_leaves_out_formats_that_are_too_small(
    photo: np.ndarray, ours: tuple[Thumbnail, np.ndarray]
) -> None:
    codec, asked = counting(photo)
    narrow = replace(codec, max_side=129)
    assert len(compare(photo, *ours, codecs=[narrow])) == 1
    assert not asked
    with pytest.raises(ImageError, match="at most 129 pixels"):
        closest(narrow, photo, 50)


def test_compare_needs_one_shape(photo: np.ndarray, ours: tuple[Thumbnail, np.ndarray]) -> None:
    with pytest.raises(ImageError, match="has shape"):
        compare(photo[:-1], *ours)


# ---- curves ----------------------------------------------------------------------------------


def test_rd_points_one_at_a_time() -> None:
    image = np.full((10, 8), 100, np.uint8)
    codec, asked = counting(image + np.uint8(5))
    points = rd_points(codec, image)
    first = next(points)
    assert (first.quality, first.nbytes, first.bpp) == (10, 10, 1)
    assert first.psnr == pytest.approx(34.1514, abs=1e-4)
    assert asked == [10]
    assert [point.nbytes for point in points] == list(codec.ladder[1:])
    assert [point.quality for point in rd_points(codec, image, [20, 30])] == [20, 30]


@pytest.mark.parametrize("scale", [2, 4])
def test_ours_as_a_codec(scale: int, photo: np.ndarray, model_paths: dict[int, Path]) -> None:
    codec = hyperthumb(model=model_paths[scale], device="cpu")
    assert codec.name == f"HyperThumb x{scale}"
    assert len(codec.ladder) == 9
    assert (codec.ladder[0], codec.ladder[-1]) == (-1, 1)
    image = photo[:40, :51]
    (point,) = rd_points(codec, image, [0.5])
    data = encode(image, level=0.5, model=model_paths[scale], device="cpu").data
    assert point.nbytes == len(data)
    assert point.bpp == pytest.approx(8 * len(data) / (40 * 51))


# ---- the sheet -------------------------------------------------------------------------------


def coded(name: str, image: np.ndarray, noise: int = 9) -> Coded:
    rng = np.random.default_rng(len(name))
    worse = np.clip(image + rng.integers(-noise, noise + 1, image.shape), 0, 255).astype(np.uint8)
    return Coded(name, bytes(1234), worse, 30.0)


SHAPES = [(1, 1), (32, 32), (33, 47), (7, 300, 3), (300, 7), (96, 130, 3), (300, 421, 3), (160, 128)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("count", [1, 4])
def test_sheet_of_any_shape(shape: tuple[int, ...], count: int) -> None:
    image = make_photo(*shape[:2])
    image = image if len(shape) == 3 else np.ascontiguousarray(image[:, :, 0])
    names = ("HyperThumb x2", "JPEG", "a codec with a name longer than any crop is wide", "AVIF")
    page = sheet(image, [coded(name, image) for name in names[:count]])
    pixels = np.asarray(page)
    assert page.mode == "RGB"
    # Nothing is cut off: the margins are white on all sides, and it isn't an empty page.
    for side in (pixels[:MARGIN], pixels[-MARGIN:], pixels[:, :MARGIN], pixels[:, -MARGIN:]):
        assert (side == 255).all()
    assert (pixels != 255).any()
    assert (count + 1) * 200 < page.width < 4000
    assert 200 < page.height < 2000


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_crops_lie_inside_and_apart(shape: tuple[int, ...]) -> None:
    image = make_photo(*shape[:2])
    image = image if len(shape) == 3 else np.ascontiguousarray(image[:, :, 0])
    rows = [coded("one", image), coded("another", image)]
    crops = _crops(image, rows)
    assert 1 <= len(crops) <= 3
    assert crops == _crops(image, rows)
    times = np.zeros(image.shape[:2], int)
    for crop in crops:
        assert min(crop.rows.start, crop.columns.start) >= 0
        assert crop.rows.stop <= shape[0] and crop.columns.stop <= shape[1]
        times[crop.rows, crop.columns] += 1
    assert times.max() == 1
    if min(image.shape[:2]) >= 96:
        assert len(crops) == 3


def test_the_first_crop_shows_where_codecs_differ() -> None:
    image = make_photo(300, 400)
    bad = image.copy()
    bad[210:240, 310:340] ^= 64
    crops = _crops(image, [Coded("a", b"", image, 99.0), Coded("b", b"", bad, 30.0)])
    assert crops[0].rows.start <= 210 and crops[0].rows.stop >= 240
    assert crops[0].columns.start <= 310 and crops[0].columns.stop >= 340


def test_crops_are_enlarged_pixel_by_pixel() -> None:
    image = make_photo(32, 32)
    page = np.asarray(sheet(image, [coded("JPEG", image)]))
    enlarged = image.repeat(8, 0).repeat(8, 1)
    windows = np.lib.stride_tricks.sliding_window_view(page[:, MARGIN : MARGIN + 256], (256, 256, 3))
    # The tag with the number covers a corner.
    same = (windows[:, 0, 0, 30:, 30:] == enlarged[30:, 30:]).all((1, 2, 3))
    assert same.any()


def test_sheet_is_written(tmp_path: Path) -> None:
    image = make_photo(40, 60)
    page = sheet(image, [coded("JPEG", image)], tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as written:
        assert np.array_equal(np.asarray(written), np.asarray(page))
    with pytest.raises(HyperThumbError, match="can't be written"):
        sheet(image, [coded("JPEG", image)], tmp_path / "missing" / "sheet.png")


def test_sheet_refuses_what_does_not_belong_together() -> None:
    image = make_photo(40, 60)
    with pytest.raises(HyperThumbError, match="nothing to draw"):
        sheet(image, [])
    with pytest.raises(ImageError, match="has shape"):
        sheet(image, [coded("JPEG", image[:39])])
