"""Measurements of weights: figures of real files, their means, and the tables made of them."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from samples import make_photo

from napari_hyperthumb.codec import decode, encode
from napari_hyperthumb.errors import DependencyError, ImageError, RateError
from napari_hyperthumb.training import evaluation as ev
from napari_hyperthumb.training.evaluation import Measurement

pytest.importorskip("torchmetrics", reason="MS-SSIM needs napari-hyperthumb[train]")


def row(image: str, level: float, **figures: float) -> Measurement:
    values = dict.fromkeys(("nbytes", "estimated_nbytes", "bpp", "psnr", "ssim", "ms_ssim", "lr_psnr"), 1.0)
    return Measurement(image=image, level=level, **(values | figures))


def decibels(a: np.ndarray, b: np.ndarray, peak: float) -> float:
    return 10 * math.log10(peak**2 / np.mean((a.astype(float) - b.astype(float)) ** 2))


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("gray", [False, True], ids=["rgb", "gray"])
def test_figures_are_those_of_the_decoded_file(photo, models, scale, gray):
    picture = photo[:, :, 1] if gray else photo
    measured = ev.measure("a.png", picture, models[scale], -0.3)
    thumbnail = encode(picture, level=-0.3, model=models[scale])
    decoded = decode(thumbnail.data, model=models[scale])
    assert (measured.image, measured.level) == ("a.png", -0.3)
    assert measured.nbytes == len(thumbnail.data)
    assert measured.bpp == pytest.approx(8 * len(thumbnail.data) / (96 * 130))
    assert measured.psnr == pytest.approx(decibels(picture, decoded, 255))
    with Image.open(io.BytesIO(thumbnail.data)) as image:
        by_hand = Image.fromarray(picture).resize(image.size, Image.Resampling.BICUBIC)
        shown = np.asarray(image)
    assert measured.lr_psnr == pytest.approx(decibels(np.asarray(by_hand), shown, 255))


def test_ssim_is_1_for_equal_images_and_falls_with_noise(models):
    picture = make_photo(176, 190)
    noisy = np.clip(picture + np.random.default_rng(0).normal(0, 20, picture.shape), 0, 255)
    assert ev.ms_ssim(picture, picture, 255) == pytest.approx(1)
    assert ev.ms_ssim(picture, noisy.astype(np.uint8), 255) < 0.98
    measured = ev.measure("a", picture, models[2], 1.0)
    assert 0.3 < measured.ssim < measured.ms_ssim < 1


def test_deep_images_are_measured_over_their_own_range(photo, models):
    deep = photo[:, :, 0].astype(np.uint16) * 100 + 1000
    measured = ev.measure("a", deep, models[2], 0.5)
    decoded = decode(encode(deep, level=0.5, model=models[2]).data, model=models[2])
    assert measured.psnr == pytest.approx(decibels(deep, decoded, float(deep.max()) - float(deep.min())))
    assert 5 < measured.lr_psnr < 70


def test_alpha_is_left_out(photo, models):
    with_alpha = np.dstack([photo, np.full((96, 130), 7, np.uint8)])
    # Written out as text, where NaN equals NaN.
    assert str(ev.measure("a", with_alpha, models[2], 0)) == str(ev.measure("a", photo, models[2], 0))


@pytest.mark.parametrize("shape", [(1, 1), (10, 12), (30, 40), (175, 300)])
def test_figures_that_dont_exist_for_small_images_are_nan(models, shape):
    measured = ev.measure("a", make_photo(*shape), models[2], 0.0)
    assert math.isnan(measured.ms_ssim)
    assert math.isnan(measured.ssim) == (min(shape) < 11)
    assert math.isfinite(measured.psnr)


def test_missing_torchmetrics_names_the_extra(photo, models, monkeypatch):
    for name in ("torchmetrics", "torchmetrics.functional", "torchmetrics.functional.image"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DependencyError, match=r"napari-hyperthumb\[train\]"):
        ev.measure("a", photo, models[2], 0.0)


def test_evaluate_measures_every_file_at_every_level(tmp_path, models):
    for name in "ab":
        Image.fromarray(make_photo(24, 32)).save(tmp_path / f"{name}.png")
    rows = list(ev.evaluate(sorted(tmp_path.iterdir()), models[2], levels=(-1.0, 1.0)))
    assert [(r.image, r.level) for r in rows] == [
        ("a.png", -1.0),
        ("a.png", 1.0),
        ("b.png", -1.0),
        ("b.png", 1.0),
    ]


def test_evaluate_stops_at_what_cant_be_measured(tmp_path, models):
    with pytest.raises(ImageError, match="nothing"):
        list(ev.evaluate([tmp_path / "nothing.png"], models[2]))
    Image.fromarray(make_photo(24, 32)).save(tmp_path / "a.png")
    with pytest.raises(RateError, match="level"):
        list(ev.evaluate([tmp_path / "a.png"], models[2], levels=(1.5,)))


def test_default_levels_cover_the_range():
    assert ev.DEFAULT_LEVELS == (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0)


# ---- the rate model ---------------------------------------------------------------------------


@pytest.mark.parametrize("gray", [False, True], ids=["rgb", "gray"])
def test_estimated_bytes_are_near_the_real_ones(models, gray):
    picture = make_photo(384, 512)
    picture = picture[:, :, 0] if gray else picture
    rows = [ev.measure("a", picture, models[2], level) for level in (0.5, 1.0)]
    assert ev.estimate_error(rows) < 0.06
    assert rows[0].estimated_nbytes < rows[1].estimated_nbytes


def test_estimate_error_is_the_rms_of_the_relative_error():
    rows = [row("a", 0, nbytes=100, estimated_nbytes=110), row("b", 0, nbytes=200, estimated_nbytes=180)]
    assert ev.estimate_error(rows) == pytest.approx(0.1)
    rows.append(row("c", 0, nbytes=50, estimated_nbytes=50))
    assert ev.estimate_error(rows) == pytest.approx(math.sqrt(0.02 / 3))


# ---- tables -----------------------------------------------------------------------------------

ROWS = [
    row("a", 1.0, bpp=0.4, psnr=32.0, ms_ssim=math.nan, lr_psnr=40.0),
    row("a", -1.0, bpp=0.1, psnr=26.0, ms_ssim=math.nan, lr_psnr=30.0),
    row("b", 1.0, bpp=0.4, psnr=36.0, ms_ssim=0.9, lr_psnr=math.inf),
    row("b", -1.0, bpp=0.1, psnr=30.0, ms_ssim=0.8, lr_psnr=math.inf),
]


def test_means_are_of_each_level_without_what_isnt_finite():
    low, high = ev.means(ROWS)
    assert (low.image, low.level, high.level) == ("mean", -1.0, 1.0)
    assert (low.psnr, high.psnr) == (28.0, 34.0)
    assert (low.ms_ssim, high.ms_ssim) == (0.8, 0.9)
    assert (low.lr_psnr, high.lr_psnr) == (30.0, 40.0)
    assert math.isnan(ev.means(ROWS[:2])[0].ms_ssim)


def test_rates_are_read_off_the_mean_curve():
    found = ev.at_rates(ROWS, (0.05, 0.1, 0.2, 0.4, 0.5))
    assert found[0.05] is None
    assert found[0.5] is None
    assert found[0.1] == pytest.approx(28)
    assert found[0.2] == pytest.approx(31)  # half way on the logarithmic axis
    assert found[0.4] == pytest.approx(34)


def test_csv_has_all_rows_and_then_the_means():
    read = list(csv.DictReader(io.StringIO(ev.to_csv(ROWS), newline="")))
    assert list(read[0]) == [f.name for f in fields(Measurement)]
    assert [r["image"] for r in read] == ["a", "a", "b", "b", "mean", "mean"]
    assert [float(r["psnr"]) for r in read] == [32, 26, 36, 30, 28, 34]
    assert math.isnan(float(read[0]["ms_ssim"]))


def test_json_is_strict_and_complete():
    def refuse(text: str) -> None:
        raise AssertionError(f"{text} isn't JSON")

    read = json.loads(ev.to_json(ROWS), parse_constant=refuse)
    assert [r["psnr"] for r in read["images"]] == [32, 26, 36, 30]
    assert read["images"][0]["ms_ssim"] is None
    assert read["images"][2]["lr_psnr"] is None
    assert [r["lr_psnr"] for r in read["means"]] == [30, 40]
    assert read["psnr_at_bpp"]["0.2"] == pytest.approx(31)
    assert read["psnr_at_bpp"]["0.5"] is None
    assert read["rate_model_rms_error"] == 0


def test_bicubic_thumbnail_has_the_wanted_size_and_kind(photo):
    assert ev.bicubic_thumbnail(photo, (48, 65)).shape == (48, 65, 3)
    gray = photo[:, :, 0].astype(np.float32) / 255
    small = ev.bicubic_thumbnail(gray, (24, 33))
    assert (small.shape, small.dtype) == ((24, 33), np.uint8)


def test_file_names_without_folders_are_in_the_rows(tmp_path: Path, models):
    (tmp_path / "deep").mkdir()
    path = tmp_path / "deep" / "a.png"
    Image.fromarray(make_photo(16, 16)).save(path)
    (measured,) = ev.evaluate([path], models[4], levels=(0.0,))
    assert measured.image == "a.png"
