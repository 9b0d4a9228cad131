"""Files and arrays that people and attackers hand in: each is an error that says what is wrong."""

from __future__ import annotations

import io
import time
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from jpeg_bytes import COMMENT, find, frame, segments, with_byte, with_size
from PIL import Image
from samples import make_photo

from napari_hyperthumb import bitstream, decode, encode, info
from napari_hyperthumb.bitstream import MAX_SIDE, read_jpeg
from napari_hyperthumb.checkpoint import Model
from napari_hyperthumb.errors import (
    HyperThumbError,
    HyperThumbWarning,
    ImageError,
    NotAThumbnailError,
    ThumbnailError,
)


@pytest.fixture(scope="module")
def data(models: dict[int, Model]) -> bytes:
    """A thumbnail of 65x48 pixels at scale 2."""
    return encode(make_photo(96, 130), level=0.5, model=models[2]).data


def saved(picture: np.ndarray, mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


# ---- files that aren't thumbnails -------------------------------------------------------------


def test_missing_file_and_folder(tmp_path):
    for path, message in ((tmp_path / "none.jpg", "No such file"), (tmp_path, "directory")):
        for function in (decode, info):
            with pytest.raises(ThumbnailError, match=message) as error:
                function(path)
            assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\0", "not a JPEG"),
        (b"This is not a picture.", "not a JPEG"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "not a JPEG"),
        (b"\xff\xd8", "truncated"),
        (b"\xff\xd8\xff\xd9", "truncated"),
        (b"\xff\xd8" + bytes(100), "truncated"),
        (b"\xff\xd8" + b"\xff" * 1000, "truncated"),
        (b"\xff\xd8\xff\xe0\x00\x00", "truncated"),
    ],
)
def test_what_isnt_a_jpeg_is_refused_by_the_name_of_the_file(tmp_path, content, message):
    path = tmp_path / "a.ht.jpg"
    path.write_bytes(content)
    for function in (decode, info):
        with pytest.raises(ThumbnailError, match=message) as error:
            function(path)
        assert str(error.value).startswith(str(path))


def test_every_truncation_is_refused(data, models):
    for length in range(0, len(data) - 20, 7):
        with pytest.raises(ThumbnailError):
            decode(data[:length], model=models[2])


def test_missing_picture_data_is_refused(data, models):
    _, scan = find(data, 0xDA)
    with pytest.raises(ThumbnailError, match="truncated"):
        decode(data[:scan], model=models[2])


def test_ordinary_jpegs_are_told_apart_and_decode_at_a_given_scale(models):
    plain = saved(make_photo(40, 50))
    for function in (info, decode):
        with pytest.raises(NotAThumbnailError, match="ordinary picture"):
            function(plain)
    with pytest.warns(HyperThumbWarning):
        assert decode(plain, scale=2, model=models[2]).shape == (80, 100, 3)


@pytest.mark.parametrize("other", [{"xmp": b'<x:xmpmeta xmlns:x="a"/>'}, {"comment": b"by hand"}])
def test_what_other_programs_say_doesnt_make_a_thumbnail(other):
    with pytest.raises(NotAThumbnailError):
        info(saved(make_photo(40, 50), **other))


def test_gray_progressive_and_exif_jpegs_are_usual_ones():
    exif = Image.Exif()
    exif[0x0112] = 6
    for options in ({"mode": "L"}, {"progressive": True}, {"exif": exif}, {"comment": b"hi"}):
        with pytest.raises(NotAThumbnailError):
            info(saved(make_photo(40, 50), **options))


def test_cmyk_jpeg_is_refused_by_name():
    with pytest.raises(ThumbnailError, match="CMYK"):
        decode(saved(make_photo(40, 50), "CMYK"))


# ---- damaged headers --------------------------------------------------------------------------


def patched_frame(offset: int, value: int) -> Callable[[bytes], bytes]:
    return lambda data: with_byte(data, frame(data) + offset, value)


