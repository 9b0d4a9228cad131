"""The command: files, folders and streams in and out, exit codes, and nothing half written."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from jpeg_bytes import without_metadata
from PIL import Image
from samples import make_photo
from typer.testing import CliRunner, Result

import napari_hyperthumb
from napari_hyperthumb import cli, codec
from napari_hyperthumb.checkpoint import Model
from napari_hyperthumb.codec import decode, encode, info

PICTURE = make_photo(40, 56)
FLOATS = PICTURE[:, :, 0] / np.float32(255)
Call = Callable[..., Result]


@pytest.fixture
def call(model_paths: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run the command in an empty folder and check its exit code.

    Commands that take weights are given tiny ones of scale `model`; None: none.
    """
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object, code: int = 0, stdin: bytes = b"", model: int | None = 2) -> Result:
        weights = [] if model is None or arguments[0] == "info" else ["--model", str(model_paths[model])]
        words = [*map(str, arguments), *weights]
        result = CliRunner().invoke(cli.app, words, input=stdin, catch_exceptions=False)
        assert result.exit_code == code, result.output
        return result

    return call


def save(path: str | Path, picture: np.ndarray = PICTURE) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, picture, photometric="rgb" if picture.ndim == 3 else "minisblack")
    else:
        Image.fromarray(picture).save(path)
    return path


