"""A decoder that is trained for eight bits computes as the backend does, and still learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from samples import tiny_net

from napari_hyperthumb import backend as backend_module
from napari_hyperthumb.backend import Backend
from napari_hyperthumb.int8 import Int8, Rounded
from napari_hyperthumb.jpeg import dequantise, idct_8x8, ycbcr_to_rgb
from napari_hyperthumb.model import STRIDE, HyperThumbModel
from napari_hyperthumb.plain import MIDDLE, conditions, plain_decoder
from napari_hyperthumb.training.eight_bits import InputRange, round_decoder, rounded_last, rounded_weight


@pytest.fixture
def held() -> tuple[torch.Tensor, torch.Tensor]:
    """Coefficients (1, 3, 64, 4, 6) and tables (1, 2, 64)."""
    generator = torch.Generator().manual_seed(0)
    quantised = (torch.randn(1, 3, 64, 4, 6, generator=generator) * 2).round()
    return quantised, torch.full((1, 2, 64), 9.0)


@pytest.fixture(params=[2, 4])
def net(request) -> HyperThumbModel:
    """With weights that make a difference."""
    net = tiny_net(request.param)
    with torch.no_grad():
        for parameter in net.decoder.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return net.eval()


def decoded(net: HyperThumbModel, held: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    dequantised = dequantise(*held)
    return ycbcr_to_rgb(net.decoder(idct_8x8(dequantised), dequantised, held[1])) + MIDDLE


def test_it_computes_what_the_backend_does(net, held, monkeypatch):
    openvino = pytest.importorskip("napari_hyperthumb.backend_openvino")
    with torch.no_grad():
        plain, found = plain_decoder(net, 3), conditions(net.decoder, held[1], 3)
        exact = decoded(net, held)[0]
        ranges = round_decoder(net.decoder)
        decoded(net, held)  # the ranges are those of the first input
        wanted = decoded(net, held)[0]
    convs = {f"frequency.{index}": conv for index, conv in enumerate(plain.frequency)}
    convs |= {"head": plain.head, "out": plain.out}
    for index, block in enumerate(plain.blocks):
        convs |= {f"blocks.{index}.{name}": conv for name, conv in zip("ab", block, strict=True)}
    assert convs.keys() == ranges.keys()
    rounded = {}
    for name, conv in convs.items():
        low, high = ranges[name].ends
        step = (high - low) / 255
        low = step * (low / step).round()  # 0 is one of the 256 values
        ends = torch.stack([low, low + 255 * step])
        rounded[name] = Rounded(ends, conv.weight.abs().flatten(1).amax(1), conv.bias)
    int8 = Int8(rounded, "0" * 16, 0.0, 0.0)
    monkeypatch.setattr(backend_module, "has_bfloat16", lambda device: False)  # float32 beside eight bits
    chosen = Backend("openvino-int8", int8)
    decoder = openvino.OpenVINODecoder(plain, found, (4, 6), chosen, eight_bit=False, key=None)
    (out,) = decoder.outputs([held[0][0].permute(2, 3, 0, 1)])
    size = (4 * plain.shuffle, 6 * plain.shuffle, STRIDE, STRIDE, 3)
    result = torch.from_numpy(np.array(out)).reshape(size).permute(4, 0, 2, 1, 3).reshape(wanted.shape)
    spread = float((wanted - exact).square().mean().sqrt())
    off = float((wanted - result).square().mean().sqrt())
    assert off < spread / 5, (off, spread)


def test_every_weight_still_learns_and_is_saved_as_it_is(net, held):
    before = {key: value.clone() for key, value in net.state_dict().items()}
    round_decoder(net.decoder)
    decoded(net, held).square().mean().backward()
    for parameter in net.decoder.parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0
    after = net.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_weights_have_255_values_for_each_output():
    weight = torch.randn(48, 8, 3, 3) * torch.logspace(-2, 1, 48)[:, None, None, None]
    rounded = rounded_weight(weight)
    step = weight.abs().flatten(1).amax(1)[:, None, None, None] / 127
    assert ((rounded - weight).abs() <= 0.501 * step).all()
    torch.testing.assert_close(rounded / step, (rounded / step).round(), atol=1e-3, rtol=0)
    # Of the last convolution those of red, green and blue.
    both = rounded_last(weight), weight
    rgb, before = (ycbcr_to_rgb(w.reshape(1, 3, 16, -1))[0].flatten(0, 1) for w in both)
    step = before.abs().amax(1)[:, None] / 127
    torch.testing.assert_close(rgb / step, (rgb / step).round(), atol=1e-2, rtol=0)


def test_a_range_follows_its_input_slowly():
    rounds = InputRange()
    first = torch.linspace(-1.0, 3.0, 1000)
    assert (rounds(first) - first).abs().max() <= 0.51 * 4 / 255
    assert len(rounds(first).unique()) == 256
    rounds(2 * first)
    torch.testing.assert_close(rounds.ends, torch.tensor([-1.01, 3.03]))
    assert (rounds(torch.zeros(3)) == 0).all()