def without(*markers: int) -> Callable[[bytes], bytes]:
    def cut(data: bytes) -> bytes:
        for marker, start, stop in reversed(list(segments(data))):
            if marker in markers:
                data = data[:start] + data[stop:]
        return data

    return cut


def with_frame_twice(data: bytes) -> bytes:
    start, stop = find(data, 0xC0, 0xC1, 0xC2)
    return data[:stop] + data[start:]


def with_zero_tables(data: bytes) -> bytes:
    start, stop = find(data, 0xDB)
    return data[: start + 5] + bytes(64) + data[start + 69 : stop] + data[stop:]


DAMAGED = {
    "12 bits": (patched_frame(4, 12), "12 bits"),
    "lossless": (patched_frame(1, 0xC3), "lossless"),
    "arithmetic": (patched_frame(1, 0xC9), "arithmetic"),
    "progressive arithmetic": (patched_frame(1, 0xCA), "arithmetic"),
    "2 components": (patched_frame(9, 2), "damaged"),
    "255 components": (patched_frame(9, 255), "damaged"),
    "no sampling factors": (patched_frame(11, 0), ""),
    "sampling factors of 15": (patched_frame(11, 0xFF), ""),
    "component of no table": (patched_frame(12, 3), ""),
    "table number 200": (patched_frame(12, 200), ""),
    "no rows": (lambda data: with_size(data, 0, 65), "no rows"),
    "no columns": (lambda data: with_size(data, 48, 0), "no columns"),
    "two frames": (with_frame_twice, "two frame headers"),
    "no frame": (without(0xC0, 0xC1, 0xC2), "no frame header"),
    "no quantisation tables": (without(0xDB), ""),
    "zero tables": (with_zero_tables, "tables are damaged"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_headers_are_refused(data, models, kind):
    damage, message = DAMAGED[kind]
    damaged = damage(data)
    assert damaged != data
    for function in (info, lambda source: decode(source, model=models[2])):
        with pytest.raises(ThumbnailError, match=message or None):
            function(damaged)


def test_more_rows_than_the_thumbnail_had_are_reported(data, models):
    with pytest.warns(HyperThumbWarning, match="resized or cropped from 65x48 to 65x112"):
        assert decode(with_size(data, 112, 65), model=models[2]).shape == (224, 130, 3)


# ---- sizes that are only claimed --------------------------------------------------------------


@pytest.mark.parametrize("max_pixels", [500_000_000, 10**12])
def test_huge_claim_in_a_small_file_allocates_nothing(data, models, monkeypatch, max_pixels):
    claim = with_size(data, 60_000, 60_000)
    monkeypatch.setattr(bitstream.Image, "open", lambda *_, **__: pytest.fail("opened"))
    tracemalloc.start()
    try:
        with pytest.raises(ThumbnailError, match="pixels"):
            decode(claim, model=models[2], max_pixels=max_pixels)
        with pytest.raises(ThumbnailError, match="60000x60000 pixels in"):
            info(claim)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_claim_in_200_bytes_is_refused():
    small = saved(np.zeros((1, 1, 3), np.uint8), "L", optimize=True).ljust(200, b"\0")
    with pytest.raises(ThumbnailError, match="60000x60000 pixels in 200 bytes"):
        read_jpeg(with_size(small, 60_000, 60_000))


def with_claimed_hr_size(data: bytes, size: bytes) -> bytes:
    start, stop = find(data, 0xFE)
    body = data[start + 4 : stop]
    assert body.startswith(COMMENT) and body.count(b" 130x96 ") == 1
    body = body.replace(b" 130x96 ", b" %s " % size)
    return data[: start + 2] + (len(body) + 2).to_bytes(2, "big") + body + data[stop:]


@pytest.mark.parametrize("size", [b"1048575x1048575", b"1x1", b"133x96", b"130x1048575"])
def test_hr_size_in_the_metadata_must_fit_the_thumbnail(data, models, size):
    with pytest.warns(HyperThumbWarning, match="resized or cropped"):
        assert decode(with_claimed_hr_size(data, size), model=models[2]).shape == (96, 130, 3)


def test_hr_size_that_fits_is_believed(data, models):
    assert decode(with_claimed_hr_size(data, b"129x95"), model=models[2]).shape == (95, 129, 3)


def test_too_many_pixels_are_refused_before_the_file_is_opened(data, models, monkeypatch):
    monkeypatch.setattr(bitstream.Image, "open", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(ThumbnailError, match="130x96 pixels, more than 4000"):
        decode(data, model=models[2], max_pixels=4000)


def test_oversized_file_is_refused(data, monkeypatch):
    monkeypatch.setattr(bitstream, "MAX_FILE", 100)
    with pytest.raises(ThumbnailError, match="more than a thumbnail can have"):
        info(data)


# ---- pictures that can't be coded -------------------------------------------------------------


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.full((8, 8), np.nan, np.float32), "64 NaN or infinite"),
        (np.array([[0.0, np.inf]]), "1 NaN or infinite"),
        (np.zeros((8, 8), bool), "boolean"),
        (np.zeros((8, 8), np.complex64), "complex64"),
        (np.zeros((0, 8), np.uint8), "empty"),
        (np.zeros((8, 8, 4), np.uint8), "alpha"),
        (np.zeros((2, 8, 8, 3), np.uint8), "shape"),
        (np.zeros(8, np.uint8), "shape"),
        ("photo.png", "shape"),
        (None, "shape"),
    ],
)
def test_arrays_that_arent_pictures_are_image_errors(models, picture, message):
    with pytest.raises(ImageError, match=message):
        encode(picture, model=models[2])


