"""Fixed seeds, one thread, no GPU, a synthetic photograph and tiny models that make the suite fast."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from published import small_net
from samples import make_photo, tiny_net

from napari_hyperthumb.checkpoint import Model, load_checkpoint, save_checkpoint

# napari's tests reset the settings and write them: never those of whoever runs this.
_config = tempfile.TemporaryDirectory(prefix="napari-settings-")
os.environ["NAPARI_CONFIG"] = str(Path(_config.name) / "settings.yaml")

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


@pytest.fixture(scope="session", autouse=True)
def cpu_only() -> Iterator[None]:
    """On every machine, since bytes are compared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setattr(torch.backends.mps, "is_available", lambda: False)
        yield


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
def other_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a tiny model for scale 2 with weights of its own."""
    path = tmp_path_factory.mktemp("other") / "other-x2.safetensors"
    save_checkpoint(path, tiny_net(2, seed=1), name="other-x2")
    return path


@pytest.fixture(scope="session")
def other_model(other_weights: Path) -> Model:
    """That model."""
    return load_checkpoint(other_weights)


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """(96, 130, 3) uint8, read-only."""
    picture = make_photo(96, 130)
    picture.setflags(write=False)
    return picture


@pytest.fixture
def tiny_weights(model_paths: dict[int, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny models in place of the bundled ones."""
    names = {scale: str(path.with_suffix("")) for scale, path in model_paths.items()}
    for module in ("codec", "session"):
        monkeypatch.setattr(f"napari_hyperthumb.{module}.BUNDLED", names)


@pytest.fixture(scope="session")
def published_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of small networks of the published architecture (scale 4)."""
    path = tmp_path_factory.mktemp("published") / "small-paper.safetensors"
    save_checkpoint(path, small_net(), name="small-paper", dtype=torch.float32)
    return path
