"""A decoder that becomes smaller keeps what matters, and learns the rest from the larger one."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from samples import make_photo, tiny_config, tiny_net

from napari_hyperthumb.model import HyperThumbModel
from napari_hyperthumb.training.data import Batch
from napari_hyperthumb.training.grow import film_layers, grow
from napari_hyperthumb.training.shrink import drop_blocks, shrink_decoder


@pytest.fixture
def crops() -> Batch:
    photo = torch.from_numpy(make_photo(64, 64)).permute(2, 0, 1).float() - 128
    return Batch(torch.stack([photo, photo.flip(1)]), torch.tensor([False, True]))


@pytest.fixture
def trained() -> HyperThumbModel:
    """A small network with two blocks, whose FiLM behind the head only shifts."""
    net = tiny_net(2)
    wide = HyperThumbModel(dataclasses.replace(net.config, decoder_blocks=2))
    with torch.no_grad():
        for parameter in wide.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for parameter in wide.decoder.film.net[2].parameters():
            film_layers(parameter, wide.decoder.film)[0][0] = 0
    return wide.eval()


@pytest.mark.parametrize(("channels", "inner"), [(12, 8), (8, 14)])
def test_what_nothing_listens_to_is_left_out(trained, crops, channels, inner):
    config = dataclasses.replace(trained.config, decoder_channels=channels, decoder_hidden=inner)
    large = HyperThumbModel(config).eval()
    grow(large, trained)
    small = shrink_decoder(large, 8, 8, crops).eval()
    assert small.config == dataclasses.replace(trained.config, decoder_hidden=8)
    level = torch.tensor([-0.3, 0.6])
    wanted, found = (net(crops.rgb, level, crops.gray).hr for net in (trained, small))
    torch.testing.assert_close(found, wanted, atol=0.05, rtol=0)


def test_what_matters_least_goes_first(trained, crops):
    level = torch.tensor([0.0, 0.0])
    wanted = trained(crops.rgb, level, crops.gray).hr

    def lost(channels: int, inner: int) -> float:
        found = shrink_decoder(trained, channels, inner, crops)(crops.rgb, level, crops.gray).hr
        return float((found - wanted).detach().square().mean())

    for sizes in ((8, 8), (7, 8), (5, 8), (2, 8)), ((8, 8), (8, 6), (8, 3), (8, 1)):
        losses = [lost(*size) for size in sizes]
        assert losses[0] < 1e-3 and losses == sorted(losses), sizes
    # At random far more is lost.
    worse = HyperThumbModel(dataclasses.replace(tiny_config(2), decoder_blocks=2, decoder_channels=7))
    worse.load_state_dict({**worse.state_dict(), **_cut(trained, worse)})
    at_random = (worse(crops.rgb, level, crops.gray).hr - wanted).detach().square().mean()
    assert lost(7, 8) < 0.7 * float(at_random)


@pytest.mark.parametrize("idle", [0, 1, 2])
def test_the_block_that_does_least_goes_first(trained, crops, idle):
    net = HyperThumbModel(dataclasses.replace(trained.config, decoder_blocks=3)).eval()
    with torch.no_grad():
        for index, block in enumerate(net.decoder.body):
            for parameter in block.b.parameters():
                parameter.mul_(0 if index == idle else 30)
        film_layers(net.decoder.film.net[2].bias, net.decoder.film)[1 + idle][0] = 7  # goes with it
    before = {key: value.clone() for key, value in net.state_dict().items()}
    small = drop_blocks(net, 2, crops).eval()
    assert small.config == dataclasses.replace(net.config, decoder_blocks=2)
    level = torch.tensor([-0.3, 0.6])
    wanted, found = (model(crops.rgb, level, crops.gray).hr for model in (net, small))
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=0)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert len(drop_blocks(net, 1, crops).decoder.body) == 1


def _cut(net: HyperThumbModel, to: HyperThumbModel) -> dict[str, torch.Tensor]:
    """Its first channels."""
    parts = {}
    for name, value in to.state_dict().items():
        if ".film." in name:
            continue
        parts[name] = net.state_dict()[name][tuple(slice(side) for side in value.shape)]
    return parts