@pytest.mark.parametrize("value", [0, 1, 128, 255])
@pytest.mark.parametrize("shape", [(1, 1), (33, 17), (9, 40, 3)])
def test_constant_8_bit_images_come_back(models, value, shape):
    picture = np.full(shape, value, np.uint8)
    for scale in (2, 4):
        decoded = decode(encode(picture, level=1, model=models[scale]).data, model=models[scale])
        assert decoded.shape == shape
        assert abs(decoded.astype(int) - value).max() < 40  # random weights add their own


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int32", "float16", "float64"])
def test_constant_images_of_other_dtypes_come_back_exactly(models, dtype):
    picture = np.full((20, 30), 77, dtype)
    for target in ({"level": -1}, {"nbytes": 3000}, {"psnr": 30}):
        decoded = decode(encode(picture, model=models[2], **target).data, model=models[2])
        assert decoded.dtype == dtype
        assert np.array_equal(decoded, picture)


@pytest.mark.parametrize("shape", [(8, 2 * MAX_SIDE + 1), (2 * 65_501, 16, 3), (10**6, 10**6)])
def test_thumbnail_side_beyond_jpegs_limit_fails_at_once(models, shape):
    picture = np.broadcast_to(np.uint8(7), shape)
    start = time.perf_counter()
    with pytest.raises(ImageError, match=str(-(-max(shape) // 2))):
        encode(picture, model=models[2])
    assert time.perf_counter() - start < 1


# ---- targets that can't be written ------------------------------------------------------------


def test_unwritable_target_is_our_error_and_leaves_nothing(models, tmp_path):
    thumbnail = encode(make_photo(20, 20), model=models[2])
    (tmp_path / "folder.ht.jpg").mkdir()
    for path in (tmp_path / "folder.ht.jpg", tmp_path / "none" / "a.ht.jpg"):
        with pytest.raises(HyperThumbError, match="can't be written"):
            thumbnail.save(path)
    assert [path.name for path in tmp_path.rglob("*")] == ["folder.ht.jpg"]


@pytest.mark.parametrize("function", [decode, info])
def test_names_that_no_file_can_have_are_our_error(function):
    with pytest.raises(ThumbnailError):
        function("a\0b.jpg")
