"""Weights and input of the reference outputs in tests/paper (see the README there), and small networks."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch

from napari_hyperthumb.paper import PaperConfig, PaperModel

FOLDER = Path(__file__).parent / "paper"


def parameters() -> list[tuple[str, list[int]]]:
    """Published names and shapes, sorted."""
    return [(name, shape) for name, shape in json.loads((FOLDER / "parameters.json").read_text())]


def weights() -> dict[str, torch.Tensor]:
    """Published names to the deterministic weights of the reference outputs."""
    state = {}
    for index, (name, shape) in enumerate(parameters()):
        values = np.sin(np.arange(math.prod(shape)) * 12.9898 + (index + 1) * 78.233)
        if len(shape) > 1:
            gain = 6 if name.startswith("encoder") else 3.5 if name.startswith("table_predictor") else 1.7
            values *= gain / math.sqrt(math.prod(shape[1:]))
        else:
            values *= 0.05
        state[name] = torch.from_numpy(values.reshape(shape).astype(np.float32))
    return state


def picture() -> np.ndarray:
    """The input of the reference outputs: (96, 128, 3) float32 of 0 .. 1."""
    yy, xx = np.mgrid[0:96, 0:128]
    red = 0.5 + 0.35 * np.sin(xx / 7.3) + 0.1 * np.cos(yy / 3.1)
    green = 0.5 + 0.3 * np.cos((xx + yy) / 11)
    blue = 0.45 + 0.25 * np.sin(yy / 5.7) * np.cos(xx / 13)
    return np.clip(np.stack([red, green, blue], 2), 0, 1).astype(np.float32)


def small_config() -> PaperConfig:
    """The published networks with few features: nothing else about them is smaller than it must be."""
    return PaperConfig(features=4, down_layers=1, decoder_features=4, decoder_blocks=1)


def small_net(seed: int = 0) -> PaperModel:
    """Random weights, with some contrast in the thumbnail and steps well above 1."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = PaperModel(small_config())
        with torch.no_grad():
            net.encoder.conv_last.weight.mul_(4)
            for mlp in net.predictor.MLPs:
                mlp.final_linear.bias.add_(6)
        return net
