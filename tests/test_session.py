"""Sessions: steps, curves and targets of one picture, without a screen."""

from __future__ import annotations

import math

import numpy as np
import pytest
from samples import make_photo
from skimage import data

from napari_hyperthumb import ImageError, RateError, codec, decode, encode
from napari_hyperthumb.checkpoint import Model
from napari_hyperthumb.compare import RatePoint, available_codecs
from napari_hyperthumb.session import (
    CALIBRATION_LEVELS,
    GAINS,
    SHARES,
    RateCurve,
    Session,
    aligned_region,
    as_eight_bit,
    as_original,
    choose,
    difference,
    rate_range,
    rising,
)
from napari_hyperthumb.targets import Target


def points(*values: tuple[float, float, float]) -> tuple[RatePoint, ...]:
    return tuple(RatePoint(level, round(1000 * bpp), bpp, psnr) for level, bpp, psnr in values)


CURVE = RateCurve(points((-1, 0.1, 25), (0, 0.2, 28), (1, 0.8, 34)))


def test_a_curve_interpolates_in_the_logarithm_of_the_rate() -> None:
    assert CURVE.level_at(0.1) == -1
    assert CURVE.level_at(0.4) == pytest.approx(0.5)
    assert CURVE.psnr_at(0.4) == pytest.approx(31)
    assert CURVE.bpp_at(0.5) == pytest.approx(0.4)
    assert CURVE.level_at(9) == 1
    assert CURVE.level_at(0.01) == -1
    assert CURVE.range == (0.1, 0.8)


def test_a_curve_moves_to_pass_through_a_measured_file() -> None:
    moved = CURVE.with_measured(0.0, 0.22)
    assert moved.bpp_at(0.0) == pytest.approx(0.22)
    assert moved.level_at(0.22) == pytest.approx(0)
    assert moved.psnr_at(0.22) == pytest.approx(28)


def test_a_curve_needs_two_points() -> None:
    with pytest.raises(RateError):
        RateCurve(points((0, 0.2, 28)))


def test_points_that_take_no_more_bytes_are_left_out() -> None:
    found = rising(points((0, 0.3, 28), (-1, 0.1, 25), (-0.5, 0.1, 25.1), (1, 0.2, 30)))
    assert [p.quality for p in found] == [-1, 0]


def test_an_image_of_one_size_at_every_level_still_has_a_curve() -> None:
    found = RateCurve(rising(points((-1, 0.1, 99), (0, 0.1, 99), (1, 0.1, 99))))
    assert found.level_at(0.1) == -1
    assert found.level_at(0.2) == 1


def test_the_scale_with_the_higher_psnr_is_chosen_where_both_reach() -> None:
    other = RateCurve(points((-1, 0.05, 24), (0, 0.1, 26), (1, 0.3, 27)))
    curves = {2: CURVE, 4: other}
    assert choose(curves, 0.1)[0] == 4
    assert choose(curves, 0.25)[0] == 2
    assert choose(curves, 0.06)[0] == 4  # the other one doesn't reach it
    assert choose(curves, 0.7)[0] == 2
    assert choose(curves, 50) == (2, 1)
    assert rate_range(curves) == (0.05, 0.8)


def test_regions_are_whole_blocks_inside_of_the_image() -> None:
    assert aligned_region(((5, 40), (33, 70)), (100, 200), 32, 10**6) == ((0, 64), (32, 96))
    assert aligned_region(((-50, 400), (-50, 400)), (100, 200), 32, 10**6) == ((0, 100), (0, 200))
    (top, bottom), (left, right) = aligned_region(((0, 4000), (0, 6000)), (4000, 6000), 32, 400_000)
    assert (bottom - top) * (right - left) < 450_000
    assert abs((top + bottom) / 2 - 2000) < 40
    assert abs((left + right) / 2 - 3000) < 40


def test_a_region_outside_of_the_image_is_refused() -> None:
    with pytest.raises(RateError, match="in view"):
        aligned_region(((100, 120), (0, 10)), (100, 200), 32, 1000)


def test_a_step_is_the_file_that_encode_makes(photo: np.ndarray, models: dict[int, Model]) -> None:
    session = Session(photo, device="cpu", models=models)
    step = session.step(0.25, 2, with_ssim=True)
    assert step.whole
    assert step.thumbnail.data == encode(photo, level=0.25, model=models[2], device="cpu").data
    np.testing.assert_array_equal(step.image, decode(step.thumbnail.data, model=models[2], device="cpu"))
    assert step.ssim is not None
    assert step.error().shape == photo.shape[:2]
    assert step.error().min() >= 0
    assert step.error(signed=True).min() < 0


def test_a_step_of_a_part_is_that_part_coded_alone(photo: np.ndarray, models: dict[int, Model]) -> None:
    session = Session(photo, device="cpu", models=models)
    step = session.step(0.0, 4, region=((32, 96), (64, 130)))
    assert not step.whole
    assert step.thumbnail.data == encode(photo[32:96, 64:130], level=0.0, model=models[4], device="cpu").data


def test_what_is_prepared_is_kept(photo: np.ndarray, models: dict[int, Model]) -> None:
    session = Session(photo, device="cpu", models=models)
    first = session.prepare(2)
    assert session.prepare(2) is first
    for start in range(0, 96, 16):
        session.prepare(2, ((start, 96), (0, 130)))
    assert session.prepare(2) is not first  # older parts are let go


