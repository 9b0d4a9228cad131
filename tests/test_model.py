"""Shapes, what depends on the level, gradients, and the tables' promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import make_photo, tiny_config, tiny_net

from napari_hyperthumb.errors import ModelError
from napari_hyperthumb.jpeg import dct_8x8, idct_8x8, rgb_to_ycbcr
from napari_hyperthumb.model import (
    FiLM,
    HyperThumbModel,
    ModelConfig,
    QuantisationPredictor,
    as_gray,
    bicubic_down,
    integer_tables,
)
from napari_hyperthumb.training.rate import HuffmanCount

SCALES = (2, 4)


def rgb(n: int, height: int, width: int) -> torch.Tensor:
    """Photographs that differ, (n, 3, height, width), zero-centred."""
    photo = torch.from_numpy(make_photo(height, width)).permute(2, 0, 1).float() - 128
    return torch.stack([photo.roll(7 * i, 2) * 0.9**i for i in range(n)])


@pytest.fixture(params=SCALES)
def net(request: pytest.FixtureRequest) -> HyperThumbModel:
    return tiny_net(request.param)


# ---- shapes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [(1, 1), (2, 3)])
def test_shapes_of_one_pass(net, blocks):
    scale = net.config.scale
    height, width = (b * net.config.block for b in blocks)
    out = net(rgb(2, height, width), torch.tensor([-0.5, 0.5]))
    assert out.hr.shape == (2, 3, height, width)
    assert out.lr.shape == out.bicubic.shape == (2, 3, height // scale, width // scale)
    assert out.scaled.shape == out.quantised.shape == (2, 3, 64, *blocks)
    assert out.tables.shape == (2, 2, 64)


def test_quantised_values_and_tables_are_whole_numbers(net):
    out = net(rgb(1, 64, 64), torch.tensor([0.3]))
    assert torch.equal(out.quantised, out.quantised.round())
    assert torch.equal(out.tables, out.tables.round())
    assert out.tables.min() >= 1 and out.tables.max() <= 255


def test_planes_that_a_viewer_shows_are_those_of_the_coefficients(net):
    out = net(rgb(1, 64, 64), torch.tensor([0.3]))
    coefficients = dct_8x8(out.lr)
    steps = out.tables[:, [0, 1, 1], :, None, None]
    torch.testing.assert_close(coefficients, out.quantised * steps, atol=1e-2, rtol=0)


def test_decode_of_what_the_file_holds_equals_the_training_pass(net):
    """One path for training and use."""
    out = net(rgb(1, 64, 64), torch.tensor([-0.2]))
    planes = net.decode(out.quantised, out.tables)
    torch.testing.assert_close(planes, rgb_to_ycbcr(out.hr), atol=0.02, rtol=0)


def test_the_measured_gain_of_a_plain_upsampling_is_its_area(net, monkeypatch):
    scale = net.config.scale
    nearest = lambda lr, *_: lr.repeat_interleave(scale, 2).repeat_interleave(scale, 3)  # noqa: E731
    monkeypatch.setattr(net.decoder, "forward", nearest)
    quantised, tables = torch.zeros(2, 3, 64, 20, 20), torch.full((2, 2, 64), 8.0)
    keep = torch.ones(2, 3, 1, 1)
    keep[1, 1:] = 0  # a gray image
    generator = torch.Generator().manual_seed(0)
    gain = net.measured_gain(quantised, tables, torch.zeros(2, 3, 160 * scale, 160 * scale), keep, generator)
    # A step of luma moves all three colours alike; one of Cb or Cr moves two of them.
    expected = [1.0, (0.344136**2 + 1.772**2) / 3, (1.402**2 + 0.714136**2) / 3]
    torch.testing.assert_close(
        gain, scale**2 * torch.tensor(expected)[:, None].expand(3, 64), rtol=0.2, atol=0
    )
    torch.testing.assert_close(gain.mean(1), scale**2 * torch.tensor(expected), rtol=0.05, atol=0)


# ---- the level --------------------------------------------------------------------------------


def test_trunk_doesnt_see_the_level_and_the_tail_does(net, monkeypatch):
    seen = []
    original = net.encoder.trunk
    monkeypatch.setattr(net.encoder, "trunk", lambda planes: seen.append(original(planes)) or seen[-1])
    planes = rgb_to_ycbcr(rgb(1, 32, 32))
    low, _ = net.encoder(planes, torch.tensor([-1.0]))
    high, _ = net.encoder(planes, torch.tensor([1.0]))
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(low, high)


def test_levels_of_a_batch_dont_mix(net):
    image = rgb(2, 32, 32)
    together = net(image, torch.tensor([-1.0, 1.0]))
    first, second = net(image[:1], torch.tensor([-1.0])), net(image[1:], torch.tensor([1.0]))
    # Moves are priced with statistics of the whole batch, so the rounded values may differ.
    torch.testing.assert_close(together.scaled, torch.cat([first.scaled, second.scaled]), atol=1e-3, rtol=0)
    assert torch.equal(together.tables, torch.cat([first.tables, second.tables]))


def random_predictor(seed: int, spread: float) -> QuantisationPredictor:
    predictor = QuantisationPredictor(tiny_config(2))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in predictor.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
    return predictor


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    spread=st.sampled_from([0.01, 0.1, 0.5, 3.0]),
    magnitude=st.sampled_from([0.0, 1.0, 30.0, 1024.0]),
    levels=st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=6, unique=True),
)
def test_tables_are_within_1_255_and_fall_as_the_level_rises(seed, spread, magnitude, levels):
    predictor = random_predictor(seed, spread)
    generator = torch.Generator().manual_seed(seed + 1)
    statistics = (torch.rand(1, 128, generator=generator) * magnitude).expand(len(levels), -1)
    at = torch.tensor(sorted(levels))
    with torch.no_grad():
        tables = predictor(statistics, at)
    assert tables.shape == (len(levels), 2, 64)
    assert tables.min() >= 1 and tables.max() <= 255.001
    assert (tables.diff(dim=0) <= 1e-4).all()
    whole = integer_tables(tables)
    assert torch.equal(whole, whole.round())
    assert whole.min() >= 1 and whole.max() <= 255
    assert (whole.diff(dim=0) <= 0).all()


def test_tables_really_move_with_the_level(net):
    statistics = torch.rand(1, 128) * 20
    ends = [net.tables(statistics, torch.tensor([level])) for level in (-1.0, 1.0)]
    assert (ends[0] > ends[1]).all()


def test_tables_follow_the_image(net):
    level = torch.tensor([0.0])
    flat, busy = net.tables(torch.zeros(1, 128), level), net.tables(torch.full((1, 128), 500.0), level)
    assert not torch.equal(flat, busy)


def test_statistics_are_mean_magnitudes_with_both_chroma_planes_averaged():
    coefficients = torch.zeros(1, 3, 64, 1, 2)
    coefficients[0, 0, 5] = torch.tensor([-4.0, 2.0])
    coefficients[0, 1, 9] = torch.tensor([8.0, 0.0])
    coefficients[0, 2, 9] = torch.tensor([0.0, -2.0])
    statistics = QuantisationPredictor.statistics(idct_8x8(coefficients))
    expected = torch.zeros(1, 128)
    expected[0, 5], expected[0, 64 + 9] = 3.0, 2.5
    torch.testing.assert_close(statistics, expected, atol=1e-5, rtol=0)


# ---- gradients --------------------------------------------------------------------------------


def test_gradients_reach_every_parameter(net):
    generator = torch.Generator().manual_seed(0)
    level = torch.rand(6, generator=generator) * 2 - 1
    assert level.min() < 0 < level.max()
    out = net(rgb(6, 64, 64), level)
    bits = HuffmanCount()(out.scaled, out.quantised)
    (out.hr.square().mean() + bits.mean() / 1000).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_rate_alone_moves_encoder_and_tables_but_not_the_decoder(net):
    out = net(rgb(2, 64, 64), torch.tensor([-0.5, 0.5]))
    HuffmanCount()(out.scaled, out.quantised).sum().backward()
    for name, parameter in net.named_parameters():
        assert (parameter.grad is None) == name.startswith("decoder."), name


def test_larger_steps_cost_fewer_bits(net):
    out = net(rgb(1, 64, 64), torch.tensor([0.0]))
    out.tables.retain_grad()
    HuffmanCount()(out.scaled, out.quantised).sum().backward()
    assert out.tables.grad.sum() < 0


# ---- gray -------------------------------------------------------------------------------------


def test_gray_images_have_no_chroma_and_one_table(net):
    gray = torch.tensor([True, False])
    out = net(rgb(2, 64, 64), torch.tensor([0.5, 0.5]), gray)
    assert out.quantised[0, 1:].abs().max() == 0
    assert out.lr[0, 1:].abs().max() < 1e-5
    assert torch.equal(out.tables[0, 0], out.tables[0, 1])
    assert (out.hr[0] - out.hr[0, :1]).abs().max() < 1e-3
    assert out.quantised[1, 1:].abs().max() > 0
    assert not torch.equal(out.tables[1, 0], out.tables[1, 1])


def test_colour_images_beside_gray_ones_are_untouched(net):
    image, level = rgb(2, 64, 64), torch.tensor([0.1, 0.1])
    mixed, plain = net(image, level, torch.tensor([True, False])), net(image, level)
    # Moves are priced with statistics of the whole batch, so the rounded values may differ.
    torch.testing.assert_close(mixed.scaled[1], plain.scaled[1])


def test_as_gray_puts_luma_in_both_places():
    tables = torch.arange(128.0).reshape(1, 2, 64)
    assert torch.equal(as_gray(tables), tables[:, [0, 0]])


# ---- parts ------------------------------------------------------------------------------------


def test_film_is_close_to_the_identity_at_the_start():
    pairs = FiLM(1, 32, [8, 8, 6])(torch.tensor([[-1.0], [1.0]]))
    for channels, (scale, shift) in zip([8, 8, 6], pairs, strict=True):
        assert scale.shape == shift.shape == (2, channels, 1, 1)
        assert (scale - 1).abs().max() < 0.2 and shift.abs().max() < 0.2


def test_bicubic_keeps_flat_pictures_and_removes_what_would_alias():
    flat = torch.full((1, 3, 16, 16), 37.0)
    torch.testing.assert_close(bicubic_down(flat, 4), flat[..., :4, :4])
    comb = torch.tensor([100.0, -100.0]).repeat(32).expand(1, 3, 64, 64)
    assert bicubic_down(comb, 2)[..., 4:-4].abs().max() < 5


def test_untrained_model_is_already_a_picture(net):
    """Both networks only add to bicubic and bilinear interpolation."""
    image = rgb(1, 96, 128)
    out = net(image, torch.tensor([1.0]))
    assert (out.lr - out.bicubic).abs().mean() < 10
    assert (out.hr - image).square().mean().sqrt() < 25


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("scale", 3),
        ("scale", 8),
        ("scale", 2.0),
        ("scale", "2"),
        ("encoder_channels", 0),
        ("encoder_channels", 1025),
        ("decoder_blocks", 1.5),
        ("predictor_hidden", None),
        ("encoder_level_blocks", 0),
        ("encoder_level_blocks", 6),
        ("encoder_level_blocks", 1.5),
        ("dead_zone", -0.1),
        ("dead_zone", 0.5),
        ("dead_zone", float("nan")),
    ],
)
def test_impossible_settings_are_refused_by_name(setting, value):
    with pytest.raises(ModelError, match=setting):
        ModelConfig(**{"scale": 2, setting: value})


def test_sizes_that_tiling_relies_on_are_whole_blocks():
    for scale in SCALES:
        for config in (ModelConfig(scale=scale), tiny_config(scale)):
            assert config.block == 8 * scale
            for halo in (config.encoder_halo, config.decoder_halo):
                assert halo % config.block == 0


@pytest.mark.parametrize("scale", SCALES)
def test_nothing_beyond_the_halo_changes_a_result(scale):
    """What the halos promise, measured: change one far pixel, and look at where results move."""
    net = tiny_net(scale).double()
    config = net.config
    side = 2 * (config.encoder_halo + config.decoder_halo)
    planes = torch.zeros(1, 3, config.block, side, dtype=torch.float64)
    level = torch.zeros(1, dtype=torch.float64)
    at = side // 2
    touched = planes.clone()
    touched[..., at : at + config.block] = 90
    before, after = (net.encoder(p, level)[0][0, 0] for p in (planes, touched))
    moved = np.flatnonzero((before != after).any(0).numpy()) * scale
    assert moved.min() >= at - config.encoder_halo
    assert moved.max() < at + config.block + config.encoder_halo

    tables = torch.full((1, 2, 64), 10.0, dtype=torch.float64)
    quantised = torch.zeros(1, 3, 64, 1, side // config.block, dtype=torch.float64)
    touched = quantised.clone()
    touched[..., at // config.block] = 3
    before, after = (net.decode(q, tables)[0, 0] for q in (quantised, touched))
    moved = np.flatnonzero((before != after).any(0).numpy())
    assert moved.min() >= at - config.decoder_halo
    assert moved.max() < at + config.block + config.decoder_halo
