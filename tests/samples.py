"""A synthetic photograph and tiny networks with random weights."""

from __future__ import annotations

import numpy as np
import torch

from napari_hyperthumb.model import HyperThumbModel, ModelConfig


def tiny_config(scale: int) -> ModelConfig:
    return ModelConfig(
        scale=scale,
        encoder_channels=8,
        encoder_blocks=2,
        encoder_level_blocks=1,
        decoder_channels=8,
        decoder_blocks=1,
        frequency_hidden=8,
        frequency_channels=4,
        predictor_hidden=8,
    )


def tiny_net(scale: int, seed: int = 0) -> HyperThumbModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return HyperThumbModel(tiny_config(scale))


def make_photo(height: int, width: int) -> np.ndarray:
    """Gradients, edges, a disc and texture: (height, width, 3) uint8."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    rng = np.random.default_rng(7)
    picture = np.stack([60 + 150 * x, 190 - 120 * y, 90 + 90 * (x + y) / 2], 2)
    picture[(x - 0.5) ** 2 + (y - 0.35) ** 2 < 0.04] = (220, 70, 50)
    picture[(x > 0.75) & (y > 0.3)] -= 50
    stripes = 25 * np.sin(90 * (x + 0.4 * y)) * (x < 0.3)
    picture += stripes[..., None] + rng.normal(0, 5, (height, width, 1))
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)
