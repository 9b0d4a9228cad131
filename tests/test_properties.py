"""What holds for any image and any file: Hypothesis looks for the one where it doesn't."""

from __future__ import annotations

import warnings

import mozjpeg_lossless_optimization as mozjpeg
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import make_photo

from napari_hyperthumb import decode, encode, info
from napari_hyperthumb.bitstream import read_frame
from napari_hyperthumb.checkpoint import Model
from napari_hyperthumb.errors import HyperThumbError, HyperThumbWarning
from napari_hyperthumb.pixels import DTYPES

SIDES = st.integers(1, 70)


@st.composite
def pictures(draw: st.DrawFn) -> np.ndarray:
    """Gray or RGB images of any size: noise, a smooth ramp, or constant, in any range of values."""
    shape = (draw(SIDES), draw(SIDES), *draw(st.sampled_from([(), (3,)])))
    dtype = np.dtype(draw(st.sampled_from(sorted(DTYPES))))
    kind = draw(st.sampled_from(["noise", "ramp", "constant"]))
    if kind == "noise":
        unit = np.random.default_rng(draw(st.integers(0, 99))).random(shape)
    elif kind == "ramp":
        unit = np.broadcast_to(np.linspace(0, 1, shape[1]).reshape(1, -1, *[1] * (len(shape) - 2)), shape)
    else:
        unit = np.zeros(shape)
    if dtype.kind == "f":
        wide = (-6e4, 5e4) if dtype == np.float16 else (-1e30, 2e30)
        limits = draw(st.sampled_from([(0, 1), (-1e-6, 1e-6), wide, (1000, 1001)]))
    else:
        iinfo = np.iinfo(dtype)
        ends = st.integers(int(iinfo.min), int(iinfo.max))
        limits = sorted((draw(ends), draw(ends)))
    return (limits[0] + unit * (limits[1] - limits[0])).astype(dtype)


@settings(max_examples=150)
@given(
    picture=pictures(),
    scale=st.sampled_from([2, 4]),
    level=st.floats(-1, 1),
)
def test_any_image_comes_back_in_its_shape_dtype_and_range(models, picture, scale, level):
    model = models[scale]
    thumbnail = encode(picture, level=level, model=model)
    frame = read_frame(thumbnail.data)
    assert (frame.height, frame.width) == tuple(-(-side // scale) for side in picture.shape[:2])
    decoded = decode(thumbnail.data, model=model)
    assert decoded.shape == picture.shape
    assert decoded.dtype == picture.dtype
    low, high = info(thumbnail.data).format.range
    if picture.dtype != np.uint8:
        assert (low, high) == (float(picture.min()), float(picture.max()))
    assert low <= float(decoded.min()) and float(decoded.max()) <= high


@settings(max_examples=40)
@given(picture=pictures(), scale=st.sampled_from([2, 4]), nbytes=st.integers(1, 6000))
def test_wanted_bytes_are_never_exceeded_whatever_the_image(models, picture, scale, nbytes):
    try:
        thumbnail = encode(picture, nbytes=nbytes, model=models[scale])
    except HyperThumbError as error:
        assert "can't be reached" in str(error)
        assert nbytes < 4000
    else:
        assert thumbnail.nbytes <= nbytes


@settings(max_examples=40)
@given(data=st.data(), scale=st.sampled_from([2, 4]))
def test_any_region_equals_the_crop(models, data, scale):
    height, width = data.draw(SIDES), data.draw(SIDES)
    picture = make_photo(height, width).astype(np.float32)
    spans = []
    for length in (height, width):
        start = data.draw(st.integers(0, length - 1))
        spans.append(slice(start, data.draw(st.integers(start + 1, length))))
    file = encode(picture, model=models[scale]).data
    part = decode(file, model=models[scale], region=tuple(spans))
    whole = decode(file, model=models[scale])[tuple(spans)]
    assert part.shape == whole.shape
    assert abs(part - whole).max() < 1e-3 * max(1, float(np.ptp(picture)))


# ---- damaged files ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(models: dict[int, Model]) -> list[tuple[int, bytes]]:
    """Ten thumbnails of all kinds with their scales."""
    photo = make_photo(52, 68)
    pictures = (photo, photo[..., 0], photo[:9, :7].astype(np.float64), photo.astype(np.uint16) * 200)
    out = [(scale, encode(p, level=0.5, model=models[scale]).data) for scale in (2, 4) for p in pictures]
    # Larger ones would be progressive.
    return out + [(2, mozjpeg.optimize(data, copy=mozjpeg.COPY_MARKERS.ALL)) for _, data in out[:2]]


@st.composite
def mutations(draw: st.DrawFn) -> list[tuple[str, float, bytes]]:
    """What to do, where (as a part of the file, or of its headers if negative), and with which bytes."""
    kinds = st.sampled_from(["flip", "replace", "delete", "insert", "copy", "truncate"])
    some = st.binary(min_size=1, max_size=4) | st.sampled_from([b"\xff", b"\0", b"\xff\xd9", b"\xff\xc4"])
    return draw(st.lists(st.tuples(kinds, st.floats(-1, 1), some), min_size=1, max_size=8))


def mutate(data: bytes, changes: list[tuple[str, float, bytes]]) -> bytes:
    out = bytearray(data)
    headers = 600
    for kind, where, some in changes:
        length = len(out) if where >= 0 else min(headers, len(out))
        at = min(int(abs(where) * length), max(len(out) - 1, 0))
        if kind == "flip" and out:
            out[at] ^= 1 << (some[0] % 8)
        elif kind == "replace":
            out[at : at + len(some)] = some
        elif kind == "delete":
            del out[at : at + some[0] % 40 + 1]
        elif kind == "insert":
            out[at:at] = some
        elif kind == "copy":
            out[at:at] = out[some[0] : some[0] + 30]
        elif kind == "truncate" and some[0] % 4 == 0:
            del out[at:]
    return bytes(out)


@settings(max_examples=600)
@given(index=st.integers(0, 9), changes=mutations(), stripped=st.booleans())
def test_damaged_file_gives_an_image_or_our_error(models, files, index, changes, stripped):
    scale, data = files[index]
    damaged = mutate(data, changes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HyperThumbWarning)  # any other is an error
        for options in ({}, {"scale": scale}) if stripped else ({},):
            try:
                decoded = decode(damaged, model=models[scale], any_model=True, max_pixels=400_000, **options)
            except HyperThumbError as error:
                assert str(error)
            else:
                assert decoded.ndim in (2, 3)
                assert 0 < decoded.shape[0] * decoded.shape[1] <= 400_000
                assert np.isfinite(decoded.astype(np.float64)).all()


@settings(max_examples=100)
@given(content=st.binary(max_size=400), prefix=st.sampled_from([b"", b"\xff\xd8", b"\xff\xd8\xff"]))
def test_noise_is_never_a_thumbnail(content, prefix):
    for function in (decode, info):
        with pytest.raises(HyperThumbError):
            function(prefix + content)
