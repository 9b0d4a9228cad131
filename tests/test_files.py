"""Reading pictures of many kinds, and writing files whole or not at all."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_hyperthumb import files
from napari_hyperthumb.errors import HyperThumbError, HyperThumbWarning, ImageError
from napari_hyperthumb.files import (
    bare_name,
    find_images,
    image_bytes,
    read_image,
    write_atomically,
    write_image,
)

GRAY = np.arange(35, dtype=np.uint8).reshape(5, 7) * 7
RGB = np.stack([GRAY, GRAY[::-1], 255 - GRAY], 2)
RGBA = np.dstack([RGB, GRAY // 2])


def png16(samples: np.ndarray) -> bytes:
    """A 16-bit PNG, which Pillow can't write in colour. samples: (H, W, 1 .. 4) uint16."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        checked = kind + body
        return struct.pack(">I", len(body)) + checked + struct.pack(">I", zlib.crc32(checked))

    height, width, channels = samples.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- reading ----------------------------------------------------------------------------------


@pytest.mark.parametrize("picture", [GRAY, RGB, RGBA], ids=["gray", "rgb", "rgba"])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF"])
def test_8_bit_pictures_are_read_exactly(tmp_path, picture, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(picture).save(path, "PNG" if suffix == ".png" else "TIFF")
    array = read_image(path)
    assert array.dtype == np.uint8
    assert np.array_equal(array, picture)


@pytest.mark.parametrize("suffix", [".bmp", ".ppm", ".webp"])
def test_wide_8_bit_colour_is_read_without_a_warning(tmp_path, suffix):
    picture = np.tile(RGB, (1, 50, 1))
    Image.fromarray(picture).save(tmp_path / f"a{suffix}", lossless=True)
    assert np.array_equal(read_image(tmp_path / f"a{suffix}"), picture)


def test_16_bit_gray_png_keeps_its_bits(tmp_path):
    picture = GRAY.astype(np.uint16) * 257
    (tmp_path / "a.png").write_bytes(png16(picture[..., None]))
    array = read_image(tmp_path / "a.png")
    assert array.dtype == np.uint16
    assert np.array_equal(array, picture)


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_16_bit_colour_or_alpha_png_warns_of_the_lost_bits(tmp_path, channels):
    (tmp_path / "a.png").write_bytes(png16(RGBA[..., :channels].astype(np.uint16) * 257))
    with pytest.warns(HyperThumbWarning, match="8 bits"):
        array = read_image(tmp_path / "a.png")
    assert array.dtype == np.uint8


def test_16_bit_ppm_warns_of_the_lost_bits(tmp_path):
    samples = (RGB.astype(">u2") * 257).tobytes()
    (tmp_path / "a.ppm").write_bytes(b"P6 7 5 65535\n" + samples)
    with pytest.warns(HyperThumbWarning, match="8 bits"):
        assert np.array_equal(read_image(tmp_path / "a.ppm"), RGB)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_deep_tiff_keeps_dtype_and_shape(tmp_path, dtype, shape):
    picture = np.random.default_rng(0).random(shape) * 60_000
    picture = picture.astype(dtype)
    photometric = "rgb" if len(shape) == 3 else "minisblack"
    tifffile.imwrite(tmp_path / "a.tif", picture, photometric=photometric)
    array = read_image(tmp_path / "a.tif")
    assert array.dtype == dtype
    assert np.array_equal(array, picture)


def test_planar_rgb_tiff_is_read_with_colours_last(tmp_path):
    planes = np.ascontiguousarray(RGB.transpose(2, 0, 1))
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="rgb", planarconfig="separate")
    assert np.array_equal(read_image(tmp_path / "a.tif"), RGB)


def test_tiff_stack_keeps_its_shape(tmp_path):
    stack = np.zeros((4, 5, 7), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack")
    assert read_image(tmp_path / "a.tif").shape == (4, 5, 7)


def test_palette_picture_becomes_its_colours(tmp_path):
    Image.fromarray(RGB).quantize(8).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P"
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(read_image(tmp_path / "a.png"), expected)


def test_palette_picture_with_transparency_keeps_it(tmp_path):
    Image.fromarray(RGB).quantize(8).save(tmp_path / "a.png", transparency=0)
    array = read_image(tmp_path / "a.png")
    assert array.shape == (5, 7, 4)
    assert set(np.unique(array[..., 3])) == {0, 255}


def test_1_bit_picture_becomes_black_and_white(tmp_path):
    Image.fromarray(GRAY).convert("1").save(tmp_path / "a.png")
    assert set(np.unique(read_image(tmp_path / "a.png"))) == {0, 255}


def test_ordinary_jpeg_is_read_as_rgb(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.jpg", quality=100, subsampling=0)
    array = read_image(tmp_path / "a.jpg")
    assert array.shape == RGB.shape
    assert abs(array.astype(int) - RGB).mean() < 3


def test_animation_is_refused_with_its_number_of_frames(tmp_path):
    frames = [Image.fromarray(GRAY + i) for i in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(ImageError, match="3 frames"):
        read_image(tmp_path / "a.gif")


def test_still_gif_is_read(tmp_path):
    Image.fromarray(GRAY).save(tmp_path / "a.gif")
    assert read_image(tmp_path / "a.gif").shape[:2] == (5, 7)


def test_cmyk_jpeg_is_refused_by_name(tmp_path):
    Image.fromarray(RGB).convert("CMYK").save(tmp_path / "a.jpg")
    with pytest.raises(ImageError, match="CMYK"):
        read_image(tmp_path / "a.jpg")


def test_missing_file_folder_and_empty_file_are_told_apart(tmp_path):
    (tmp_path / "empty.png").touch()
    for name, message in (("none.png", "no such file"), ("", "folder"), ("empty.png", "empty")):
        with pytest.raises(ImageError, match=message) as error:
            read_image(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp", ".avif", ".jp2"])
def test_text_with_a_pictures_name_is_an_error_that_names_it(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_text("This is not a picture.")
    with pytest.raises(ImageError, match=f"a{suffix}"):
        read_image(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".ppm", ".gif"])
@pytest.mark.parametrize("part", [0.05, 0.5, 0.9])
def test_truncated_picture_is_an_error_that_names_it(tmp_path, suffix, part):
    path = tmp_path / f"a{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(ImageError, match=f"a{suffix}"):
        read_image(path)


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"compression": "zlib", "tile": (16, 16)}])
def test_damaged_tiff_gives_a_picture_or_an_error_that_names_it(tmp_path, options, caplog):
    caplog.set_level("CRITICAL", "tifffile")
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.tile(RGB, (4, 4, 1)), photometric="rgb", **options)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), 4):
            data[at] = rng.integers(256)
        path.write_bytes(data[: rng.integers(len(data))] if rng.random() < 0.3 else data)
        try:
            read_image(path)
        except ImageError as error:
            assert "a.tif" in str(error)


