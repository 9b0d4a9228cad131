"""The Zarr codec and pyramids: read by zarr alone, resumed, seamless, valid OME-Zarr."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import make_photo
from typer.testing import CliRunner

pytest.importorskip("zarr")
import zarr

from napari_hyperthumb import (
    HyperThumbWarning,
    ImageError,
    Percentile,
    ThumbnailError,
    decode,
    encode,
    info,
)
from napari_hyperthumb._cli_pyramid import add_pyramid_command
from napari_hyperthumb.checkpoint import Model
from napari_hyperthumb.cli import app
from napari_hyperthumb.codec import WEIGHTS
from napari_hyperthumb.pipeline import no_report
from napari_hyperthumb.pyramid import code_band, make_pyramid
from napari_hyperthumb.regions import open_regions
from napari_hyperthumb.zarr_codec import HyperThumbCodec, read_chunk

PHOTO = make_photo(200, 300)
if "pyramid" not in {command.name for command in app.registered_commands}:
    add_pyramid_command(app)


@pytest.fixture(autouse=True)
def findable(model_paths: dict[int, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny weights are found by their digest, in other processes too."""
    monkeypatch.setenv(WEIGHTS, os.pathsep.join(map(str, model_paths.values())))


def files_of(folder: Path) -> list[Path]:
    """All files below a folder, those of linked folders once."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def in_a_fresh_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---- the codec --------------------------------------------------------------------------------


@st.composite
def arrays(draw: st.DrawFn) -> tuple[np.ndarray, tuple[int, ...], int | None]:
    """An array, its chunks and its colour axis."""
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    chunk = (draw(st.integers(8, 24)), draw(st.integers(8, 24)))
    kind = draw(st.sampled_from(["gray", "stack", "first", "last"]))
    lead = {"gray": (), "stack": (2, 1), "first": (3,), "last": ()}[kind]
    ones = {"gray": (), "stack": (1, 1), "first": (3,), "last": ()}[kind]
    tail = (3,) if kind == "last" else ()
    dtype = np.dtype(draw(st.sampled_from(["uint8", ">u2", "int16", "float32"])))
    unit = np.random.default_rng(draw(st.integers(0, 99))).random((*lead, height, width, *tail))
    colour = {"first": -3, "last": -1}.get(kind)
    return (unit * 200).astype(dtype), (*ones, *chunk, *tail), colour


@pytest.mark.usefixtures("tiny_weights")
@settings(max_examples=15)
@given(case=arrays(), scale=st.sampled_from([2, 4]))
def test_any_array_is_written_and_read_in_its_shape_dtype_and_range(case, scale):
    array, chunks, colour = case
    codec = HyperThumbCodec(scale=scale, colour_axis=colour, level=1.0, value_range=(0, 200))
    stored = zarr.create_array(
        {}, shape=array.shape, chunks=chunks, dtype=array.dtype, serializer=codec, compressors=None
    )
    stored[...] = array
    back = stored[...]
    assert (back.shape, back.dtype) == (array.shape, array.dtype)
    assert back.min() >= 0 and back.max() <= 200
    assert HyperThumbCodec.from_dict(codec.to_dict()) == codec


@pytest.mark.usefixtures("tiny_weights")
def test_zarr_alone_reads_it_in_a_fresh_process(tmp_path):
    codec = HyperThumbCodec(colour_axis=-1)
    stored = zarr.create_array(
        tmp_path / "a.zarr", shape=(40, 56, 3), chunks=(40, 56, 3), dtype="uint8", serializer=codec,
        compressors=None,
    )  # fmt: skip
    stored[...] = PHOTO[:40, :56]
    chunk = (tmp_path / "a.zarr" / "c" / "0" / "0" / "0").read_bytes()
    assert chunk[:3] == b"\xff\xd8\xff"  # a JPEG like any other
    expected = decode(chunk)
    said = in_a_fresh_process(f"import zarr; print(zarr.open({str(tmp_path / 'a.zarr')!r})[...].sum())")
    assert int(said) == int(expected.sum())


@pytest.mark.parametrize(
    ("shape", "chunks", "dtype", "codec"),
    [
        ((4, 8, 8), (2, 8, 8), "uint8", HyperThumbCodec()),
        ((4, 8, 8), (4, 8, 8), "uint8", HyperThumbCodec(colour_axis=-3)),
        ((8, 8), (8, 8), "int64", HyperThumbCodec()),
        ((8, 8), (8, 8), "bool", HyperThumbCodec()),
    ],
)
def test_arrays_that_cant_be_coded_are_refused_when_they_are_made(shape, chunks, dtype, codec):
    with pytest.raises(ImageError, match=r"isn't one picture|can't be coded"):
        zarr.create_array({}, shape=shape, chunks=chunks, dtype=dtype, serializer=codec, compressors=None)


def test_settings_from_elsewhere_are_checked():
    for settings_ in ({"view": "all"}, {"scale": 3}, {"level": 7}, {"quality": 3}):
        with pytest.raises(ImageError):
            HyperThumbCodec.from_dict({"name": "hyperthumb", "configuration": settings_})


def test_a_chunk_of_another_size_is_refused_before_it_is_decoded(models: dict[int, Model]):
    data = encode(PHOTO, model=models[2]).data
    assert read_chunk(data, (200, 300), "image").shape == (200, 300, 3)
    assert read_chunk(data, (184, 284), "image").shape == (184, 284, 3)  # the middle
    assert read_chunk(data, (92, 142), "thumbnail").shape == (92, 142, 3)
    for shape, view in (
        ((20, 30), "image"),
        ((200, 301), "image"),
        ((184, 280), "image"),
        ((8, 8), "thumbnail"),
    ):
        with pytest.raises(ThumbnailError):
            read_chunk(data, shape, view)


# ---- pyramids ---------------------------------------------------------------------------------


def tiff(path: Path, array: np.ndarray, **options: object) -> Path:
    tifffile.imwrite(path, array, **{"tile": (64, 64), "compression": "zlib", **options})
    return path


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    """(200, 300) RGB, in compressed tiles."""
    return tiff(tmp_path / "slide.tif", PHOTO, photometric="rgb")


def test_one_grid_of_thumbnails_serves_two_levels(slide, tmp_path, model_paths):
    made = make_pyramid(slide, tmp_path / "a.zarr", chunk=64, model=str(model_paths[2]))
    group = zarr.open_group(tmp_path / "a.zarr", mode="r")
    shapes = [group[str(level)].shape for level in range(made.levels)]
    assert shapes == [(3, 200, 300), (3, 100, 150), (3, 50, 75), (3, 25, 38)]
    files = [p for p in (tmp_path / "a.zarr").rglob("*") if p.is_file() and p.parts[-5:-4] == ("0",)]
    assert len(files) == 20 and made.chunks == 22
    assert (tmp_path / "a.zarr" / "1" / "c").is_symlink()
    # a chunk in the middle, with 8 pixels of its neighbours
    data = (tmp_path / "a.zarr" / "0" / "c" / "0" / "1" / "2").read_bytes()
    assert info(data).shape == (80, 80)
    assert abs(decode(data).astype(float) - PHOTO[56:136, 120:200]).mean() < 20
    whole, small = decode(data), np.asarray(group["1"][:, 32:64, 64:96])
    assert np.array_equal(np.moveaxis(group["0"][:, 64:128, 128:192], 0, -1), whole[8:72, 8:72])
    assert small.shape == (3, 32, 32)
    assert abs(small.astype(int).mean() - PHOTO[64:128, 128:192].mean()) < 30
    assert made.costs[0].samples == PHOTO.size
    error = np.moveaxis(group["0"][...], 0, -1).astype(float) - PHOTO
    assert made.costs[0].rms == pytest.approx(np.sqrt((error**2).mean()))


def test_the_metadata_is_valid_ome_zarr(slide, tmp_path, model_paths):
    ome_zarr_models = pytest.importorskip("ome_zarr_models.v05")
    make_pyramid(slide, tmp_path / "a.zarr", chunk=64, model=str(model_paths[2]), measure=False)
    image = ome_zarr_models.Image.from_zarr(zarr.open_group(tmp_path / "a.zarr", mode="r"))
    (scales,) = image.ome_attributes.multiscales
    assert [axis.name for axis in scales.axes] == ["c", "y", "x"]
    transforms = [dataset.coordinateTransformations for dataset in scales.datasets]
    assert [one[0].scale[-1] for one in transforms] == [1, 2, 4, 8]
    assert [one[1].translation[-1] for one in transforms] == [0, 0.5, 1.5, 3.5]
    read = f"""
