"""Colour, DCT, zigzag and quantisation against independent implementations; gradients too."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from jpeg_bytes import STANDARD_ZIGZAG
from PIL import Image
from scipy.fft import dctn
from torch.autograd import gradcheck

from napari_hyperthumb.jpeg import (
    ZIGZAG,
    dct_8x8,
    dequantise,
    idct_8x8,
    quantise,
    rgb_to_ycbcr,
    round_ste,
    ycbcr_to_rgb,
)


def random_tables(n: int = 1) -> torch.Tensor:
    return torch.randint(1, 256, (n, 2, 64)).double()


def test_dct_is_the_orthonormal_one_of_each_block():
    planes = torch.randn(2, 3, 16, 24, dtype=torch.float64) * 50
    ours = dct_8x8(planes)
    assert ours.shape == (2, 3, 64, 2, 3)
    for y in range(2):
        for x in range(3):
            block = planes[..., 8 * y : 8 * y + 8, 8 * x : 8 * x + 8].numpy()
            expected = dctn(block, axes=(2, 3), norm="ortho")
            np.testing.assert_allclose(ours[..., y, x].reshape(2, 3, 8, 8), expected, atol=1e-10)


def test_idct_inverts_dct():
    planes = torch.randn(2, 1, 16, 40, dtype=torch.float64) * 50
    torch.testing.assert_close(idct_8x8(dct_8x8(planes)), planes)


def test_zigzag_is_the_standard_order():
    assert ZIGZAG == STANDARD_ZIGZAG


def test_colour_conversion_equals_pillows_within_rounding():
    rgb = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    rgb[0, :8] = [[a, b, c] for a in (0, 255) for b in (0, 255) for c in (0, 255)]
    pillow = np.asarray(Image.fromarray(rgb).convert("YCbCr")).astype(float)
    centred = torch.from_numpy(rgb).permute(2, 0, 1)[None].float() - 128
    ours = rgb_to_ycbcr(centred)[0].permute(1, 2, 0).numpy() + 128
    # Pillow's table arithmetic truncates where ours rounds.
    assert abs(ours.clip(0, 255) - pillow).max() <= 1.01


def test_colour_conversion_has_an_inverse():
    rgb = torch.rand(1, 3, 8, 8, dtype=torch.float64) * 255 - 128
    torch.testing.assert_close(ycbcr_to_rgb(rgb_to_ycbcr(rgb)), rgb, atol=1e-4, rtol=0)


def test_gray_has_no_colour():
    gray = torch.linspace(-128, 127, 64).reshape(1, 1, 8, 8).expand(1, 3, 8, 8)
    ycbcr = rgb_to_ycbcr(gray)
    torch.testing.assert_close(ycbcr[:, :1], gray[:, :1])
    assert ycbcr[:, 1:].abs().max() < 1e-4


@pytest.mark.parametrize("channels", [1, 3])
def test_quantise_divides_each_coefficient_by_its_own_step(channels):
    tables = random_tables(2)
    whole = torch.randint(-5, 6, (2, channels, 64, 3, 2)).double()
    coefficients = torch.empty_like(whole)
    for n in range(2):
        for c in range(channels):
            for k in range(64):
                coefficients[n, c, k] = whole[n, c, k] * tables[n, min(c, 1), k]
    torch.testing.assert_close(dequantise(whole, tables), coefficients)
    torch.testing.assert_close(quantise(coefficients, tables), whole)


def test_quantise_rounds_to_the_nearest():
    tables = torch.full((1, 2, 64), 10.0)
    coefficients = torch.tensor([-5.1, -4.9, 4.9, 5.1, 14.9, 15.1]).expand(1, 1, 64, 1, 6)
    wanted = torch.tensor([-1.0, 0, 0, 1, 1, 2]).expand(1, 1, 64, 1, 6)
    torch.testing.assert_close(quantise(coefficients, tables), wanted)


def test_dead_zone_moves_the_threshold_of_ac_but_not_of_dc():
    tables = torch.full((1, 2, 64), 10.0)
    # Thresholds of AC: 0.5 + 0.2, 1.5 + 0.2.
    coefficients = torch.tensor([-7.1, -6.9, -5.1, 5.1, 6.9, 7.1, 16.9, 17.1]).expand(1, 1, 64, 1, 8)
    out = quantise(coefficients, tables, dead_zone=0.2)
    assert out[0, 0, 0, 0].tolist() == [-1, -1, -1, 1, 1, 1, 2, 2]
    for k in range(1, 64):
        assert out[0, 0, k, 0].tolist() == [-1, 0, 0, 0, 0, 1, 1, 2]


def test_round_ste_rounds_and_lets_the_gradient_through():
    x = torch.tensor([-1.6, -0.4, 0.0, 0.3, 2.7], requires_grad=True)
    weights = torch.tensor([1.0, -2.0, 3.0, 4.0, 5.0])
    out = round_ste(x)
    assert out.tolist() == [-2, 0, 0, 0, 3]
    (out * weights).sum().backward()
    torch.testing.assert_close(x.grad, weights)


@pytest.mark.parametrize("dead_zone", [0.0, 0.1, 0.4])
def test_gradient_of_quantise_is_that_of_the_division_alone(dead_zone):
    tables = random_tables().requires_grad_()
    coefficients = (torch.randn(1, 3, 64, 2, 2, dtype=torch.float64) * 200).requires_grad_()
    weights = torch.randn_like(coefficients)
    quantised = quantise(coefficients, tables, round_ste, dead_zone)
    assert torch.equal(quantised, quantised.round())
    ours = torch.autograd.grad((quantised * weights).sum(), (coefficients, tables))
    divided = coefficients / tables[:, [0, 1, 1], :, None, None]
    plain = torch.autograd.grad((divided * weights).sum(), (coefficients, tables))
    torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("function", [rgb_to_ycbcr, ycbcr_to_rgb, dct_8x8])
def test_gradients_of_linear_steps_match_finite_differences(function):
    planes = torch.randn(1, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    assert gradcheck(function, (planes,))


def test_gradients_of_coefficient_steps_match_finite_differences():
    coefficients = torch.randn(1, 3, 64, 1, 1, dtype=torch.float64, requires_grad=True)
    tables = (torch.rand(1, 2, 64, dtype=torch.float64) * 9 + 1).requires_grad_()
    assert gradcheck(idct_8x8, (coefficients,))
    assert gradcheck(dequantise, (coefficients, tables))
    assert gradcheck(lambda c, t: quantise(c, t, lambda x: x), (coefficients, tables))