def test_header_that_claims_too_many_pixels_is_refused_before_reading(tmp_path, monkeypatch):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", RGB, photometric="rgb")
    monkeypatch.setattr(files, "MAX_PIXELS", 34)
    for name in ("a.png", "a.tif"):
        with pytest.raises(ImageError, match="more than 34"):
            read_image(tmp_path / name)


def test_folders_are_searched_deeply_for_pictures(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("b.PNG", "a.jpg", "notes.txt", "sub/c.tif"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    given = tmp_path / "notes.txt"
    found = list(find_images([tmp_path, given]))
    assert found == [tmp_path / "a.jpg", tmp_path / "b.PNG", tmp_path / "sub" / "c.tif", given]


# ---- writing ----------------------------------------------------------------------------------


def test_file_is_written_and_replaced(tmp_path):
    path = tmp_path / "a.jpg"
    for data in (b"one", b"another"):
        write_atomically(path, data)
        assert path.read_bytes() == data
    assert left_in(tmp_path) == ["a.jpg"]


def test_new_file_has_the_mode_that_open_gives(tmp_path):
    (tmp_path / "plain").touch()
    write_atomically(tmp_path / "ours", b"x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_folder_in_the_way_is_an_error_and_nothing_is_left(tmp_path):
    (tmp_path / "a.jpg").mkdir()
    with pytest.raises(HyperThumbError, match=r"a\.jpg: can't be written"):
        write_atomically(tmp_path / "a.jpg", b"x")
    assert left_in(tmp_path) == ["a.jpg"]
    assert left_in(tmp_path / "a.jpg") == []


def test_missing_folder_is_an_error_and_isnt_made(tmp_path):
    with pytest.raises(HyperThumbError, match="can't be written"):
        write_atomically(tmp_path / "none" / "a.jpg", b"x")
    assert left_in(tmp_path) == []


def test_file_as_folder_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(HyperThumbError, match="can't be written"):
        write_atomically(tmp_path / "file" / "a.jpg", b"x")
    assert left_in(tmp_path) == ["file"]


def failing(error: BaseException) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(("owner", "step"), [(os, "fsync"), (Path, "replace")])
def test_old_file_survives_a_failed_write_and_nothing_is_left(tmp_path, monkeypatch, owner, step):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"old")
    monkeypatch.setattr(owner, step, failing(OSError(28, "No space left on device")))
    with pytest.raises(HyperThumbError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert left_in(tmp_path) == ["a.jpg"]


def test_interrupted_write_leaves_nothing_but_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"old")
    monkeypatch.setattr(Path, "replace", failing(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert left_in(tmp_path) == ["a.jpg"]


@pytest.mark.parametrize("name", ["a\0b.jpg", "", ".", "/"])
def test_names_that_no_file_can_have_are_our_error(name):
    with pytest.raises(HyperThumbError):
        write_atomically(name, b"x")


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("picture", [GRAY, RGB, GRAY.astype(np.uint16) * 257])
def test_written_pictures_are_read_back_exactly(tmp_path, picture, suffix):
    write_image(tmp_path / f"a{suffix}", picture)
    array = read_image(tmp_path / f"a{suffix}")
    assert array.dtype == picture.dtype
    assert np.array_equal(array, picture)


@pytest.mark.parametrize("dtype", ["int16", "float32", "float64"])
def test_tiff_holds_what_png_cant(tmp_path, dtype):
    picture = GRAY.astype(dtype) - 3
    write_image(tmp_path / "a.tif", picture)
    assert np.array_equal(read_image(tmp_path / "a.tif"), picture)
    with pytest.raises(ImageError, match=r"a\.png.*\.tif"):
        write_image(tmp_path / "a.png", picture)
    assert left_in(tmp_path) == ["a.tif"]


@pytest.mark.parametrize("suffix", ["", ".jpg", ".xyz"])
def test_other_endings_are_refused(suffix):
    with pytest.raises(ImageError, match=r"use \.png or \.tif"):
        image_bytes(GRAY, suffix)


@pytest.mark.parametrize(
    ("name", "bare"),
    [
        ("photo.ht.jpg", "photo"),
        ("photo.HT.JPG", "photo"),
        ("photo.v2.png", "photo.v2"),
        ("cells.ome.tif", "cells"),
        ("cells.OME.tiff", "cells"),
    ],
)
def test_bare_name_loses_both_endings_of_thumbnails_and_ome_tiff(name, bare):
    assert bare_name(Path("a") / name) == bare
