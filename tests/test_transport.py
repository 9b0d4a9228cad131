"""JPEG XL around the finished file: the same bytes come back."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from samples import make_photo
from typer.testing import CliRunner

from napari_hyperthumb import DependencyError, ThumbnailError, _napari, cli, decode, encode, info
from napari_hyperthumb.transport import from_jxl, to_jxl

pytest.importorskip("imagecodecs")


@pytest.fixture(scope="module")
def jpeg(models) -> bytes:
    return encode(make_photo(200, 300), model=models[2]).data


def test_the_identical_jpeg_comes_back_from_fewer_bytes(jpeg, models):
    larger = encode(make_photo(400, 600), level=1, model=models[2]).data  # the container costs 50 bytes
    packed = to_jxl(larger)
    assert len(packed) < len(larger)
    assert from_jxl(packed) == larger
    assert from_jxl(jpeg) == jpeg


def test_files_are_written_and_read_by_their_ending(jpeg, models, model_paths, tmp_path):
    thumbnail = encode(make_photo(200, 300), model=models[2])
    thumbnail.save(tmp_path / "a.ht.jxl")
    assert info(tmp_path / "a.ht.jxl").shape == (200, 300)
    assert np.array_equal(decode(tmp_path / "a.ht.jxl", model=models[2]), decode(jpeg, model=models[2]))
    from PIL import Image

    Image.fromarray(make_photo(200, 300)).save(tmp_path / "b.png")
    words = ["encode", str(tmp_path / "b.png"), "--container", "jxl", "--model", str(model_paths[2])]
    result = CliRunner().invoke(cli.app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "b.ht.jxl").read_bytes() == (tmp_path / "a.ht.jxl").read_bytes()


@pytest.mark.usefixtures("tiny_weights")
def test_napari_opens_them_like_the_jpeg(jpeg, models, tmp_path):
    (tmp_path / "a.ht.jxl").write_bytes(to_jxl(jpeg))
    (tmp_path / "a.ht.jpg").write_bytes(jpeg)
    layers = {suffix: _napari.read(str(tmp_path / f"a.ht.{suffix}")) for suffix in ("jpg", "jxl")}
    assert [options["name"] for _, options, _ in layers["jxl"]] == ["a thumbnail", "a reconstruction"]
    for (data, options, _), (expected, wanted, _) in zip(layers["jxl"], layers["jpg"], strict=True):
        assert np.array_equal(data, expected) and options == wanted
    assert layers["jxl"][0][1]["metadata"]["hyperthumb"]["data"] == jpeg  # File, Save gives the JPEG
    (tmp_path / "a.ht.jxl").write_bytes(to_jxl(jpeg)[:60])
    with pytest.raises(ThumbnailError, match=r"a\.ht\.jxl: JPEG XL"):
        _napari.read(str(tmp_path / "a.ht.jxl"))


def test_damaged_files_are_refused(jpeg, tmp_path):
    packed = to_jxl(jpeg)
    import imagecodecs

    pixels = imagecodecs.jpegxl_encode(make_photo(16, 16), lossless=True)  # a JPEG XL without a JPEG inside
    for data in (packed[:-9], packed[:60], b"\xff\x0a", pixels, packed[:300] + bytes(8) + packed[308:]):
        path = tmp_path / "a.ht.jxl"
        path.write_bytes(data)
        with pytest.raises(ThumbnailError, match=r"a\.ht\.jxl"):
            decode(path)


def test_a_missing_imagecodecs_is_named(jpeg, monkeypatch):
    packed = to_jxl(jpeg)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(DependencyError, match=r"napari-hyperthumb\[jxl\]"):
        info(packed)


def test_decoding_a_jpeg_loads_no_imagecodecs():
    code = "import sys, napari_hyperthumb.codec; assert 'imagecodecs' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
