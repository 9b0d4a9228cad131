"""The rate model against real JPEG files and against a slow coder that shares no code with it."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from jpeg_bytes import STANDARD_ZIGZAG, scan_bits

from napari_hyperthumb import bitstream, huffman
from napari_hyperthumb.training import rate
from napari_hyperthumb.training.rate import HuffmanCount, NonzeroCount

TABLES = np.full((2, 64), 16, np.int64)


def sparse(density: float, h: int = 12, w: int = 16, n: int = 1) -> torch.Tensor:
    """Quantised coefficients that fall off with frequency as those of pictures do."""
    frequency = torch.tensor([k // 8 + k % 8 for k in range(64)]).float()
    scale = density * 6 / (1 + frequency) ** 1.3
    laplace = torch.distributions.Laplace(0.0, 1.0).sample((n, 3, 64, h, w))
    return (laplace * scale[:, None, None]).round().clamp(-12, 12)


# ---- the slow coder ---------------------------------------------------------------------------


def category(value: int) -> int:
    return len(bin(abs(value))) - 2 if value else 0


def code_block(ac: list[int]) -> tuple[list[int], int]:
    """Run-length symbols of 63 coefficients in zigzag order (T.81 F.1.2.2), and the bits after them."""
    symbols, extra, run = [], 0, 0
    for value in ac:
        if value == 0:
            run += 1
            continue
        while run > 15:
            symbols.append(0xF0)
            run -= 16
        symbols.append(16 * run + category(value))
        extra += category(value)
        run = 0
    if run:
        symbols.append(0x00)
    return symbols, extra


def zigzag_blocks(plane: torch.Tensor) -> list[list[int]]:
    """(64, h, w) to blocks in raster order."""
    blocks = plane[list(STANDARD_ZIGZAG)].flatten(1).T
    return [[int(value) for value in block] for block in blocks]


def slow_code(planes: torch.Tensor) -> tuple[Counter[int], Counter[int], int]:
    """AC symbols, DC symbols and extra bits of planes that share their Huffman tables."""
    ac, dc, extra = Counter(), Counter(), 0
    for plane in planes:
        before = 0
        for block in zigzag_blocks(plane):
            dc[category(block[0] - before)] += 1
            extra += category(block[0] - before)
            before = block[0]
            symbols, bits = code_block(block[1:])
            ac.update(symbols)
            extra += bits
    return ac, dc, extra


def smoothed_lengths(counts: Counter[int], bins: int, weight: float) -> list[float]:
    """Ideal code lengths of one image's counts, mixed with themselves as a prior; a bit at least."""
    total = sum(counts.values()) + 0.05 * bins
    smooth = [counts[i] + weight * (counts[i] + 0.05) / total for i in range(bins)]
    return [max(1.0, math.log2(sum(smooth)) - math.log2(value)) for value in smooth]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Every table of counts that the rate model prices: AC, DC of luma, AC, DC of chroma."""
    seen: list[torch.Tensor] = []
    original = huffman.code_lengths

    def spy(counts: torch.Tensor) -> torch.Tensor:
        seen.append(counts.clone())
        return original(counts)

    monkeypatch.setattr(huffman, "code_lengths", spy)
    return seen


@pytest.mark.parametrize("density", [0.02, 0.3, 3.0])
def test_symbols_and_bits_equal_those_of_a_slow_run_length_coder(density, seen):
    quantised = sparse(density, 5, 7)
    quantised[0, :, 63, ::2] = 1  # blocks without an end-of-block code, and runs beyond 16
    bits = HuffmanCount()(quantised, quantised).item()
    expected = 0.0
    for index, planes in enumerate((quantised[0, :1], quantised[0, 1:])):
        ac, dc, extra = slow_code(planes)
        expected += extra
        for counts, found, bins in ((ac, seen[2 * index], 256), (dc, seen[2 * index + 1], 16)):
            assert {i: int(c) for i, c in enumerate(found[0]) if c} == dict(counts)
            lengths = smoothed_lengths(counts, bins, huffman.PRIOR_WEIGHT)
            expected += sum(count * lengths[symbol] for symbol, count in counts.items())
    assert bits == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("density", [0.3, 0.6, 1.2, 3.0])
def test_count_is_the_size_of_a_real_files_scan(density, monkeypatch):
    quantised = sparse(density, 24, 32)
    monkeypatch.setattr(bitstream, "_smaller", lambda data: data)  # stay baseline
    data = bitstream.write_jpeg(quantised[0] * fits(quantised), TABLES, (192, 256))
    held = bitstream.read_jpeg(data).quantised.float()[None]
    bits = HuffmanCount()(held, held).item()
    assert bits == pytest.approx(scan_bits(data), rel=0.05)


def fits(quantised: torch.Tensor) -> torch.Tensor:
    """1 for blocks whose samples stay within 0 .. 255, 0 for others."""
    planes = bitstream.idct_8x8(quantised[0][None] * 16)
    inside = (planes.abs() < 127).unfold(2, 8, 8).unfold(3, 8, 8).flatten(4).all(4)
    assert inside.float().mean() > 0.5
    return inside[0][:, None].float()


def test_images_of_a_batch_are_counted_apart():
    quantised = torch.cat([sparse(0.2), sparse(2.0)])
    together = HuffmanCount()(quantised, quantised)
    apart = torch.cat([HuffmanCount()(one[None], one[None]) for one in quantised])
    # The prior is that of the batch, no more than that.
    torch.testing.assert_close(together, apart, rtol=0.05, atol=0)
    assert together[1] > 3 * together[0]


@pytest.mark.parametrize("model", [HuffmanCount(), NonzeroCount()])
def test_gray_leaves_chroma_out(model):
    quantised = sparse(0.5)
    emptied = quantised.clone()
    emptied[:, 1:] = 0
    gray = torch.tensor([True])
    bits = model(quantised, quantised, gray)
    torch.testing.assert_close(bits, model(emptied, emptied, gray))
    assert bits < model(quantised, quantised)


def gradient(scaled: torch.Tensor, quantised: torch.Tensor) -> torch.Tensor:
    scaled = scaled.clone().requires_grad_()
    HuffmanCount()(scaled, quantised).sum().backward()
    return scaled.grad


@pytest.mark.parametrize("density", [0.05, 0.6])
def test_a_larger_ac_coefficient_never_costs_less(density):
    quantised = sparse(density)
    scaled = quantised + 0.9 * (torch.rand_like(quantised) - 0.5)
    ac, away = gradient(scaled, quantised)[:, :, 1:], scaled[:, :, 1:].sign()
    assert (ac * away >= 0.2).all()
    assert (ac.abs() <= 16).all()


def test_a_coefficient_costs_more_after_a_long_run_of_zeros():
    quantised = sparse(0.3)
    quantised[..., 0, 0] = 0  # an empty block
    prices = gradient(torch.full_like(quantised, 0.1), quantised)[0, 0, :, 0, 0]
    early, late = prices[STANDARD_ZIGZAG[1]], prices[STANDARD_ZIGZAG[12]]
    assert late > early + 2


def test_gradient_below_one_is_the_price_of_a_nonzero_there():
    """Against the slow coder, at the code lengths of the image: with this coefficient less without."""
    quantised = sparse(0.4, 3, 4)
    ac, _, _ = slow_code(quantised[0, :1])
    lengths = smoothed_lengths(ac, 256, huffman.PRIOR_WEIGHT)
    prices = gradient(quantised.clamp(-0.5, 0.5) + 0.1, quantised)[0, 0]

    def cost(block: list[int]) -> float:
        symbols, extra = code_block(block)
        return sum(lengths[symbol] for symbol in symbols) + extra

    checked = 0
    for index, block in enumerate(zigzag_blocks(quantised[0, 0])):
        # The last place is left out: a nonzero there also saves the end-of-block code.
        for k in range(1, 63):
            if abs(block[k]) > 1:
                continue
            with_it = cost([*block[1:k], 1, *block[k + 1 :]])
            without = cost([*block[1:k], 0, *block[k + 1 :]])
            price = abs(prices[STANDARD_ZIGZAG[k]].flatten()[index].item())
            assert price == pytest.approx(min(max(with_it - without, 0.5), 16.0), abs=1e-3)
            checked += 0.5 < with_it - without < 16
    assert checked > 100


def test_price_of_growth_falls_as_one_over_the_magnitude():
    quantised = sparse(0.6)
    large = quantised.abs() >= 2
    large[:, :, 0] = False
    scaled = quantised.clone()
    slopes = gradient(scaled, quantised)[large].abs() * quantised[large].abs() * math.log(2)
    assert slopes.min() >= 1 - 1e-5
    assert slopes.max() <= 4 + 1e-5


@pytest.mark.parametrize("step", [0.4, -0.4, 1.0, -5.0, 40.0])
def test_price_of_a_dc_step_is_that_of_its_size_category(step, seen):
    """Against the counted code lengths; the last block's DC is in one difference only."""
    dc = torch.randint(-9, 10, (1, 2, 30)).float()
    dc[..., -1] = dc[..., -2] + round(step)
    scaled = dc.clone()
    scaled[..., -1] = dc[..., -2] + step
    scaled.requires_grad_()
    bits, surrogate = rate._dc(scaled, dc)
    surrogate.sum().backward()
    assert not bits.requires_grad
    (counts,) = seen
    lengths = huffman.code_lengths(counts)[0].tolist()
    size = category(round(step))
    if abs(step) < 1:
        price = min(max(lengths[1] + 1 - lengths[0], 0.5), 4)
    else:
        price = min(max(lengths[size + 1] + 1 - lengths[size], 0.5), 3) / (math.log(2) * abs(step))
    assert scaled.grad[0, :, -1].tolist() == pytest.approx([math.copysign(price, step)] * 2, rel=1e-4)


def test_chroma_of_gray_images_gets_no_gradient():
    quantised = sparse(0.5)
    scaled = (quantised + 0.1).requires_grad_()
    HuffmanCount()(scaled, quantised, torch.tensor([True])).sum().backward()
    assert scaled.grad[:, :1].abs().sum() > 0
    assert scaled.grad[:, 1:].abs().sum() == 0


def test_size_category_is_the_number_of_bits():
    values = [0, 1, 2, 3, 4, 7, 8, 255, 256, 1023, 1024, 2047]
    found = huffman.size_category(torch.tensor(values))
    assert found.tolist() == [category(value) for value in values]