def test_targets_are_met_as_by_encode(photo: np.ndarray, models: dict[int, Model]) -> None:
    session = Session(photo, device="cpu", models=models)
    smallest = session.step(-1.0, 2).thumbnail.nbytes
    largest = session.step(1.0, 2).thumbnail.nbytes
    wanted = (smallest + largest) // 2
    step = session.encode(Target("nbytes", wanted), 2)
    assert step.thumbnail.data == encode(photo, nbytes=wanted, model=models[2], device="cpu").data
    assert step.thumbnail.nbytes <= wanted
    with pytest.raises(RateError):
        session.encode(Target("nbytes", 10), 2)


@pytest.mark.parametrize("kind", ["nbytes", "psnr"])
def test_a_search_can_be_cancelled_between_tiles(
    photo: np.ndarray, models: dict[int, Model], kind: str
) -> None:
    session = Session(photo, device="cpu", models=models)
    seen: list[float] = []

    def report(fraction: float) -> None:
        seen.append(fraction)
        if len(seen) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session.encode(Target(kind, 2000 if kind == "nbytes" else 20), report=report)
    assert seen == sorted(seen)


def test_calibration_covers_every_scale(photo: np.ndarray, models: dict[int, Model]) -> None:
    curves = Session(photo, device="cpu", models=models).calibrate()
    assert sorted(curves) == [2, 4]
    for curve in curves.values():
        assert curve.points[0].quality == -1
        assert [p.bpp for p in curve.points] == sorted(p.bpp for p in curve.points)


def test_a_quick_calibration_passes_through_the_files() -> None:
    # A photograph and the bundled weights: tiny ones gain nothing by moves.
    session = Session(data.coffee()[100:260, 200:360], device="cpu")
    files, quick = session.calibrate([4]), session.calibrate([4], quick=True)
    middle = len(files[4].points) // 2
    assert quick[4].points[middle].psnr == pytest.approx(files[4].points[middle].psnr)
    assert quick[4].points[middle].nbytes == files[4].points[middle].nbytes
    for file, look in zip(files[4].points, quick[4].points, strict=True):
        assert look.bpp == pytest.approx(file.bpp, rel=0.03)
        assert look.psnr == pytest.approx(file.psnr, abs=0.4)
    assert SHARES.keys() == GAINS.keys() == {2, 4}
    assert {len(row) for row in (*SHARES.values(), *GAINS.values())} == {len(CALIBRATION_LEVELS)}
    unmoved = session.step(0.0, 4, quick=True).psnr
    assert unmoved < files[4].points[middle].psnr - 0.5


def test_large_images_are_measured_on_patches(models: dict[int, Model]) -> None:
    image = np.zeros((2000, 3000), np.uint8)
    image[::2] = 255
    session = Session(image, device="cpu", models=models)
    sample = session.sample()
    assert session.sampled
    assert session.sample() is sample
    assert sample.shape[0] * sample.shape[1] <= 2**19
    assert set(np.unique(sample)) == {0, 255}


def test_values_beyond_the_range_are_clipped(models: dict[int, Model]) -> None:
    image = np.linspace(0, 60_000, 64 * 64).reshape(64, 64).astype(np.uint16)
    session = Session(image, device="cpu", models=models, value_range=(1000, 2000))
    assert (session.array.min(), session.array.max()) == (1000, 2000)
    assert session.array.dtype == np.uint16
    step = session.step(0.0, 2)
    assert step.image.dtype == np.uint16
    assert step.peak == 1000
    assert math.isfinite(step.psnr)


def test_eight_bit_samples_go_there_and_back(models: dict[int, Model]) -> None:
    image = np.linspace(-1, 3, 40 * 40).reshape(40, 40).astype(np.float32)
    session = Session(image, device="cpu", models=models)
    pixels = as_eight_bit(image, session.format)
    assert (pixels.min(), pixels.max()) == (0, 255)
    np.testing.assert_allclose(as_original(pixels, session.format), image, atol=4 / 255)


def test_other_codecs_have_no_more_bytes(
    photo: np.ndarray, models: dict[int, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(photo, device="cpu", models=models)
    step = session.step(1.0, 2)
    rows = session.compare(step, available_codecs()[:2])
    assert rows[0].data == step.thumbnail.data
    assert all(row.exceeds or row.nbytes <= step.thumbnail.nbytes for row in rows)
    assert len(list(session.codec_points(available_codecs()[0]))) > 5


def test_a_file_is_reopened_beside_its_image(
    photo: np.ndarray, models: dict[int, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(photo, device="cpu", models=models)
    step = session.step(0.0, 2)
    monkeypatch.setattr(codec, "load_model", lambda name: models[2])
    again = session.reopen(step.thumbnail.data)
    np.testing.assert_array_equal(again.image, step.image)
    assert again.psnr == step.psnr
    with pytest.raises(ImageError, match="130x96"):
        Session(make_photo(40, 40), device="cpu", models=models).reopen(step.thumbnail.data)


def test_difference_averages_channels() -> None:
    a, b = np.full((2, 2, 3), 10, np.uint8), np.zeros((2, 2, 3), np.uint8)
    b[..., 0] = 40
    np.testing.assert_allclose(difference(a, b), 50 / 3)
    np.testing.assert_allclose(difference(a, b, signed=True), -10 / 3)


def test_unknown_scales_are_refused(photo: np.ndarray, models: dict[int, Model]) -> None:
    with pytest.raises(RateError, match="scale"):
        Session(photo, device="cpu", models=models).step(0.0, 3)


def test_a_quick_look_is_no_file_and_costs_no_gradient(
    photo: np.ndarray, models: dict[int, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(photo, device="cpu", models=models)
    settled = session.step(0.0, 2)
    monkeypatch.setattr("napari_hyperthumb.pipeline.PreparedImage.error_gradient", None)
    quick = session.step(0.0, 2, quick=True)
    assert settled.whole
    assert not quick.whole
    assert quick.thumbnail.data != settled.thumbnail.data
