"""The mean of several runs' weights."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from samples import tiny_config

from napari_hyperthumb.errors import TrainingError
from napari_hyperthumb.model import HyperThumbModel
from napari_hyperthumb.training.average import average


def test_parameters_are_averaged_and_the_gain_is_the_first_ones():
    configs = tiny_config(2), dataclasses.replace(tiny_config(2), settling=6)
    nets = [HyperThumbModel(config) for config in configs]
    nets[0].gain.fill_(3.0)
    mean = average(nets)
    assert mean.config == nets[0].config
    for name, values in mean.named_parameters():
        a, b = (net.get_parameter(name) for net in nets)
        assert not torch.equal(a, b) or not a.any()
        torch.testing.assert_close(values, (a + b) / 2)
    assert (mean.gain == 3).all()


def test_other_networks_are_refused():
    wider = dataclasses.replace(tiny_config(2), decoder_channels=12)
    with pytest.raises(TrainingError, match="different networks"):
        average([HyperThumbModel(tiny_config(2)), HyperThumbModel(wider)])
