"""The published architecture in the training loop, with the published settings."""

from __future__ import annotations

import dataclasses
import math
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from published import small_config
from samples import make_photo, tiny_config

from napari_hyperthumb import decode, encode
from napari_hyperthumb.checkpoint import load_checkpoint, save_checkpoint
from napari_hyperthumb.errors import HyperThumbError, TrainingError
from napari_hyperthumb.paper import PaperConfig, PaperModel
from napari_hyperthumb.training.config import TrainingConfig, load_config
from napari_hyperthumb.training.data import CropSource
from napari_hyperthumb.training.loop import Trainer
from napari_hyperthumb.training.rate import NonzeroCount, rate_model

ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "configs" / "paper-x4.yaml"
RATES = ["nonzero", "entropy-bottleneck"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    Image.fromarray(make_photo(90, 120)).save(folder / "a.png")
    return folder


@pytest.fixture(scope="module")
def source(pictures: Path) -> CropSource:
    return CropSource([pictures], patch=64)


def settings(rate: str = "nonzero", **changes: Any) -> TrainingConfig:
    """The published settings, for small networks and few steps."""
    if rate == "entropy-bottleneck":
        pytest.importorskip("compressai", reason="needs CompressAI", exc_type=ImportError)
    small = {"model": small_config(), "patch": 64, "batch": 2, "steps": 3, "rate": rate}
    return dataclasses.replace(load_config(PUBLISHED), **(small | changes))


def test_settings_are_the_published_ones():
    config = load_config(PUBLISHED)
    assert config.architecture == "paper" and config.model == PaperConfig()
    assert (config.distortion, config.guidance, config.model.rate_weight) == ("published", 0.6, 0.02)
    assert (config.learning_rate, config.adam_beta2, config.clip) == (2e-4, 0.99, 5)
    assert (config.patch, config.batch, config.steps, config.ema) == (256, 16, 1_800_000, 0)
    assert config.rate == "entropy-bottleneck"


def test_the_whole_architecture_trains_a_few_steps_and_ships_weights(source, tmp_path):
    rate = "entropy-bottleneck" if find_spec("compressai") else "nonzero"
    config = settings(rate, model=PaperConfig(), batch=1, steps=2)
    trainer = Trainer(config, source, tmp_path, device="cpu")
    before = {key: value.clone() for key, value in trainer.net.state_dict().items()}
    weights = trainer.run()
    moved = [key for key, value in trainer.net.state_dict().items() if not torch.equal(before[key], value)]
    # ReLUs of a random table predictor may be shut; everything else moves.
    fixed = {key for key in before if key not in moved and not key.startswith("predictor.")}
    assert not fixed
    model = load_checkpoint(weights)
    assert isinstance(model.net, PaperModel)
    assert (model.name, model.notes["steps"]) == ("paper-x4", 2)
    for key, value in trainer.net.state_dict().items():  # no running mean: the weights as they are
        assert torch.allclose(model.net.state_dict()[key], value, atol=1e-3, rtol=1e-3), key
    image = make_photo(40, 50)
    assert decode(encode(image, model=model).data, model=model).shape == image.shape


@pytest.mark.parametrize("rate", RATES)
def test_loss_falls(source, tmp_path, rate):
    config = settings(rate, steps=40, learning_rate=3e-3)
    trainer = Trainer(config, source, tmp_path, device="cpu")
    losses = [trainer.train_step(trainer.net).loss.item() for _ in range(40)]
    assert np.mean(losses[-8:]) < 0.8 * np.mean(losses[:8])


@pytest.mark.parametrize("rate", RATES)
def test_a_run_goes_on_where_it_stopped(source, tmp_path, rate):
    Trainer(settings(rate, steps=2), source, tmp_path, device="cpu").run()
    trainer = Trainer(settings(rate, steps=4), source, tmp_path, device="cpu")
    assert trainer.step == 2
    trainer.run()
    assert trainer.step == 4


def test_a_run_of_ours_isnt_taken_for_one_of_the_paper(source, tmp_path):
    ours = TrainingConfig(name="x", model=tiny_config(4), steps=1, patch=64, batch=1)
    Trainer(ours, source, tmp_path, device="cpu").run()
    with pytest.raises(TrainingError, match="trains other networks"):
        Trainer(settings(), source, tmp_path, device="cpu")
    with pytest.raises(TrainingError, match="its networks differ"):
        Trainer(settings(), source, tmp_path / "new", start=tmp_path / "weights.safetensors", device="cpu")


def test_sizes_must_be_those_of_the_architecture():
    with pytest.raises(TrainingError, match="takes a PaperConfig"):
        settings(model=tiny_config(4))
    with pytest.raises(TrainingError, match="takes a ModelConfig"):
        TrainingConfig(name="x", model=small_config(), steps=1)


def test_entropy_bottleneck_prices_what_it_has_learnt():
    """After a few steps on its own, likelier coefficients cost fewer bits; gray images pay for luma only."""
    pytest.importorskip("compressai", reason="needs CompressAI", exc_type=ImportError)
    rate = rate_model("entropy-bottleneck")
    scaled = torch.randn(2, 3, 64, 4, 4) * 0.3
    optimiser = torch.optim.Adam(rate.parameters(), 1e-2)
    bits = []
    for _ in range(60):
        total = rate(scaled, scaled.round()).sum()
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        bits.append(total.item())
    assert bits[-1] < 0.7 * bits[0]
    with torch.no_grad():
        small, large = (rate(scaled * factor, scaled) for factor in (1, 30))
        gray = rate(scaled, scaled, torch.tensor([True, False]))
    assert (large > small).all()
    assert 0 < gray[0] < 0.6 * small[0]
    assert gray[1] == pytest.approx(float(small[1]), rel=0.1)
    grown = scaled.clone().requires_grad_()
    rate(grown, grown).sum().backward()
    assert grown.grad is not None and grown.grad.abs().sum() > 0
    assert math.isfinite(float(grown.grad.sum()))


def test_nonzero_rate_sees_noise_as_it_sees_numbers():
    scaled = torch.randn(1, 3, 64, 2, 2)
    assert float(NonzeroCount()(scaled, scaled)) > 0


# ---- the benchmark ----------------------------------------------------------------------------


@pytest.fixture
def rd(monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    sys.modules.pop("rd", None)
    import rd

    return rd


def test_benchmark_takes_the_published_weights_and_labels_them(rd, pictures, tmp_path, model_paths):
    from published import small_net

    for name, notes in (("trained", {"minutes": 7.5}), ("released", {"source": "x.pth"})):
        save_checkpoint(tmp_path / f"{name}.safetensors", small_net(), name=name, notes=notes)
    options = [
        "--codecs",
        "jpeg",
        "--levels",
        "-1",
        "0",
        "1",
        "--model",
        str(model_paths[2]),
        str(model_paths[4]),
    ]
    out = tmp_path / "out"
    published = ["--published", str(tmp_path / "trained.safetensors")]
    assert rd.main([str(pictures), "--out", str(out), *options, *published]) == 0
    rows = rd.from_csv(out / "rd.csv")
    mine = [row for row in rows if row.codec == "Published x4, 7.5 min of training"]
    assert [row.quality for row in mine] == [-1, 0, 1]
    assert "| Published x4, 7.5 min of training |" in (out / "rd.md").read_text()
    assert rd.published_task(tmp_path / "released.safetensors").codec == "Published x4, released weights"
    with pytest.raises(HyperThumbError, match="our own networks"):
        rd.published_task(model_paths[4])
