"""Stacks and channels: every dtype and layout there and back, ranges and errors in the image's own units."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from samples import make_photo
from typer.testing import CliRunner

from napari_hyperthumb import (
    Channel,
    ImageError,
    Percentile,
    RateError,
    Stack,
    ThumbnailError,
    cli,
    encode,
    encode_stack,
    info,
    open_stack,
)
from napari_hyperthumb.channels import cost_of, joined, value_ranges, with_planes_last
from napari_hyperthumb.checkpoint import Model
from napari_hyperthumb.pixels import DTYPES

PHOTO = make_photo(40, 56)
CELLS = np.stack(
    [np.stack([PHOTO[..., c].astype(np.uint16) * (c + 1) * 40 + z for z in range(2)]) for c in range(3)]
)


@st.composite
def stacks(draw: st.DrawFn) -> tuple[np.ndarray, str]:
    """Arrays in any order of axes, some of length 1, and what the axes are."""
    axes = draw(st.sampled_from(["YX", "ZYX", "CYX", "YXC", "TCYX", "ZCYX", "YXS", "TYXS", "TCZYX"]))
    lengths = {axis: draw(st.integers(1, 2)) for axis in "TCZ"}
    lengths |= {"Y": draw(st.integers(1, 20)), "X": draw(st.integers(1, 20)), "S": 3}
    dtype = np.dtype(draw(st.sampled_from(sorted(DTYPES))))
    unit = np.random.default_rng(draw(st.integers(0, 99))).random([lengths[axis] for axis in axes])
    if dtype.kind == "f":
        low, high = (-6e4, 6e4) if dtype == np.float16 else (-1e9, 1e9)
    else:
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    return (low + unit * (high - low)).astype(dtype), axes


@settings(max_examples=50)
@given(case=stacks(), scale=st.sampled_from([2, 4]), level=st.sampled_from([-1.0, 1.0]))
def test_any_stack_comes_back_in_its_dtype_within_its_range(case, scale, level, models):
    array, axes = case
    made = encode_stack(array, axes, level=level, model=models[scale])
    stack = open_stack(made.to_bytes())
    back = stack.decode(model=models[scale])
    ordered, layout = with_planes_last(array, axes)
    assert stack.layout == made.layout == layout
    assert (back.shape, back.dtype) == (ordered.shape, array.dtype)
    assert np.isfinite(back).all()
    for channel, (low, high) in enumerate(value_ranges(ordered, layout)):
        at = [back[index] for index in layout.indices(channel)]
        assert min(float(p.min()) for p in at) >= low and max(float(p.max()) for p in at) <= high
        assert made.costs[channel].clipped == 0
        errors = [cost_of(ordered[i], back[i], (low, high)) for i in layout.indices(channel)]
        assert joined(errors) == made.costs[channel]


def test_each_page_is_what_encode_makes_of_its_plane(models):
    stack = encode_stack(CELLS, "CZYX", model=models[2], value_range="data")
    low, high = float(CELLS[1].min()), float(CELLS[1].max())
    assert stack.planes[3] == encode(CELLS[1, 1], model=models[2], value_range=(low, high)).data
    assert stack.ranges[1] == (low, high)
    with tifffile.TiffFile(io.BytesIO(stack.to_bytes())) as tiff:  # any TIFF program opens it
        assert tiff.series[0].axes == "CZYX"
        assert tiff.asarray().shape == (3, 2, 20, 28)
    colours = encode_stack(np.stack([PHOTO, PHOTO]), "ZYXS", level=0.0, model=models[2])
    with Image.open(io.BytesIO(colours.to_bytes())) as picture:
        picture.seek(1)
        assert np.array_equal(np.asarray(picture.convert("RGB")), encode(PHOTO, model=models[2]).lr)


def test_names_and_colours_of_channels_are_kept(models, tmp_path):
    named = (Channel("DAPI", (0, 0, 255)), Channel("GFP", (0, 255, 0)), Channel("µ-tubulin", (255, 128, 1)))
    encode_stack(CELLS[:, 0], "CYX", channels=named, model=models[2]).save(tmp_path / "a.ht.tif")
    assert open_stack(tmp_path / "a.ht.tif").channels == named


def test_planes_are_read_one_at_a_time(models):
    class Lazy:
        shape, dtype, asked = CELLS.shape, CELLS.dtype, []

        def __getitem__(self, index):
            self.asked.append(index)
            return CELLS[index]

    done: list[float] = []
    encode_stack(Lazy(), "CZYX", model=models[2], value_range=(0, 65_535), progress=done.append)
    assert Lazy.asked == [(c, z) for c in range(3) for z in range(2)]
    assert done == sorted(done) and done[-1] == 1.0


def test_cancelling_ends_the_work(models):
    def stop(fraction: float) -> None:
        if fraction > 0.3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_stack(CELLS, "CZYX", model=models[2], progress=stop)


def test_percentiles_clip_hot_pixels_and_say_so(models):
    hot = CELLS[:1, 0].copy()
    hot[0, 3, 3] = 65_535
    (pair,) = encode_stack(hot, "CYX", value_range=Percentile(1, 99), model=models[2]).ranges
    assert pair == tuple(np.percentile(hot, [1, 99]))
    (cost,) = encode_stack(hot, "CYX", value_range=Percentile(1, 99), model=models[2]).costs
    assert cost.maximum >= 65_535 - pair[1]
    assert 0.005 < cost.clipped < 0.03
    assert "clipped" in str(cost)


def test_cost_is_in_the_images_own_units():
    original = np.array([[1000.0, 2000.0], [3000.0, 4000.0]])
    cost = cost_of(original, original + np.array([[0, 3], [-4, 0]]), (1000, 4000))
    assert (cost.maximum, cost.rms, cost.clipped) == (4.0, 2.5, 0.0)
    assert cost_of(original, original, (0, 2000)).clipped == 0.5
    huge = np.array([[1e308, -1e308]])
    assert np.isfinite(cost_of(huge, -huge / 2, (-1e308, 1e308)).rms)


def test_a_16_bit_ramp_keeps_steps_finer_than_8_bits():
    """With the bundled weights."""
    ramp = np.broadcast_to(np.linspace(200, 60_000, 768), (64, 768)).astype(np.uint16)
    stack = encode_stack(ramp[None], "ZYX", level=1.0)
    back = stack.decode()[0].astype(float)
    (cost,) = stack.costs
    assert cost.rms < (60_000 - 200) / 255  # one step of 8 bits
    assert len(np.unique(back)) > 1000
    means = back.mean(0)
    assert np.all(means[16:] - means[:-16] > 0)  # never wrapped, clipped or constant


# ---- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("axes", "match"),
    [
        (None, "say which"),
        ("ZYX", "don't fit"),
        ("CCYX", "don't fit"),
        ("CZQX", "don't fit"),
        ("CZYS", "don't fit"),
    ],
)
def test_what_a_third_axis_means_is_never_guessed(axes, match):
    with pytest.raises(ImageError, match=match):
        encode_stack(CELLS, axes)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"value_range": [(0, 1)]}, ImageError, "1 value ranges for 3"),
        ({"value_range": "limits"}, ImageError, "Percentile"),
        ({"channels": [Channel()]}, ImageError, "1 channel names for 3"),
        ({"bpp": 1e-9}, RateError, r"plane \("),
        ({"bpp": 1, "level": 0}, RateError, "one of"),
    ],
)
def test_bad_options_are_named(models, options, error, match):
    with pytest.raises(error, match=match):
        encode_stack(CELLS, "CZYX", model=models[2], **options)


def test_nan_and_masks_are_refused_whatever_plane_they_are_in():
    holes = CELLS.astype(np.float32)
    holes[2, 1, 0, 0] = np.nan
    with pytest.raises(ImageError, match="NaN"):
        encode_stack(holes, "CZYX")
    with pytest.raises(ImageError, match="masks"):
        encode_stack(CELLS > 100, "CZYX")


def test_damaged_and_foreign_files_are_named(models: dict[int, Model], tmp_path: Path):
    good = encode_stack(CELLS, "CZYX", model=models[2], measure=False).to_bytes()
    path = tmp_path / "b.ht.tif"
    for data in (b"", b"II*\0", good[:100], good[: len(good) // 2], good.replace(b"\xff\xd8\xff", b"\0\0\0")):
        path.write_bytes(data)
        with pytest.raises(ThumbnailError, match=r"b\.ht\.tif"):
            open_stack(path)
    tifffile.imwrite(path, PHOTO, photometric="rgb")
    with pytest.raises(ThumbnailError, match=r"b\.ht\.tif: a TIFF that isn't a stack"):
        open_stack(path)
    with pytest.raises(ThumbnailError, match="nowhere"):
        open_stack(tmp_path / "nowhere.ht.tif")


def test_too_many_pixels_are_refused_before_anything_is_allocated(models):
    stack = encode_stack(CELLS, "CZYX", model=models[2], measure=False)
    with pytest.raises(ThumbnailError, match="--max-pixels"):
        stack.decode(max_pixels=6 * 40 * 56 - 1)


def test_a_plane_that_differs_from_the_others_is_named(models):
    stack = encode_stack(CELLS[:, 0], "CYX", model=models[2], measure=False)
    other = encode(PHOTO[..., 0], model=models[2]).data
    mixed = Stack((*stack.planes[:2], other), stack.layout)
    with pytest.raises(ThumbnailError, match=r"plane \(2,\): is uint8"):
        mixed.decode(model=models[2])


# ---- the command ------------------------------------------------------------------------------


@pytest.fixture
def call(model_paths: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.chdir(tmp_path)

    def call(*words: object, code: int = 0) -> str:
        weights = [] if words[0] == "info" else ["--model", str(model_paths[2])]
        result = CliRunner().invoke(cli.app, [*map(str, words), *weights], catch_exceptions=False)
        assert result.exit_code == code, result.output
        return result.output

    return call


def test_a_stack_becomes_a_tiff_of_thumbnails_and_back(call, tmp_path, models):
    tifffile.imwrite("cells.ome.tif", CELLS, metadata={"axes": "CZYX"})
    said = call("encode", "cells.ome.tif", "-o", "cells.ht.tif")
    costs = encode_stack(CELLS, "CZYX", model=models[2]).costs
    assert "6 planes CZYX" in said
    assert [line.strip() for line in said.splitlines()[1:]] == [
        f"channel {i}: {c}" for i, c in enumerate(costs)
    ]
    assert "stack      3x2x40x56 CZYX" in call("info", "cells.ht.tif")
    call("decode", "cells.ht.tif")
    with tifffile.TiffFile("cells.tif") as tiff:
        assert tiff.series[0].axes == "CZYX"
        assert np.array_equal(tiff.asarray(), open_stack("cells.ht.tif").decode(model=models[2]))
    assert "only TIFF holds a stack" in call("decode", "cells.ht.tif", "-o", "cells.png", code=1)


def test_stacks_in_folders_get_their_ending_and_arent_coded_again(call, tmp_path):
    Path("in").mkdir()
    tifffile.imwrite("in/z.tif", CELLS[0], metadata={"axes": "ZYX"}, photometric="minisblack")
    call("encode", "in")
    assert (tmp_path / "in" / "z.ht.tif").exists()
    assert "exists already" in call("encode", "in", code=1)
    Path("in/z.tif").unlink()
    assert "no picture" in call("encode", "in", code=2)


def test_axes_and_ranges_are_said_on_the_command_line(call):
    tifffile.imwrite("a.tif", CELLS[:, 0, :33], photometric="minisblack", metadata=None)
    assert "give --axes" in call("encode", "a.tif", code=1)
    limits = [word for c in range(3) for word in ("--channel-range", f"{c}:{1000 * (c + 1)}")]
    call("encode", "a.tif", "--axes", "CYX", *limits, "-o", "a.ht.tif")
    assert open_stack("a.ht.tif").ranges == ((0, 1000), (1, 2000), (2, 3000))
    assert "one of --range" in call("encode", "a.tif", *limits, "--range", 0, 1, code=2)
    tifffile.imwrite("b.tif", CELLS[0, 0], photometric="minisblack")
    said = call("encode", "b.tif", "--percentile", 5, 95, "-o", "b.ht.jpg")
    assert "% of the values clipped" in said
    assert info("b.ht.jpg").format.range == tuple(np.percentile(CELLS[0, 0], [5, 95]))
    assert "RMS" not in call("encode", "b.tif", "--no-report", "-f", "-o", "b.ht.jpg")


@pytest.mark.skipif(shutil.which("identify") is None, reason="needs ImageMagick")
def test_libtiff_programs_open_it(call, models):
    encode_stack(np.stack([PHOTO, PHOTO]), "ZYXS", level=0.0, model=models[2]).save("rgb.ht.tif")
    done = subprocess.run(["identify", "rgb.ht.tif"], capture_output=True, text=True)
    assert done.stdout.count("TIFF 28x20") == 2, done.stderr
