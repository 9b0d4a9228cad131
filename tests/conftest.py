"""Fixed seeds, one thread, a synthetic photograph and tiny models that make the suite fast."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from napari_hyperthumb.checkpoint import Model, load_checkpoint, save_checkpoint
from napari_hyperthumb.model import HyperThumbModel, ModelConfig

settings.register_profile(
    "suite",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("suite")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


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


@pytest.fixture(scope="session")
def model_paths(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Scale to the file of a tiny model with random weights."""
    folder = tmp_path_factory.mktemp("models")
    paths = {scale: folder / f"tiny-x{scale}.safetensors" for scale in (2, 4)}
    for scale, path in paths.items():
        save_checkpoint(path, tiny_net(scale), name=f"tiny-x{scale}")
    return paths


@pytest.fixture(scope="session")
def models(model_paths: dict[int, Path]) -> dict[int, Model]:
    """Scale to a tiny model."""
    return {scale: load_checkpoint(path) for scale, path in model_paths.items()}


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A tiny model for scale 2 with weights of its own."""
    path = tmp_path_factory.mktemp("other") / "other-x2.safetensors"
    save_checkpoint(path, tiny_net(2, seed=1), name="other-x2")
    return load_checkpoint(path)


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


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """(96, 130, 3) uint8, read-only."""
    picture = make_photo(96, 130)
    picture.setflags(write=False)
    return picture
