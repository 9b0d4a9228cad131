"""Moves of quantised coefficients: what they cost, and which are made."""

from __future__ import annotations

import pytest
import torch

from napari_hyperthumb import huffman, moves
from napari_hyperthumb.moves import Offers, ac_code, count_bits, groups, per_block


@pytest.fixture
def quantised():
    generator = torch.Generator().manual_seed(3)
    spread = torch.linspace(1.2, 0.2, 64)[:, None, None]
    values = torch.randn(2, 3, 64, 5, 6, generator=generator) * spread
    values[:, :, 0] *= 6
    return values.round()


def move(quantised, gradient, *, weight=1.0, curvature=0.0, count=3, kept=None):
    n, c = quantised.shape[:2]
    offers = Offers.at(quantised, gradient, torch.full((n, c, 64, 1, 1), curvature))
    return offers.taken(torch.full((n,), weight), torch.full((n,), count), kept=kept)


def test_bits_are_those_of_the_huffman_code(quantised):
    expected = 0
    for group in groups(quantised):
        scanned = huffman.scan_order(group)
        expected += huffman.AcCode(scanned[..., 1:]).bits() + huffman.dc_code(scanned[..., 0]).bits
    torch.testing.assert_close(count_bits(quantised), expected)


@pytest.mark.parametrize("change", [1, -1])
@pytest.mark.parametrize("coefficient", [0, 1, 9, 40, 63])
def test_a_price_is_what_the_file_grows_by(quantised, coefficient, change):
    """Under the code of the image before the move, counted for one move at a time."""
    group = quantised[:1, :1]
    row, column = 2, 3
    if coefficient == 0:
        lengths = huffman.dc_code(moves._dc(group)).lengths
        price = moves._dc_prices(group)[0 if change > 0 else 1][0, 0, row, column]

        def bits(x):
            size = huffman.size_category(huffman.dc_differences(moves._dc(x)).abs()).flatten(1)
            return lengths.gather(1, size).sum() + size.sum()
    else:
        lengths = ac_code(group)[0]
        prices = huffman.AcCode(moves._ac(group), lengths).prices()[0 if change > 0 else 1][0, 0]
        at = huffman.ZIGZAG.index(coefficient) - 1
        price = prices[row * group.shape[4] + column, at]

        def bits(x):
            runs = huffman.run_lengths(moves._ac(x).abs())
            return (huffman.ac_counts(runs) * lengths).sum() + runs.size.sum()

    after = group.clone()
    after[0, 0, coefficient, row, column] += change
    # End-of-block codes come and go with the last coefficient of a block; prices leave them out.
    assert float(price) == pytest.approx(float(bits(after) - bits(group)), abs=float(lengths[0, 0]) + 1e-3)


def test_moves_go_down_the_gradient_where_that_pays(quantised):
    gradient = torch.zeros_like(quantised)
    gradient[0, 0, 5, 1, 1], gradient[1, 2, 0, 3, 2] = -1000.0, 1000.0
    change = move(quantised, gradient, weight=0.0, curvature=10.0) - quantised
    expected = torch.zeros_like(quantised)
    expected[0, 0, 5, 1, 1], expected[1, 2, 0, 3, 2] = 1.0, -1.0
    assert torch.equal(change, expected)
    assert torch.equal(move(quantised, gradient, weight=0.0, curvature=1e4), quantised), (
        "the error would rise"
    )


def test_dear_bits_take_ones_away(quantised):
    zero = torch.zeros_like(quantised)
    after = move(quantised, zero, weight=1.0)
    assert count_bits(after).sum() < count_bits(quantised).sum()
    assert torch.equal(move(quantised, zero, weight=0.0, curvature=1.0), quantised)


def test_no_block_makes_more_moves_than_allowed(quantised):
    gradient = torch.randn(quantised.shape, generator=torch.Generator().manual_seed(0)) * 100
    for count in (1, 4):
        change = (move(quantised, gradient, count=count) != quantised).flatten(1, 2).sum(1)
        assert change.max() == count


def test_planes_that_must_stay_do(quantised):
    gradient = torch.full_like(quantised, 100.0)
    kept = torch.tensor([True, False, False]).reshape(1, 3, 1, 1, 1).expand(2, 3, 1, 1, 1)
    after = move(quantised, gradient, kept=kept)
    assert torch.equal(after[:, 1:], quantised[:, 1:])
    assert not torch.equal(after[:, 0], quantised[:, 0])


def test_strips_change_nothing(quantised, monkeypatch):
    gradient = torch.randn(quantised.shape, generator=torch.Generator().manual_seed(0)) * 100
    whole, bits = move(quantised, gradient), count_bits(quantised)
    monkeypatch.setattr(moves, "STRIP", 1)
    assert torch.equal(move(quantised, gradient), whole)
    torch.testing.assert_close(count_bits(quantised), bits)


def test_one_plane(quantised):
    gradient = torch.randn(2, 1, 64, 5, 6, generator=torch.Generator().manual_seed(0)) * 100
    assert move(quantised[:, :1], gradient).shape == gradient.shape


def test_finer_levels_and_larger_scales_move_more():
    levels = torch.tensor([-4.0, -1.0, 0.0, 1.0])
    assert per_block(2, levels).tolist() == [1, 2, 4, 8]
    assert per_block(4, levels).tolist() == [1, 4, 8, 16]