def png_bytes(picture: np.ndarray = PICTURE) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def png_of_16_bit_colours() -> bytes:
    """Pillow reads them at 8 bits, and can't write them."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + row.tobytes() for row in (PICTURE * np.uint16(257)).astype(">u2"))
    header = struct.pack(">IIBBBBB", PICTURE.shape[1], PICTURE.shape[0], 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def strict_json(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} isn't JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture(scope="module")
def thumbnails(models: dict[int, Model]) -> dict[str, bytes]:
    """Files of some kinds of images."""
    kinds = {
        "rgb": PICTURE,
        "gray": PICTURE[:, :, 0],
        "uint16": PICTURE[:, :, 0].astype(np.uint16) * 200,
        "uint16 rgb": PICTURE.astype(np.uint16) * 200,
        "float": FLOATS,
    }
    return {name: encode(picture, model=models[2]).data for name, picture in kinds.items()}


# ---- encode -----------------------------------------------------------------------------------


def test_encode_writes_the_thumbnail_beside_the_picture(call, tmp_path, models):
    save("photo.png")
    result = call("encode", "photo.png")
    data = (tmp_path / "photo.ht.jpg").read_bytes()
    assert data == encode(PICTURE, model=models[2]).data
    assert result.stdout.startswith("photo.ht.jpg ")
    assert f"{len(data):,} bytes" in result.stdout
    assert result.stderr == ""


@pytest.mark.parametrize("output", ["named.jpg", "new/deep/named.jpg"])
def test_output_names_the_file_of_a_single_input(call, tmp_path, output):
    save("photo.png")
    call("encode", "photo.png", "-o", output)
    assert files_below(tmp_path) == sorted([output, "photo.png"])


def test_output_folder_that_exists_takes_a_single_input(call, tmp_path):
    save("photo.png")
    (tmp_path / "out").mkdir()
    call("encode", "photo.png", "-o", "out")
    assert files_below(tmp_path) == ["out/photo.ht.jpg", "photo.png"]


def test_folders_keep_their_layout_and_thumbnails_arent_coded_again(call, tmp_path, thumbnails):
    save("in/a.png")
    save("in/sub/b.tif", PICTURE[:, :, 0])
    save("in/sub/deeper/c.jpg")
    (tmp_path / "in" / "done.HT.JPG").write_bytes(thumbnails["rgb"])
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    result = call("encode", "in", "--output", "out")
    assert files_below(tmp_path / "out") == ["a.ht.jpg", "sub/b.ht.jpg", "sub/deeper/c.ht.jpg"]
    assert len(result.stdout.splitlines()) == 3
    assert info(tmp_path / "out" / "sub" / "b.ht.jpg").format.gray


def test_folders_without_output_get_thumbnails_beside_the_pictures(call, tmp_path):
    save("in/sub/a.png")
    call("encode", "in")
    assert files_below(tmp_path) == ["in/sub/a.ht.jpg", "in/sub/a.png"]


def test_files_and_folders_go_to_one_folder(call, tmp_path):
    save("in/sub/a.png")
    save("b.png")
    call("encode", "in", "b.png", "-o", "out")
    assert files_below(tmp_path / "out") == ["b.ht.jpg", "sub/a.ht.jpg"]


def test_encode_from_stream_to_stream(call, tmp_path, models):
    result = call("encode", "-", stdin=png_bytes())
    assert result.stdout_bytes == encode(PICTURE, model=models[2]).data
    assert result.stderr == ""
    assert files_below(tmp_path) == []


def test_encode_from_stream_to_file_and_from_file_to_stream(call, tmp_path):
    call("encode", "-", "-o", "a.jpg", stdin=png_bytes())
    save("b.png")
    assert call("encode", "b.png", "-o", "-").stdout_bytes == (tmp_path / "a.jpg").read_bytes()


def test_stream_among_many_inputs_has_a_name_in_the_folder(call, tmp_path):
    save("b.png")
    call("encode", "-", "b.png", "-o", "out", stdin=png_bytes())
    assert files_below(tmp_path / "out") == ["b.ht.jpg", "stdin.ht.jpg"]


@pytest.mark.parametrize(
    ("option", "key", "value"),
    [("--level", "level", -0.5), ("--bytes", "nbytes", 1200), ("--bpp", "bpp", 0.8), ("--psnr", "psnr", 29)],
)
def test_targets_reach_the_codec(call, tmp_path, photo, models, option, key, value):
    save("a.png", photo)
    call("encode", "a.png", option, value)
    expected = encode(photo, model=models[2], **{key: value})
    assert -1 < expected.level < 1
    assert (tmp_path / "a.ht.jpg").read_bytes() == expected.data


def test_scale_and_weights_go_together(call, tmp_path):
    save("a.png")
    call("encode", "a.png", "--scale", "4", model=4)
    assert info(tmp_path / "a.ht.jpg").scale == 4
    result = call("encode", "a.png", "--scale", "2", "-f", model=4, code=1)
    assert "scale 4, not 2" in result.stderr


def test_bundled_weights_are_used_when_none_are_named(call, tmp_path):
    save("a.png", PICTURE[:16, :16])
    call("encode", "a.png", model=None)
    assert info(tmp_path / "a.ht.jpg").model == "ht-x2"
    call("decode", "a.ht.jpg", "-o", "b.png", model=None)
    with Image.open("b.png") as image:
        assert image.size == (16, 16)


def test_range_decides_what_is_black_and_white(call, tmp_path):
    save("a.tif", FLOATS)
    call("encode", "a.tif", "--range", "-1", "3")
    assert info(tmp_path / "a.ht.jpg").format.range == (-1.0, 3.0)
    result = call("encode", "a.tif", "--range", "3", "-1", "-f", code=1)
    assert "low first" in result.stderr


def test_alpha_is_refused_unless_it_may_be_dropped(call, tmp_path, models):
    save("a.png", np.dstack([PICTURE, PICTURE[:, :, 0]]))
    result = call("encode", "a.png", code=1)
    assert "a.png: " in result.stderr
    assert "--alpha drop" in result.stderr
    assert not (tmp_path / "a.ht.jpg").exists()
    call("encode", "a.png", "--alpha", "drop")
    assert (tmp_path / "a.ht.jpg").read_bytes() == encode(PICTURE, model=models[2]).data


def test_effort_and_its_budget_reach_the_codec(call, monkeypatch):
    real, given = codec.encode, []

    def recorded(image: np.ndarray, **options: Any) -> codec.Thumbnail:
        given.append((options.pop("effort"), options.pop("seconds")))
        return real(image, **options)

    monkeypatch.setattr(codec, "encode", recorded)
    save("a.png")
    call("encode", "a.png")
    call("encode", "a.png", "--effort", "best", "--seconds", "2.5", "--force")
    assert given == [("fast", None), ("best", 2.5)]


def test_json_of_encode(call, tmp_path):
    save("a.png")
    (tmp_path / "bad.png").write_bytes(b"nothing")
    found = strict_json(call("encode", "a.png", "bad.png", "--json", code=1).stdout)
    (result,) = found["results"]
    size = (tmp_path / "a.ht.jpg").stat().st_size
    assert (result["input"], result["output"], result["bytes"]) == ("a.png", "a.ht.jpg", size)
    assert result["bpp"] == pytest.approx(8 * size / (40 * 56))
    assert (result["scale"], result["level"], result["shape"]) == (2, 0.0, [40, 56, 3])
    assert result["warnings"] == []
    assert result["model"].startswith("tiny-x2-")
    assert len(found["failures"]) == 1
    assert "bad.png" in found["failures"][0]


def test_warnings_are_printed_and_listed(call, tmp_path):
    (tmp_path / "a.png").write_bytes(png_of_16_bit_colours())
    result = call("encode", "a.png")
    assert result.stderr.startswith("warning: a.png: ")
    assert "read at 8 bits" in result.stderr
    found = strict_json(call("encode", "a.png", "--json", "-f").stdout)
    assert "8 bits" in found["results"][0]["warnings"][0]


def test_quiet_prints_failures_only(call, tmp_path):
    save("a.png")
    result = call("encode", "a.png", "nothing.png", "-q", code=1)
    assert result.stdout == ""
    assert result.stderr.splitlines() == ["1 of 2 failed:", "  nothing.png: no such file"]


# ---- decode -----------------------------------------------------------------------------------


def test_decode_writes_the_picture_beside_the_thumbnail(call, tmp_path, thumbnails, models):
    (tmp_path / "photo.ht.jpg").write_bytes(thumbnails["rgb"])
    result = call("decode", "photo.ht.jpg")
    with Image.open("photo.png") as image:
        assert np.array_equal(np.asarray(image), decode(thumbnails["rgb"], model=models[2]))
    assert result.stdout == "photo.png  56x40  uint8\n"


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        ("rgb", ".png"),
        ("gray", ".png"),
        ("uint16", ".png"),
        ("uint16 rgb", ".tif"),
        ("float", ".tif"),
    ],
)
@pytest.mark.parametrize("output", [None, "out"])
def test_every_dtype_gets_a_file_that_holds_it(call, tmp_path, thumbnails, models, kind, suffix, output):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.ht.jpg").write_bytes(thumbnails[kind])
    call("decode", "in", *([] if output is None else ["-o", output]))
    path = tmp_path / (output or "in") / f"a{suffix}"
    assert files_below(path.parent) == [path.name] if output else [path.name, "a.ht.jpg"]
    if suffix == ".tif":
        decoded = tifffile.imread(path)
    else:
        with Image.open(path) as image:
            decoded = np.asarray(image)
    expected = decode(thumbnails[kind], model=models[2])
    assert decoded.dtype == expected.dtype
    assert np.array_equal(decoded, expected)


def test_named_file_that_cant_hold_the_dtype_is_an_error(call, tmp_path, thumbnails):
    (tmp_path / "a.ht.jpg").write_bytes(thumbnails["float"])
    result = call("decode", "a.ht.jpg", "-o", "a.png", code=1)
    assert "write .tif instead" in result.stderr
    call("decode", "a.ht.jpg", "-o", "a.tiff")
    assert files_below(tmp_path) == ["a.ht.jpg", "a.tiff"]


def test_decode_folders_takes_thumbnails_only_and_keeps_the_layout(call, tmp_path, thumbnails):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "a.ht.jpg").write_bytes(thumbnails["gray"])
    (tmp_path / "in" / "sub" / "b.ht.jpg").write_bytes(thumbnails["rgb"])
    save("in/ordinary.jpg")
    call("decode", "in", "-o", "out")
    assert files_below(tmp_path / "out") == ["a.png", "sub/b.png"]


@pytest.mark.parametrize(
    ("kind", "magic"), [("rgb", b"\x89PNG"), ("uint16", b"\x89PNG"), ("float", b"II*\0")]
)
def test_decode_from_stream_to_stream(call, thumbnails, models, kind, magic):
    result = call("decode", "-", stdin=thumbnails[kind])
    assert result.stdout_bytes.startswith(magic)
    expected = decode(thumbnails[kind], model=models[2])
    if magic == b"\x89PNG":
        with Image.open(io.BytesIO(result.stdout_bytes)) as image:
            assert np.array_equal(np.asarray(image), expected)
    else:
        assert np.array_equal(tifffile.imread(io.BytesIO(result.stdout_bytes)), expected)


def test_json_of_decode(call, tmp_path, thumbnails):
    (tmp_path / "a.ht.jpg").write_bytes(thumbnails["float"])
    (result,) = strict_json(call("decode", "a.ht.jpg", "--json").stdout)["results"]
    assert (result["output"], result["shape"], result["dtype"]) == ("a.tif", [40, 56], "float32")


def test_stripped_metadata_needs_the_scale_and_warns(call, tmp_path, thumbnails):
    (tmp_path / "a.jpg").write_bytes(without_metadata(thumbnails["rgb"]))
    result = call("decode", "a.jpg", code=1)
    assert "--scale" in result.stderr
    result = call("decode", "a.jpg", "--scale", "2")
    assert "warning: a.jpg: its metadata is missing" in result.stderr
    assert (tmp_path / "a.png").exists()


def test_other_weights_need_permission_and_warn(call, tmp_path, models, other_model, thumbnails):
    other = encode(PICTURE, model=other_model).data
    (tmp_path / "a.ht.jpg").write_bytes(other)
    result = call("decode", "a.ht.jpg", code=1)
    assert "other-x2" in result.stderr
    assert "--any-model" in result.stderr
    result = call("decode", "a.ht.jpg", "--any-model")
    assert "loss of quality" in result.stderr


def test_max_pixels_refuses_larger_images(call, tmp_path, thumbnails):
    (tmp_path / "a.ht.jpg").write_bytes(thumbnails["rgb"])
    result = call("decode", "a.ht.jpg", "--max-pixels", 40 * 56 - 1, code=1)
    assert "--max-pixels" in result.stderr
    call("decode", "a.ht.jpg", "--max-pixels", 40 * 56)


# ---- info -------------------------------------------------------------------------------------


def test_info_says_what_a_file_is(call, tmp_path, thumbnails, models):
    (tmp_path / "a.ht.jpg").write_bytes(thumbnails["uint16"])
    text = call("info", "a.ht.jpg").stdout
    for part in ("a.ht.jpg", "56x40 gray uint16", "28x20 (scale 2)", models[2].digest):
        assert part in text
    assert "luma" not in text


def test_info_prints_tables_when_asked(call, tmp_path, thumbnails):
    (tmp_path / "a.ht.jpg").write_bytes(thumbnails["rgb"])
    lines = call("info", "--tables", "a.ht.jpg").stdout.splitlines()
    luma, chroma = lines.index("  luma"), lines.index("  chroma")
    read = [[int(word) for word in line.split()] for line in lines[luma + 1 : luma + 9]]
    tables = info(thumbnails["rgb"]).tables
    assert read == tables[0].tolist()
    assert [int(word) for word in lines[chroma + 1].split()] == tables[1][0].tolist()


def test_json_of_info(call, tmp_path, thumbnails, models):
    (tmp_path / "a.ht.jpg").write_bytes(thumbnails["float"])
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "b.ht.jpg").write_bytes(thumbnails["rgb"])
    save("in/ordinary.jpg")
    found = strict_json(call("info", "a.ht.jpg", "in", "--json").stdout)
    first, second = found["results"]
    assert found["failures"] == []
    assert (first["input"], first["channels"], first["dtype"]) == ("a.ht.jpg", 1, "float32")
    assert first["range"] == pytest.approx([FLOATS.min(), FLOATS.max()])
    assert (second["width"], second["height"], second["channels"]) == (56, 40, 3)
    assert (second["thumbnail_width"], second["thumbnail_height"], second["scale"]) == (28, 20, 2)
    assert second["bytes"] == len(thumbnails["rgb"])
    assert (second["model"], second["digest"]) == ("tiny-x2", models[2].digest)
    assert np.array_equal([second["luma"], second["chroma"]], info(thumbnails["rgb"]).tables)


def test_info_reads_streams(call, thumbnails):
    assert "56x40" in call("info", "-", stdin=thumbnails["rgb"]).stdout


def test_info_of_ordinary_jpegs_is_a_failure(call):
    save("a.jpg")
    result = call("info", "a.jpg", code=1)
    assert "ordinary picture" in result.stderr


# ---- compare ----------------------------------------------------------------------------------


def test_compare_prints_a_table_and_writes_a_picture(call, tmp_path):
    save("a.png")
    text = call("compare", "a.png", "--bytes", "1300").stdout
    rows = [line.split() for line in text.splitlines()]
    assert rows[0] == ["codec", "bytes", "bpp", "PSNR", "dB", "SSIM"]
    assert text.splitlines()[1].startswith("HyperThumb x2")
    assert text.splitlines()[2].startswith("JPEG")
    assert all(int(row[-4].replace(",", "")) <= 1300 for row in rows[1:-1])
    assert rows[-1] == ["picture:", "a.compare.png"]
    with Image.open(tmp_path / "a.compare.png") as image:
        assert image.width > 300


def test_json_of_compare_is_strict_though_a_codec_is_exact(call, tmp_path):
    save("a.png", np.full((40, 40), 128, np.uint8))
    (result,) = strict_json(call("compare", "a.png", "--bytes", "1500", "--json").stdout)["results"]
    assert (result["input"], result["output"]) == ("a.png", "a.compare.png")
    names = [row["name"] for row in result["codecs"]]
    assert names[:2] == ["HyperThumb x2", "JPEG"]
    jpeg = result["codecs"][1]
    assert jpeg["psnr"] is None
    assert jpeg["bpp"] == pytest.approx(8 * jpeg["bytes"] / 1600)
    assert not jpeg["exceeds"]
    text = call("compare", "a.png", "--bytes", "1500", "-f").stdout
    assert "exact" in text.splitlines()[2]


def test_compare_takes_images_too_small_for_ssim(call):
    save("a.png", PICTURE[:10, :10])
    text = call("compare", "a.png", "--bytes", "1000").stdout
    assert text.splitlines()[1].split()[-1] == "-"


def test_compare_streams_and_refuses_to_replace(call, tmp_path):
    result = call("compare", "-", "--bytes", "1300", "-o", "-", stdin=png_bytes())
    assert result.stdout_bytes.startswith(b"\x89PNG")
    (tmp_path / "stdin.compare.png").write_bytes(b"mine")
    result = call("compare", "-", "--bytes", "1300", stdin=png_bytes(), code=1)
    assert "--force" in result.stderr
    assert (tmp_path / "stdin.compare.png").read_bytes() == b"mine"


def test_compare_at_an_impossible_size_is_a_failure(call):
    save("a.png")
    result = call("compare", "a.png", "--bpp", "0.01", code=1)
    assert "can't be reached" in result.stderr


# ---- failures ---------------------------------------------------------------------------------


def test_failed_files_dont_stop_the_others_and_are_listed(call, tmp_path):
    (tmp_path / "bad1.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    save("good1.png")
    (tmp_path / "bad2.jpg").write_bytes(b"")
    save("good2.png")
    result = call("encode", "bad1.png", "good1.png", "missing.png", "bad2.jpg", "good2.png", code=1)
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["good1.ht.jpg", "good2.ht.jpg"]
    listed = result.stderr.splitlines()
    assert listed[0] == "3 of 5 failed:"
    for line, name in zip(listed[1:], ("bad1.png", "missing.png", "bad2.jpg"), strict=True):
        assert line.startswith(f"  {name}")


@pytest.mark.parametrize("command", ["decode", "info"])
def test_failed_thumbnails_dont_stop_the_others(call, tmp_path, thumbnails, command):
    (tmp_path / "a.ht.jpg").write_bytes(thumbnails["rgb"][:300])
    (tmp_path / "b.ht.jpg").write_bytes(thumbnails["rgb"])
    result = call(command, "a.ht.jpg", "b.ht.jpg", code=1)
    assert "1 of 2 failed" in result.stderr
    assert result.stdout != ""


def test_files_that_exist_are_kept_unless_forced(call, tmp_path, thumbnails):
    save("a.png")
    (tmp_path / "a.ht.jpg").write_bytes(b"mine")
    result = call("encode", "a.png", code=1)
    assert "a.ht.jpg: exists already; --force replaces it" in result.stderr
    assert (tmp_path / "a.ht.jpg").read_bytes() == b"mine"
    call("encode", "a.png", "--force")
    assert (tmp_path / "a.ht.jpg").read_bytes()[:2] == b"\xff\xd8"
    before = (tmp_path / "a.png").read_bytes()
    call("decode", "a.ht.jpg", code=1)
    assert (tmp_path / "a.png").read_bytes() == before


def test_no_work_is_done_for_a_file_that_exists(call, tmp_path, monkeypatch):
    def work(*arguments: object, **options: object) -> None:
        raise AssertionError("coded all the same")

    monkeypatch.setattr(codec, "encode", work)
    save("a.png")
    save("a.ht.jpg")
    save("a.compare.png")
    assert "--force" in call("encode", "a.png", code=1).stderr
    assert "--force" in call("compare", "a.png", code=1).stderr


def test_two_inputs_never_write_one_file(call, tmp_path, models):
    save("a.jpg", PICTURE[::-1])
    save("a.png")
    result = call("encode", "a.png", "a.jpg", "-f", code=1)
    assert "a.jpg: would be written over the result of a.png" in result.stderr
    assert (tmp_path / "a.ht.jpg").read_bytes() == encode(PICTURE, model=models[2]).data


def test_two_folders_never_write_one_file(call, tmp_path):
    save("x/a.png")
    save("y/a.png")
    save("y/b.png")
    result = call("encode", "x", "y", "-o", "out", "-f", code=1)
    assert f"{Path('y/a.png')}: would be written over the result of {Path('x/a.png')}" in result.stderr
    assert files_below(tmp_path / "out") == ["a.ht.jpg", "b.ht.jpg"]


def test_output_that_cant_be_written_is_a_failure(call, tmp_path):
    save("a.png")
    (tmp_path / "file").write_text("in the way")
    result = call("encode", "a.png", "-o", "file/a.jpg", code=1)
    assert "file: can't be made" in result.stderr
    (tmp_path / "a.ht.jpg").mkdir()
    result = call("encode", "a.png", "--force", code=1)
    assert "a.ht.jpg: can't be written" in result.stderr
    assert files_below(tmp_path) == ["a.png", "file"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_failed_write_leaves_the_old_file_and_nothing_else(call, tmp_path, monkeypatch, step):
    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    save("a.png")
    (tmp_path / "a.ht.jpg").write_bytes(b"old")
    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), fail)
    result = call("encode", "a.png", "--force", code=1)
    assert "a.ht.jpg: can't be written: No space left on device" in result.stderr
    assert files_below(tmp_path) == ["a.ht.jpg", "a.png"]
    assert (tmp_path / "a.ht.jpg").read_bytes() == b"old"


def test_ctrl_c_ends_with_130_and_leaves_no_half_file(call, tmp_path, monkeypatch):
    real, seen = codec.encode, []

    def interrupted(image: np.ndarray, **options: Any) -> codec.Thumbnail:
        seen.append(image)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return real(image, **options)

    for name in "abc":
        save(f"{name}.png")
    monkeypatch.setattr(codec, "encode", interrupted)
    call("encode", "a.png", "b.png", "c.png", code=130)
    assert files_below(tmp_path) == ["a.ht.jpg", "a.png", "b.png", "c.png"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "missing.safetensors"], "no such weights"),
        (["--device", "abacus"], "unknown device"),
        (["--level", "3"], "level must be from"),
        (["--bytes", "10"], "can't be reached"),
        (["--psnr", "90"], "can't be reached"),
    ],
)
def test_what_an_image_cant_have_is_a_failure_in_words(call, model_paths, options, message):
    save("a.png")
    model = None if "--model" in options else 2
    assert message in call("encode", "a.png", *options, code=1, model=model).stderr


# ---- wrong usage ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("encode", "INPUT"),
        ("encode a.png --nonsense", "--nonsense"),
        ("encode a.png --scale 3", "--scale"),
        ("encode a.png --alpha maybe", "--alpha"),
        ("encode a.png --effort great", "--effort"),
        ("encode a.png --bpp much", "--bpp"),
        ("encode a.png --bpp 1 --level 0", "give one of --bpp, --bytes, --psnr and --level"),
        ("compare a.png --bpp 1 --bytes 9", "give one of --bpp and --bytes"),
        ("encode a.png b.png -o -", "standard output holds one result only"),
        ("encode a.png b.png -o a.png", "is a file; many inputs need a folder"),
        ("encode folder -o a.png", "is a file; many inputs need a folder"),
        ("encode empty", "empty: no picture in this folder"),
        ("decode folder", "folder: no picture in this folder"),
        ("encode a.png -o - --json", "can't both go to standard output"),
        ("encode - --json", "can't both go to standard output"),
        ("decode a.png --max-pixels many", "--max-pixels"),
        ("nonsense", "nonsense"),
    ],
)
def test_wrong_usage_is_explained_and_changes_nothing(call, tmp_path, arguments, message):
    save("a.png")
    save("b.png")
    save("folder/c.png")
    (tmp_path / "empty").mkdir()
    before = files_below(tmp_path)
    result = call(*arguments.split(), code=2, model=None)
    assert message in result.stderr
    assert result.stdout == ""
    assert files_below(tmp_path) == before


def test_command_alone_prints_its_help(tmp_path):
    result = CliRunner().invoke(cli.app, [])
    assert "Usage" in result.output
    for name in ("encode", "decode", "info", "compare"):
        assert name in result.output


# ---- as a program -----------------------------------------------------------------------------

PROGRAM = [sys.executable, "-m", "napari_hyperthumb.cli"]


def program(*arguments: object, stdin: bytes = b"", **variables: str) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **variables}
    command = [*PROGRAM, *map(str, arguments)]
    return subprocess.run(
        command, input=stdin, capture_output=True, env=environment, timeout=300, check=False
    )


def test_version():
    done = program("--version")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().split() == ["hyperthumb", napari_hyperthumb.__version__]


def test_help_lists_every_command():
    done = program("--help")
    assert done.returncode == 0
    for name in ("encode", "decode", "info", "compare", "train", "evaluate"):
        assert f" {name} " in done.stdout.decode()


def test_command_is_installed():
    (entry,) = entry_points(group="console_scripts", name="hyperthumb")
    assert entry.load() is cli.main


def test_bytes_pass_through_real_pipes_unchanged(model_paths, models):
    done = program("encode", "-", "--model", model_paths[2], stdin=png_bytes())
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == encode(PICTURE, model=models[2]).data


def test_names_that_cant_be_printed_end_no_work(tmp_path, thumbnails, monkeypatch):
    path = tmp_path / "schön.ht.jpg"
    path.write_bytes(thumbnails["rgb"])
    words = ["hyperthumb", "info", path, tmp_path / "fehlt.ht.jpg", path]
    monkeypatch.setattr(sys, "argv", list(map(str, words)))
    monkeypatch.setattr("napari_hyperthumb._cli_training.add_training_commands", lambda app: None)
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding="ascii"))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    sys.stdout.flush()
    assert ended.value.code == 1
    assert buffer.getvalue().count(rb"sch\xf6n.ht.jpg") == 2
