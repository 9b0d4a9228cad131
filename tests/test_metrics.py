"""Metrics against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from napari_hyperthumb.metrics import at_bpp, bd_rate, bpp, mse, psnr, psnr_from_mse, ssim

CURVE = [(0.1, 25.0), (0.2, 28.0), (0.4, 31.5), (0.8, 35.0)]


def times(curve: list[tuple[float, float]], factor: float) -> list[tuple[float, float]]:
    return [(factor * rate, quality) for rate, quality in curve]


def test_psnr_of_a_known_difference() -> None:
    a = np.full((6, 5, 3), 100, np.uint8)
    b = a + np.uint8(5)
    assert mse(a, b) == 25
    assert psnr(a, b) == pytest.approx(34.1514, abs=1e-4)  # 10 log10(255^2 / 25)


def test_one_wrong_sample_counts_once() -> None:
    a = np.zeros((4, 4), np.uint8)
    b = a.copy()
    b[2, 1] = 16
    assert mse(a, b) == 16


def test_unsigned_differences_do_not_wrap() -> None:
    dark, bright = np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8)
    assert psnr(dark, bright) == psnr(bright, dark) == 0


def test_psnr_against_another_range() -> None:
    a = np.zeros((3, 3), np.float32)
    assert psnr(a, a + 0.5, peak=1.0) == pytest.approx(20 * math.log10(2))


def test_equal_images_have_infinite_psnr() -> None:
    a = np.arange(12, dtype=np.uint16).reshape(3, 4)
    assert psnr(a, a) == math.inf
    assert psnr_from_mse(0) == math.inf


def test_mse_of_more_rows_than_are_taken_at_a_time() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (2, 700, 3, 3), dtype=np.uint8)
    assert mse(a, b) == pytest.approx(np.mean((a.astype(float) - b) ** 2))


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        mse(np.zeros((2, 2)), np.zeros((2, 3)))


@pytest.mark.parametrize("shape", [(20, 17), (20, 17, 3)])
def test_ssim_of_flat_images(shape: tuple[int, ...]) -> None:
    # No variance: only the luminance term is left, (2ab + C1) / (a^2 + b^2 + C1), C1 = (0.01 * 255)^2.
    a, b = np.full(shape, 100, np.uint8), np.full(shape, 120, np.uint8)
    assert ssim(a, b) == pytest.approx((24_000 + 6.5025) / (24_400 + 6.5025), abs=1e-5)


def test_ssim_of_equal_and_of_inverted_images() -> None:
    a = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    assert ssim(a, a) == pytest.approx(1)
    assert ssim(a, 255 - a) < 0


def test_bpp_counts_pixels_not_samples() -> None:
    assert bpp(1000, (80, 100, 3)) == bpp(1000, (80, 100)) == 1


@pytest.mark.parametrize(("factor", "percent"), [(1, 0), (0.5, -50), (2, 100), (0.9, -10)])
def test_bd_rate_of_a_scaled_curve(factor: float, percent: float) -> None:
    assert bd_rate(CURVE, times(CURVE, factor)) == pytest.approx(percent, abs=1e-9)


def test_bd_rate_does_not_depend_on_the_order_of_points() -> None:
    other = [(0.12, 26.0), (0.3, 31.0), (0.7, 35.5)]
    assert bd_rate(CURVE[::-1], other[::-1]) == bd_rate(CURVE, other)


def test_bd_rate_there_and_back() -> None:
    other = [(0.12, 26.0), (0.3, 31.0), (0.7, 35.5)]
    there, back = bd_rate(CURVE, other), bd_rate(other, CURVE)
    assert there is not None and back is not None
    assert (1 + there / 100) * (1 + back / 100) == pytest.approx(1)


def test_bd_rate_looks_at_the_shared_range_only() -> None:
    # ln(rate) is q / 10 and q / 5 - 3: the difference q / 10 - 3 averages to 0 - 0.25 over 25 .. 30.
    anchor = [(math.exp(q / 10), q) for q in (20.0, 24.0, 30.0)]
    test = [(math.exp(q / 5 - 3), q) for q in (25.0, 28.0, 33.0, 40.0)]
    assert bd_rate(anchor, test) == pytest.approx(100 * math.expm1(-0.25))


def test_bd_rate_of_curves_that_share_nothing() -> None:
    assert bd_rate(CURVE, [(0.1, 40.0), (0.2, 45.0)]) is None
    assert bd_rate(CURVE, [(0.1, 35.0), (0.2, 45.0)]) is None
    assert bd_rate(CURVE, [(0.3, 30.0)]) is None


def test_at_bpp_is_linear_in_the_logarithm() -> None:
    assert at_bpp(CURVE, math.sqrt(0.1 * 0.2)) == pytest.approx(26.5)
    assert at_bpp(CURVE[::-1], math.sqrt(0.4 * 0.8)) == pytest.approx(33.25)


def test_at_bpp_at_the_ends_and_outside() -> None:
    assert at_bpp(CURVE, 0.1) == 25
    assert at_bpp(CURVE, 0.8) == 35
    assert at_bpp(CURVE, 0.0999) is None
    assert at_bpp(CURVE, 0.81) is None