import zarr
group = zarr.open_group({str(tmp_path / "a.zarr")!r}, mode="r")
print(*(group[d["path"]][...].mean() for d in group.attrs["ome"]["multiscales"][0]["datasets"]))
"""
    means = [float(word) for word in in_a_fresh_process(read).split()]
    assert len(means) == 4 and max(means) - min(means) < 40


def test_a_stopped_run_goes_on_without_coding_a_chunk_twice(slide, tmp_path, model_paths):
    out, settings_ = tmp_path / "a.zarr", {"chunk": 64, "model": str(model_paths[2])}

    def stop(fraction: float) -> None:
        if fraction > 0.3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_pyramid(slide, out, progress=stop, **settings_)
    done = {p: p.stat().st_mtime_ns for p in (out / "0" / "c").rglob("*") if p.is_file()}
    assert 0 < len(done) < 20
    assert "ome" not in zarr.open_group(out, mode="r").attrs  # not taken for whole
    (out / "0" / "c" / "0" / ".0-deadbeef").write_bytes(b"half")  # what a kill leaves behind
    with pytest.raises(ImageError, match="another level"):
        make_pyramid(slide, out, level=0.5, **settings_)
    made = make_pyramid(slide, out, **settings_)
    assert (made.skipped, made.chunks) == (len(done), 22 - len(done))
    assert all(p.stat().st_mtime_ns == stamp for p, stamp in done.items())
    assert not list(out.rglob(".*"))
    assert make_pyramid(slide, out, level=0.5, force=True, **settings_).chunks == 22
    with pytest.raises(ImageError, match="isn't a pyramid of ours"):
        make_pyramid(slide, slide.parent, force=True, **settings_)


def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been(tmp_path, model_paths):
    source = tiff(tmp_path / "a.tif", make_photo(480, 480), photometric="rgb")
    killed, whole = tmp_path / "killed.zarr", tmp_path / "whole.zarr"
    words = ["--chunk", "64", "--no-report", "--json", "--model", str(model_paths[2])]
    command = [sys.executable, "-m", "napari_hyperthumb.cli", "pyramid", str(source), str(killed), *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        while len(chunks := files_of(killed / "0" / "c")) < 3 and process.poll() is None:
            time.sleep(0.005)
        process.kill()
        _, said = process.communicate()
    assert process.returncode != 0 and len(chunks) >= 3, said
    chunks = files_of(killed / "0" / "c")
    finished = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in chunks if path.name[0] != "."}
    assert len(finished) < 64
    for out, found in ((killed, len(finished)), (whole, 0)):
        result = CliRunner().invoke(app, ["pyramid", str(source), str(out), *words], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        done = json.loads(result.stdout)
        assert (done["found"], done["coded"]) == (found, 68 - found)
    assert all((path.stat().st_ino, path.stat().st_mtime_ns) == about for path, about in finished.items())
    assert [p.relative_to(killed) for p in files_of(killed)] == [
        p.relative_to(whole) for p in files_of(whole)
    ]
    for path in files_of(killed):
        assert path.read_bytes() == (whole / path.relative_to(killed)).read_bytes(), path


def test_stacks_and_channels_keep_their_axes_and_ranges(tmp_path, model_paths):
    cells = np.stack(
        [[PHOTO[:100, :130, c].astype(np.uint16) * (c + 1) * (z + 1) for c in range(2)] for z in range(2)]
    )
    about = {"axes": "ZCYX", "Channel": {"Name": ["a", "b"]}, "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25}
    source = tiff(tmp_path / "c.ome.tif", cells, photometric="minisblack", metadata=about)
    made = make_pyramid(source, tmp_path / "c.zarr", chunk=128, scale=4, model=str(model_paths[4]))
    group = zarr.open_group(tmp_path / "c.zarr", mode="r")
    assert group["0"].shape == (2, 2, 100, 130) and group["1"].shape == (2, 2, 25, 33)
    assert group["0"].dtype == group["1"].dtype == np.uint16
    assert made.ranges == tuple((float(cells[:, c].min()), float(cells[:, c].max())) for c in range(2))
    ome = group.attrs["ome"]
    assert [axis["name"] for axis in ome["multiscales"][0]["axes"]] == ["c", "z", "y", "x"]
    assert ome["multiscales"][0]["datasets"][1]["coordinateTransformations"][0]["scale"] == [1, 1, 1.0, 2.0]
    assert [one["label"] for one in ome["omero"]["channels"]] == ["a", "b"]
    back = np.swapaxes(group["0"][...], 0, 1)
    assert back.min() >= cells.min() and back.max() <= cells.max()
    assert np.corrcoef(back.ravel(), cells.ravel())[0, 1] > 0.8


def test_file_systems_without_symbolic_links_get_hard_ones(slide, tmp_path, model_paths, monkeypatch):
    def refuse(*args: object, **options: object) -> None:
        raise OSError("no such privilege")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    make_pyramid(slide, tmp_path / "a.zarr", chunk=128, model=str(model_paths[2]), measure=False)
    first, second = (tmp_path / "a.zarr" / level / "c" / "0" / "1" / "1" for level in "01")
    assert first.samefile(second)
    assert zarr.open_array(tmp_path / "a.zarr" / "1", mode="r")[:, 90:, 140:].mean() > 0


def test_seams_have_no_more_error_than_the_same_lines_of_one_chunk(tmp_path):
    """With the bundled weights; and chunks without a margin, where they show."""
    photo = make_photo(256, 256)[..., 1]
    path = tiff(tmp_path / "a.tif", photo, photometric="minisblack")

    def error(chunk: int, margin: int | None) -> float:
        out = tmp_path / f"{chunk}-{margin}.zarr"
        make_pyramid(path, out, chunk=chunk, margin=margin, measure=False)
        squares = (zarr.open_array(out / "0", mode="r")[...].astype(float) - photo) ** 2
        at = np.arange(64, 256, 64)
        lines = [*at, *(at - 1)]  # on both sides of where chunks of 64 meet
        return float(np.sqrt((squares[lines].mean() + squares[:, lines].mean()) / 2))

    seam = error(64, None)
    assert seam <= 1.05 * error(256, None)
    assert error(64, 0) > 1.1 * seam


def test_ranges_are_found_in_one_pass_and_percentiles_clip(tmp_path, model_paths):
    hot = PHOTO[..., 0].astype(np.float32) / 7
    hot[5, 5] = 1e6
    path = tiff(tmp_path / "hot.tif", hot, photometric="minisblack")
    options = {"chunk": 128, "model": str(model_paths[2])}
    with pytest.warns(HyperThumbWarning, match="outliers"):
        assert make_pyramid(path, tmp_path / "a.zarr", **options).ranges == ((float(hot.min()), 1e6),)
    words = ["pyramid", str(path), str(tmp_path / "c.zarr"), "--chunk", "128", "--model", str(model_paths[2])]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.stderr.startswith("hyperthumb: nearly all values lie from")
    made = make_pyramid(path, tmp_path / "b.zarr", value_range=Percentile(1, 99), **options)
    assert made.ranges[0] == pytest.approx(np.percentile(hot, [1, 99]), rel=0.02)
    assert made.costs[0].clipped > 0.01


# ---- regions ----------------------------------------------------------------------------------


def test_regions_of_every_kind_of_file_are_the_same(tmp_path):
    planes = np.stack([PHOTO[..., 0], PHOTO[..., 1]]).astype(np.uint16)
    common = {"photometric": "minisblack", "metadata": {"axes": "CYX"}}
    kinds = {
        "tiled": tiff(tmp_path / "t.tif", planes, **common),
        "strips": tiff(tmp_path / "s.tif", planes, tile=None, **common),
        "plain": tiff(tmp_path / "p.tif", planes, tile=None, compression=None, **common),
    }
    names = {"chunks": (1, 64, 64), "dimension_names": ["c", "y", "x"]}
    stored = zarr.create_array(tmp_path / "z.zarr", shape=planes.shape, dtype="uint16", **names)
    stored[...] = planes
    kinds["zarr"] = tmp_path / "z.zarr"
    for kind, path in kinds.items():
        with open_regions(path) as regions:
            assert regions.axes == "CYX", kind
            part = regions.read((1,), slice(50, 150), slice(7, 20))
            assert np.array_equal(part, planes[1, 50:150, 7:20]), kind
    assert isinstance(open_regions(kinds["plain"]).array, np.memmap)  # nothing is read whole


def test_pyramids_are_read_back_as_sources(slide, tmp_path, model_paths):
    make_pyramid(slide, tmp_path / "a.zarr", chunk=64, model=str(model_paths[2]), measure=False)
    regions = open_regions(tmp_path / "a.zarr", "SYX")
    assert regions.layout.rgb
    assert regions.read((), slice(0, 50), slice(0, 60)).shape == (50, 60, 3)


def test_sources_that_wont_do_are_named(tmp_path, model_paths):
    (tmp_path / "broken.tif").write_bytes(b"II*\0nothing")
    (tmp_path / "empty.zarr").mkdir()
    rgba = tiff(
        tmp_path / "rgba.tif", np.dstack([PHOTO, PHOTO[..., :1]]), photometric="rgb", extrasamples=(2,)
    )
    unknown = tiff(tmp_path / "unknown.tif", np.zeros((5, 70, 70), np.uint8), photometric="minisblack")
    mask = tiff(tmp_path / "mask.tif", np.zeros((70, 70), np.uint64), photometric="minisblack")
    for path, match in (
        ("nowhere.tif", "no such file"),
        ("broken.tif", "not a TIFF"),
        ("empty.zarr", "not a Zarr"),
        (rgba.name, "--alpha drop"),
        (unknown.name, "--axes"),
        (mask.name, "uint64"),
    ):
        with pytest.raises(ImageError, match=match) as caught:
            make_pyramid(tmp_path / path, tmp_path / "out.zarr", model=str(model_paths[2]))
        assert path in str(caught.value)
    assert not (tmp_path / "out.zarr").exists()
    made = make_pyramid(rgba, tmp_path / "out.zarr", alpha="drop", chunk=256, model=str(model_paths[2]))
    assert made.shape == (3, 200, 300)


def test_work_with_nothing_left_to_do_reads_nothing(slide, tmp_path, model_paths, monkeypatch):
    from napari_hyperthumb import pyramid

    bands = []
    monkeypatch.setattr(
        pyramid, "code_band", lambda band, report=no_report: bands.append(band) or code_band(band)
    )
    make_pyramid(slide, tmp_path / "a.zarr", chunk=64, model=str(model_paths[2]), measure=False)
    slide.unlink()
    assert code_band(bands[0]).chunks == 0


def test_the_command(slide, tmp_path, model_paths):
    words = ["pyramid", str(slide), str(tmp_path / "a.zarr"), "--chunk", "64", "--model", str(model_paths[2])]
    result = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["coded"], found["found"], found["levels"]) == (22, 0, 4)
    assert found["error"][0]["rms"] > 0
    again = CliRunner().invoke(app, words, catch_exceptions=False)
    assert "0 chunks coded, 22 found done" in again.stdout
    wrong = CliRunner().invoke(app, [*words, "--level", "1"], catch_exceptions=False)
    assert wrong.exit_code == 1 and "another level" in wrong.stderr
