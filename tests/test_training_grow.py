"""Networks that grow compute what they computed, and learn with what was added."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from samples import make_photo, tiny_config, tiny_net

from napari_hyperthumb.errors import ModelError
from napari_hyperthumb.model import HyperThumbModel
from napari_hyperthumb.training.grow import grow


def larger(scale: int = 2, **sizes: int) -> HyperThumbModel:
    return HyperThumbModel(dataclasses.replace(tiny_config(scale), **sizes))


def crops(count: int) -> torch.Tensor:
    photo = torch.from_numpy(make_photo(64, 64)).permute(2, 0, 1).float() - 128
    return torch.stack([photo.roll(8 * i, 1) for i in range(count)])


@pytest.fixture
def trained():
    """A small network whose biases and conditioning aren't those of a new one."""
    net = tiny_net(2)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return net


SIZES = [
    {"encoder_channels": 12},
    {"encoder_blocks": 4},
    {"encoder_blocks": 5, "encoder_level_blocks": 3},
    {"decoder_channels": 11},
    {"decoder_hidden": 11},
    {"decoder_channels": 12, "decoder_hidden": 9, "decoder_blocks": 2},
    {"decoder_blocks": 3},
    {"decoder_blocks": 3, "settling": 6, "rounds": 7},
    {
        "encoder_channels": 16, "encoder_blocks": 3, "encoder_level_blocks": 2,
        "decoder_channels": 16, "decoder_blocks": 2,
    },
]  # fmt: skip


@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: "+".join(sizes))
def test_a_grown_network_computes_the_same(trained, sizes):
    net = larger(**sizes)
    grow(net, trained)
    rgb, level = crops(2), torch.tensor([-0.4, 0.7])
    before, after = trained(rgb, level), net(rgb, level)
    assert torch.equal(before.tables, after.tables)
    torch.testing.assert_close(after.scaled, before.scaled, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(after.hr, before.hr, atol=1e-2, rtol=1e-4)


def test_everything_added_learns_within_two_steps(trained):
    net = larger(**SIZES[-1])
    grow(net, trained)
    start = {key: value.clone() for key, value in net.state_dict().items()}
    optimiser = torch.optim.SGD(net.parameters(), 1e-5)
    for _ in range(3):
        out = net(crops(2), torch.tensor([-0.4, 0.7]))
        optimiser.zero_grad()
        (out.hr - crops(2)).square().mean().backward()
        optimiser.step()
    for name in (
        "encoder.body.1.a.weight",
        "decoder.body.1.a.weight",
        "encoder.out.weight",
        "decoder.out.weight",
    ):
        assert not torch.equal(net.state_dict()[name], start[name]), name


@pytest.mark.parametrize(
    ("scale", "sizes", "named"),
    [
        (2, {"encoder_channels": 4}, "encoder_channels"),
        (2, {"decoder_hidden": 4}, "decoder_inner"),
        (2, {"decoder_blocks": 1, "frequency_channels": 8}, "may differ"),
        (4, {}, "may differ"),
    ],
)
def test_what_cannot_grow_is_refused(trained, scale, sizes, named):
    with pytest.raises(ModelError, match=named):
        grow(larger(scale, **sizes), trained)
