"""The training loop: it learns, survives every way to be interrupted, and ships what it says."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from samples import make_photo, tiny_config, tiny_net

from napari_hyperthumb.bitstream import read_jpeg
from napari_hyperthumb.checkpoint import Model, build, bundled_path, load_checkpoint, save_checkpoint
from napari_hyperthumb.errors import DependencyError, ModelError, TrainingError
from napari_hyperthumb.pipeline import PreparedImage
from napari_hyperthumb.pixels import check_image
from napari_hyperthumb.training import loop
from napari_hyperthumb.training.config import DISTORTIONS, TrainingConfig
from napari_hyperthumb.training.data import Batch, CropSource
from napari_hyperthumb.training.loop import LOG, SHEET, STATE, WEIGHTS, Progress, Trainer, loss_terms
from napari_hyperthumb.training.rate import NonzeroCount, rate_model

COMMAND = [sys.executable, "-m", "napari_hyperthumb.cli", "train"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def config(scale: int = 2, **changes: Any) -> TrainingConfig:
    settings: dict[str, Any] = {"steps": 6, "patch": 32, "batch": 2, "warmup_steps": 3, "gray": 0.2}
    return TrainingConfig(name="test", model=tiny_config(scale), **(settings | changes))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    Image.fromarray(make_photo(70, 60)).save(folder / "a.png")
    Image.fromarray(make_photo(48, 64)[::-1]).save(folder / "b.png")
    return folder


@pytest.fixture(scope="module")
def source(pictures: Path) -> CropSource:
    return CropSource([pictures], patch=32, gray=0.2)


class Watched:
    """A source that calls `at(step)` before it gives the crops of a step."""

    def __init__(self, source: CropSource, at: Callable[[int], object]) -> None:
        self.source, self.at = source, at

    def batch(self, step: int, size: int, rank: int = 0) -> Batch:
        out = self.at(step)
        return out if isinstance(out, Batch) else self.source.batch(step, size, rank)

    def validation(self, size: int) -> Batch:
        return self.source.validation(size)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / STATE)


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / LOG).open(newline="") as file:
        return list(csv.DictReader(file))


# ---- the loss ---------------------------------------------------------------------------------


@pytest.mark.parametrize("distortion", DISTORTIONS)
def test_loss_is_the_stated_formula(source, distortion):
    model = dataclasses.replace(tiny_config(2), rate_weight=90.0, rate_slope=1.3)
    settings = dataclasses.replace(config(distortion=distortion, rate="nonzero", guidance=0.4), model=model)
    batch, level = source.batch(0, 3), torch.tensor([-1.0, 0.2, 0.9])
    rate = NonzeroCount()
    coded = tiny_net(2)(batch.rgb, level, batch.gray)
    terms = loss_terms(coded, batch, level, rate, settings)

    def rgb(planes: np.ndarray) -> np.ndarray:
        y, cb, cr = planes.transpose(1, 0, 2, 3)
        return np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], 1)

    hr, lr, bicubic = (x.detach().double().numpy() for x in (coded.hr, coded.lr, coded.bicubic))
    hr_error, lr_error = hr - batch.rgb.double().numpy(), rgb(lr) - rgb(bicubic)
    if distortion == "published":
        d_hr, d_lr = np.abs(hr_error / 255).mean((1, 2, 3)), np.square(lr_error / 255).mean((1, 2, 3))
    else:
        measures = {"l1": np.abs, "charbonnier": lambda e: np.sqrt(e * e + 1)}
        measure = measures.get(distortion, np.square)
        d_hr, d_lr = (measure(e).mean((1, 2, 3)) for e in (hr_error, lr_error))
    bpp = rate(coded.scaled, coded.quantised, batch.gray).detach().numpy() / 32**2
    mu = 90.0 * np.exp(-1.3 * level.numpy())
    losses = (d_hr + mu * bpp + 0.4 * d_lr) / (np.sqrt(mu) if distortion == "mse" else 1)
    if distortion == "log-mse":
        losses = 10 * np.log10(losses)
    assert terms.loss.item() == pytest.approx(losses.mean(), rel=1e-4)
    assert terms.bpp.item() == pytest.approx(bpp.mean(), rel=1e-5)
    assert terms.mse.item() == pytest.approx(np.square(hr_error).mean(), rel=1e-5)
    assert terms.lr_mse.item() == pytest.approx(np.square(lr_error).mean(), rel=1e-3)


@pytest.mark.parametrize("distortion", DISTORTIONS)
@pytest.mark.parametrize("rate", ["huffman", "nonzero", "entropy-bottleneck"])
def test_every_rate_and_distortion_moves_all_networks(source, tmp_path, rate, distortion):
    if rate == "entropy-bottleneck":
        pytest.importorskip("compressai", reason="needs CompressAI", exc_type=ImportError)
    trainer = Trainer(config(rate=rate, distortion=distortion), source, tmp_path)
    before = {key: value.clone() for key, value in trainer.net.state_dict().items()}
    trainer.train_step(trainer.net)
    gradients = {key: p.grad for key, p in trainer.net.named_parameters()}
    assert all(g is not None and torch.isfinite(g).all() for g in gradients.values())
    for part in ("encoder.trunk", "encoder.out", "encoder.film", "predictor.net", "decoder.frequency"):
        prefix = part.replace("trunk", "head")
        assert any(g.abs().sum() > 0 for key, g in gradients.items() if key.startswith(prefix)), part
    moved = trainer.net.state_dict()
    assert all(torch.isfinite(value).all() for value in moved.values())
    assert sum(not torch.equal(before[key], moved[key]) for key in before) > 0.9 * len(gradients)


def test_missing_compressai_is_named(source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "compressai", None)
    monkeypatch.setitem(sys.modules, "compressai.entropy_models", None)
    with pytest.raises(DependencyError, match="pip install compressai"):
        Trainer(config(rate="entropy-bottleneck"), source, tmp_path)


@pytest.mark.parametrize("scale", [2, 4])
def test_loss_falls_on_one_picture(tmp_path, scale):
    Image.fromarray(make_photo(32, 32)).save(tmp_path / "a.png")
    source = CropSource([tmp_path], patch=32)
    settings = config(scale, steps=120, learning_rate=3e-3)
    trainer = Trainer(settings, source, tmp_path / "run")
    losses = [trainer.train_step(trainer.net).loss.item() for _ in range(120)]
    assert np.mean(losses[-12:]) < 0.9 * np.mean(losses[:12])


def test_levels_are_drawn_from_equal_parts_of_the_range_at_every_step(source, tmp_path):
    trainer = Trainer(config(batch=4), source, tmp_path)
    seen: list[list[float]] = []

    def net(rgb: torch.Tensor, level: torch.Tensor, *rest: object) -> object:
        seen.append(level.tolist())
        return trainer.net(rgb, level, *rest)

    for _ in range(5):
        trainer.train_step(net)
    for levels in seen:
        parts = [-1 + 0.5 * n for n in range(5)]
        assert all(low <= x <= high for low, x, high in zip(parts, sorted(levels), parts[1:], strict=False))
    assert len({level for levels in seen for level in levels}) == 20
    assert any(levels != sorted(levels) for levels in seen)


def test_the_last_phase_trains_the_decoder_alone_on_what_files_hold(source, tmp_path, monkeypatch):
    trainer = Trainer(config(trained="decoder"), source, tmp_path)
    decoded = []

    def net(rgb, level, gray, held):
        decoded.extend(zip(rgb, level, gray, held.quantised, held.tables, strict=True))
        return trainer.net(rgb, level, gray, held)

    start = {key: value.clone() for key, value in trainer.net.state_dict().items()}
    trainer.train_step(net)
    files = []
    for rgb, level, gray, quantised, tables in decoded:
        pixels = (rgb.permute(1, 2, 0) + 128).round().byte().numpy()
        array, fmt = check_image(pixels[:, :, 0] if gray else pixels)
        before = build(trainer.config.model)
        before.load_state_dict(start)
        prepared = PreparedImage(array, fmt, Model(before, "test", "0" * 16), torch.device("cpu"))
        coding = prepared.code(float(level))
        contents = read_jpeg(coding.data)
        planes = len(contents.quantised)
        assert torch.equal(quantised[:planes], contents.quantised.float()) and not quantised[planes:].any()
        np.testing.assert_array_equal(tables.numpy()[:planes], contents.tables[:planes])
        files.append(coding.data)
    assert len(set(files)) == 2
    for _ in range(2):
        trainer.train_step(net)
    changed = {
        key.split(".")[0] for key, value in trainer.net.state_dict().items() if (value != start[key]).any()
    }
    assert changed == {"decoder"}
    assert len({float(level) for _, level, *_ in decoded}) <= 4, "one new crop at each step, the others again"


def test_gray_crops_say_nothing_of_the_gain_of_colours(pictures, tmp_path):
    trainer = Trainer(config(), CropSource([pictures], patch=32, gray=1.0), tmp_path)
    before = trainer.net.gain.clone()
    trainer.train_step(trainer.net)
    assert torch.equal(trainer.net.gain[1:], before[1:])
    assert (trainer.net.gain[0] != before[0]).any()
    assert not trainer.net.gain.requires_grad


def test_a_smaller_decoder_learns_from_the_larger_one_it_came_from(source, tmp_path):
    large = build(dataclasses.replace(tiny_config(2), decoder_channels=16, decoder_blocks=2))
    save_checkpoint(tmp_path / "large.safetensors", large, name="large")
    model = dataclasses.replace(large.config, decoder_channels=8, decoder_hidden=4, decoder_blocks=1)
    settings = dataclasses.replace(config(trained="decoder", distilled=1.0, recode=3, steps=9), model=model)
    trainer = Trainer(settings, source, tmp_path / "run", start=tmp_path / "large.safetensors")
    assert [block.a.weight.shape for block in trainer.net.decoder.body] == [(4, 8, 3, 3)]
    batch, level, held = trainer._crops()
    taught = trainer._taught(batch, level, held)
    torch.testing.assert_close(taught, large(batch.rgb, level, batch.gray, held).hr, atol=0.3, rtol=0)  # fp16
    with torch.no_grad():
        terms, coded = trainer._forward(trainer.net, batch, level, held, taught)
        nothing = loss_terms(coded, batch, level, trainer.rate, settings, coded.hr.float())
    far = (coded.hr.float() - taught).square().mean((1, 2, 3)) / model.trade_off(level).sqrt()
    assert float(terms.loss - nothing.loss) == pytest.approx(float(far.mean()), rel=1e-3)
    seen = []
    code = trainer._coded._code
    trainer._coded._code = lambda *a: seen.append(trainer.step) or code(*a)
    trainer._coded._pool = trainer._coded._pool * 40  # enough for crops to be coded anew at times only
    trainer.run()
    assert seen[: len(seen) - 12 * 3] == [0, 3, 6], "validation codes 12 crops at three levels"
    with pytest.raises(TrainingError, match="--start"):
        Trainer(settings, source, tmp_path / "other")
    small = tmp_path / "run" / "weights.safetensors"
    again = Trainer(settings, source, tmp_path / "again", start=small, teacher=tmp_path / "large.safetensors")
    torch.testing.assert_close(again._taught(batch, level, held), taught)
    with pytest.raises(TrainingError, match="same scale"):
        Trainer(settings, source, tmp_path / "other", start=small, teacher=bundled_path("ht-x4"))


def test_only_what_is_trained_computes_in_eight_bits(source, tmp_path):
    exact, rounded = (
        Trainer(config(trained="decoder", eight_bits=yes), source, tmp_path / str(yes))
        for yes in (False, True)
    )
    batch, level, held = exact._crops()

    def found(net):
        with torch.no_grad():
            return net(batch.rgb, level, batch.gray, held).hr.float()

    torch.testing.assert_close(found(rounded.ema), found(exact.ema), atol=0, rtol=0)
    assert 0 < (found(rounded.net) - found(rounded.ema)).abs().max() < 1
    assert rounded.run().exists()
    assert not torch.equal(rounded.net.decoder.out.weight, exact.net.decoder.out.weight)


def test_guidance_falls_above_level_0(source, tmp_path):
    trainer = Trainer(config(guidance=0.5, guidance_fall=2.0), source, tmp_path)
    batch = source.batch(0, 2)

    def extra(level: float) -> float:
        levels = torch.full((2,), level)
        coded = trainer.net(batch.rgb, levels, batch.gray)
        with_it, without = (
            loss_terms(
                coded, batch, levels, trainer.rate, dataclasses.replace(trainer.config, guidance=guidance)
            )
            for guidance in (0.5, 0.0)
        )
        normaliser = trainer.config.model.trade_off(levels).sqrt().mean()
        return float(((with_it.loss - without.loss) * normaliser / with_it.lr_mse).detach())

    assert extra(-1.0) == pytest.approx(0.5, rel=1e-3)
    assert extra(0.0) == pytest.approx(0.5, rel=1e-3)
    assert extra(1.0) == pytest.approx(0.5 * math.exp(-2), rel=1e-3)


def test_bfloat16_is_for_the_layers_only(source, tmp_path):
    """DCT, tables and rounding stay float32: planes that leave the encoder alike are coded exactly alike."""
    mixed, single = (
        Trainer(config(precision=precision), source, tmp_path / precision)
        for precision in ("bfloat16", "float32")
    )
    batch, level = source.batch(0, 2), torch.tensor([-0.5, 0.5])
    with torch.no_grad():
        for trainer in (mixed, single):  # bfloat16 rounds 0 to 0: both encoders give the bicubic thumbnail
            trainer.net.encoder.out.weight.zero_()
            trainer.net.encoder.out.bias.zero_()
        (terms, coded), (wanted, exact) = (t._forward(t.net, batch, level) for t in (mixed, single))
    torch.testing.assert_close(coded.tables, exact.tables, rtol=0, atol=0)
    torch.testing.assert_close(coded.scaled, exact.scaled, rtol=0, atol=0)
    assert coded.hr.dtype == terms.loss.dtype == torch.float32
    assert not torch.equal(coded.hr, exact.hr)  # the decoder did run in bfloat16
    assert terms.mse.item() == pytest.approx(wanted.mse.item(), rel=0.01)
    before = {key: value.clone() for key, value in mixed.net.state_dict().items()}
    mixed.train_step(mixed.net)
    for value in mixed.net.parameters():
        assert value.dtype == torch.float32 and torch.isfinite(value).all()
    assert any(not torch.equal(value, before[key]) for key, value in mixed.net.named_parameters())
    assert mixed.ema.mixed is None  # what is measured is what is shipped


def test_learning_rate_warms_up_and_ends_low(source, tmp_path):
    settings = config(steps=20, warmup_steps=4, learning_rate=1e-3, final_learning_rate=0.1)
    trainer = Trainer(settings, source, tmp_path)
    rates = []
    for _ in range(20):
        trainer.train_step(trainer.net)
        rates.append(trainer.optimiser.param_groups[0]["lr"])
    cosine = [0.1 + 0.9 * (1 + math.cos(math.pi * step / 20)) / 2 for step in range(20)]
    expected = [1e-3 * c * min(1, (step + 1) / 4) for step, c in enumerate(cosine)]
    assert rates == pytest.approx(expected)


# ---- what a run leaves ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(source: CropSource, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trainer]:
    """The folder of an uninterrupted run, and its trainer."""
    torch.manual_seed(5)  # a run depends on its own seed only
    folder = tmp_path_factory.mktemp("finished") / "new" / "run"
    trainer = Trainer(config(), source, folder)
    assert trainer.run() == folder / WEIGHTS
    return folder, trainer


def test_run_leaves_these_files(finished):
    folder, trainer = finished
    assert sorted(path.name for path in folder.iterdir()) == sorted([STATE, WEIGHTS, LOG, SHEET])
    assert trainer.step == 6


def test_weights_are_the_running_mean_in_half_precision(finished):
    folder, trainer = finished
    model = load_checkpoint(folder / WEIGHTS)
    assert model.name == "test"
    assert model.net.config == trainer.config.model
    assert model.notes["steps"] == 6
    shipped = model.net.state_dict()
    mean, raw = trainer.ema.state_dict(), trainer.net.state_dict()
    assert_equal(shipped, {key: value.half().float() for key, value in mean.items()})
    assert any(not torch.equal(raw[key].half(), mean[key].half()) for key in raw)


def test_running_mean_without_decay_is_the_weights(source, tmp_path):
    trainer = Trainer(config(ema=0.0), source, tmp_path)
    trainer.train_step(trainer.net)
    trainer.train_step(trainer.net)
    assert_equal(dict(trainer.ema.state_dict()), dict(trainer.net.state_dict()))


def test_running_mean_follows_its_formula(source, tmp_path):
    trainer = Trainer(config(ema=0.2), source, tmp_path)
    name = "decoder.head.weight"
    mean = trainer.net.state_dict()[name].clone()
    for step in range(1, 4):
        trainer.train_step(trainer.net)
        decay = min(0.2, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * trainer.net.state_dict()[name]
    assert torch.allclose(trainer.ema.state_dict()[name], mean, atol=1e-7)


def test_log_has_a_row_of_finite_figures_a_checkpoint(finished):
    (row,) = rows_of(finished[0])
    assert row["step"] == "6"
    assert all(math.isfinite(float(value)) for value in row.values())
    assert 5 < float(row["val_psnr"]) < 60
    assert 0 < float(row["val_bpp"]) < 30


def test_sheet_shows_four_crops_at_three_levels(finished):
    with Image.open(finished[0] / SHEET) as sheet:
        assert sheet.size == (2 * 3 * 32, 6 * 32)
        pixels = np.asarray(sheet)
    original, thumbnail = pixels[:32, :32], pixels[:32, 32:64]
    assert np.array_equal(thumbnail[::2, ::2], thumbnail[1::2, 1::2])  # enlarged by repeating pixels
    assert original.std() > 10


def test_validation_doesnt_change_training(source, tmp_path):
    plain, validated = (Trainer(config(), source, tmp_path / name) for name in "ab")
    for _ in range(3):
        plain.train_step(plain.net)
        validated.validate()
        validated.train_step(validated.net)
    assert_equal(dict(plain.net.state_dict()), dict(validated.net.state_dict()))


def test_report_is_called_with_what_happened(source, tmp_path, monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    reports: list[Progress] = []
    Trainer(config(), source, tmp_path).run(reports.append)
    assert [r.step for r in reports] == [1, 2, 3, 4, 5, 6]
    assert [r.fraction for r in reports] == pytest.approx([n / 6 for n in range(1, 7)])
    assert all(math.isfinite(x) for r in reports for x in dataclasses.astuple(r))
    assert reports[0].minutes == pytest.approx(1 / 60)
    assert reports[2].minutes_left == pytest.approx(reports[2].minutes)
    assert reports[-1].minutes_left == 0


def test_minutes_are_a_budget_over_all_calls(source, tmp_path, monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    settings = config(steps=None, minutes=0.2)

    def interrupt(step: int) -> None:
        trainer.stop_requested = step == 4

    trainer = Trainer(settings, Watched(source, interrupt), tmp_path)
    trainer.run()
    assert (trainer.step, trainer.seconds) == (5, 5.0)
    again = Trainer(settings, source, tmp_path)
    assert again.seconds == 5.0
    again.run()
    assert (again.step, again.seconds) == (12, 12.0)
    assert again.fraction() == 1


def test_checkpoints_are_written_on_the_way(source, tmp_path, monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    seen: list[bool] = []

    def look(step: int) -> None:
        seen.append((tmp_path / STATE).exists() and (tmp_path / WEIGHTS).exists())

    Trainer(config(checkpoint_minutes=2.9 / 60), Watched(source, look), tmp_path).run()
    assert seen == [False, False, False, True, True, True]
    assert [row["step"] for row in rows_of(tmp_path)] == ["3", "6", "6"]


def test_folder_that_cant_be_made_is_an_error(source, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TrainingError, match="file"):
        Trainer(config(), source, tmp_path / "file").run()


@pytest.mark.parametrize("gray", [0.0, 1.0])
def test_all_gray_and_all_colour_train(pictures, tmp_path, gray):
    trainer = Trainer(config(), CropSource([pictures], patch=32, gray=gray), tmp_path)
    assert torch.isfinite(trainer.train_step(trainer.net).loss)


# ---- interruptions ----------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 3])
def test_resumed_run_ends_with_exactly_the_weights_of_an_uninterrupted_one(source, tmp_path, finished, at):
    def interrupt(step: int) -> None:
        first.stop_requested = step == at

    first = Trainer(config(), Watched(source, interrupt), tmp_path)
    first.run()
    assert first.step == at + 1
    second = Trainer(config(), source, tmp_path)
    assert second.step == at + 1
    second.run()
    assert second.step == 6
    assert_equal(tensors(tmp_path), tensors(finished[0]))
    assert_equal(load_file(tmp_path / WEIGHTS), load_file(finished[0] / WEIGHTS))
    assert [row["step"] for row in rows_of(tmp_path)] == [str(at + 1), "6"]


class LearnedRate(torch.nn.Module):
    """A rate model with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.price = torch.nn.Parameter(torch.ones(()))

    def forward(self, scaled: torch.Tensor, quantised: torch.Tensor, gray: object = None) -> torch.Tensor:
        return self.price.abs() * scaled.abs().flatten(1).sum(1)


def test_rate_model_that_learns_is_part_of_the_state(source, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "rate_model", lambda name: LearnedRate())
    whole = Trainer(config(), source, tmp_path / "whole")
    whole.run()
    assert whole.rate.price != 1

    def interrupt(step: int) -> None:
        first.stop_requested = step == 2

    first = Trainer(config(), Watched(source, interrupt), tmp_path / "parts")
    first.run()
    Trainer(config(), source, tmp_path / "parts").run()
    assert_equal(tensors(tmp_path / "parts"), tensors(tmp_path / "whole"))


def test_run_with_an_entropy_bottleneck_goes_on(source, tmp_path):
    pytest.importorskip("compressai", reason="needs CompressAI", exc_type=ImportError)
    Trainer(config(steps=2, rate="entropy-bottleneck"), source, tmp_path).run()
    trainer = Trainer(config(steps=3, rate="entropy-bottleneck"), source, tmp_path)
    assert trainer.step == 2
    trainer.run()
    assert math.isfinite(float(rows_of(tmp_path)[-1]["val_loss"]))


def test_finished_run_stays_as_it_is(source, tmp_path):
    Trainer(config(steps=2), source, tmp_path).run()
    before = tensors(tmp_path)
    again = Trainer(config(steps=2), source, tmp_path)
    again.run()
    assert again.step == 2
    assert_equal(tensors(tmp_path), before)


def test_longer_budget_goes_on(source, tmp_path):
    Trainer(config(steps=2), source, tmp_path).run()
    trainer = Trainer(config(steps=3), source, tmp_path)
    trainer.run()
    assert trainer.step == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_the_run_after_the_step_at_hand(source, tmp_path, number):
    def interrupt(step: int) -> None:
        if step == 2:
            signal.raise_signal(number)

    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    trainer = Trainer(config(steps=50), Watched(source, interrupt), tmp_path)
    trainer.run()
    assert trainer.step == 3
    assert trainer.stop_requested
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert load_checkpoint(tmp_path / WEIGHTS).notes["steps"] == 3


def test_another_thread_can_run_and_be_stopped(source, tmp_path):
    trainer = Trainer(config(steps=10**6), source, tmp_path)
    thread = threading.Thread(target=trainer.run)
    thread.start()
    while trainer.step < 2:
        time.sleep(0.01)
    trainer.stop_requested = True
    thread.join(60)
    assert not thread.is_alive()
    assert Trainer(config(steps=10**6), source, tmp_path).step == trainer.step


def test_exception_in_report_keeps_the_state(source, tmp_path, monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))

    def report(progress: Progress) -> None:
        raise RuntimeError("the caller's")

    with pytest.raises(RuntimeError, match="the caller's"):
        Trainer(config(), source, tmp_path).run(report)
    assert Trainer(config(), source, tmp_path).step == 1


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_step_that_isnt_finite_ends_the_run_with_the_state_before_it(source, tmp_path, kind):
    def spoil(step: int) -> Batch | None:
        if step == 3 and kind == "loss":
            good = source.batch(3, 2)
            return Batch(torch.full_like(good.rgb, math.nan), good.gray)
        if step == 3:
            trainer.net.decoder.out.weight.register_hook(lambda gradient: gradient * math.inf)
        return None

    trainer = Trainer(config(), Watched(source, spoil), tmp_path / "run")
    with pytest.raises(TrainingError, match=r"step 3: .*not finite"):
        trainer.run()
    clean = Trainer(config(), source, tmp_path / "clean")
    for _ in range(3):
        clean.train_step(clean.net)
    clean.folder.mkdir()
    clean.save()
    assert_equal(tensors(trainer.folder), tensors(clean.folder))
    assert Trainer(config(), source, trainer.folder).step == 3


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    limit = time.monotonic() + 300
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for other processes")
def test_ctrl_c_leaves_a_state_to_go_on_from(pictures, source, tmp_path):
    settings = config(steps=10**6, checkpoint_minutes=1e-5)
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(settings.to_dict()))
    arguments = [pictures, "-o", tmp_path / "run", "--config", tmp_path / "a.yaml", "--device", "cpu"]
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    try:
        wait_for(tmp_path / "run" / LOG, process)  # the last file of a checkpoint
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert out.strip() == str(tmp_path / "run" / WEIGHTS)
    assert "goes on from here" in err
    assert "Traceback" not in err
    trainer = Trainer(settings, source, tmp_path / "run")
    assert trainer.step >= 1
    assert load_checkpoint(tmp_path / "run" / WEIGHTS).notes["steps"] == trainer.step


# ---- states that can't be gone on from --------------------------------------------------------


def without_header(path: Path) -> None:
    save_file(load_file(path), path)


def without_a_tensor(path: Path) -> None:
    with_header(path, lambda state: state.pop("net.net.decoder.head.weight"))


def with_a_misshapen_tensor(path: Path) -> None:
    with_header(path, lambda state: state.update({"ema.decoder.head.bias": torch.zeros(3)}))


def with_a_foreign_tensor(path: Path) -> None:
    with_header(path, lambda state: state.update({"other": torch.zeros(3)}))


def with_header(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    state = load_file(path)
    change(state)
    header = {"config": json.dumps(config().to_dict()), "step": "6", "seconds": "1.0"}
    save_file(state, path, metadata=header)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\xff" * 1000),
        without_header,
        without_a_tensor,
        with_a_misshapen_tensor,
        with_a_foreign_tensor,
    ],
    ids=["truncated", "empty", "noise", "no header", "missing", "misshapen", "foreign"],
)
def test_damaged_state_is_named_and_kept(source, tmp_path, finished, damage):
    path = tmp_path / STATE
    path.write_bytes((finished[0] / STATE).read_bytes())
    damage(path)
    damaged = path.read_bytes()
    with pytest.raises(TrainingError, match=rf"(?s){STATE}: can't go on from this state.*delete it"):
        Trainer(config(), source, tmp_path)
    assert path.read_bytes() == damaged


def test_run_of_other_networks_is_named(tmp_path, finished):
    with pytest.raises(TrainingError, match="trains other networks; choose another folder"):
        Trainer(config(4), finished[1].source, finished[0])


def test_run_with_another_rate_model_that_learns_is_refused(finished, monkeypatch):
    monkeypatch.setattr(loop, "rate_model", lambda name: torch.nn.Linear(1, 1))
    with pytest.raises(TrainingError, match="can't go on"):
        Trainer(config(), finished[1].source, finished[0])


# ---- beginning from weights -------------------------------------------------------------------


def test_run_begins_from_weights(source, tmp_path):
    net = tiny_net(2, seed=9)
    save_checkpoint(tmp_path / "a.safetensors", net, name="a", dtype=torch.float32)
    trainer = Trainer(config(), source, tmp_path / "run", start=tmp_path / "a.safetensors")
    assert_equal(dict(trainer.net.state_dict()), dict(net.state_dict()))
    assert_equal(dict(trainer.ema.state_dict()), dict(net.state_dict()))
    assert trainer.step == 0
    trainer.train_step(trainer.net)
    assert not torch.equal(trainer.net.decoder.head.weight, net.decoder.head.weight)


def test_state_in_the_folder_wins_over_weights(tmp_path, source, model_paths, finished):
    trainer = Trainer(config(), source, finished[0], start=model_paths[2])
    assert trainer.step == 6
    assert_equal(dict(trainer.net.state_dict()), dict(finished[1].net.state_dict()))


def test_weights_of_other_networks_are_refused(source, tmp_path, model_paths):
    with pytest.raises(TrainingError, match=r"tiny-x4\.safetensors: its networks differ"):
        Trainer(config(2), source, tmp_path, start=model_paths[4])


def test_missing_weights_are_refused(source, tmp_path):
    with pytest.raises(ModelError, match="nowhere"):
        Trainer(config(), source, tmp_path, start=tmp_path / "nowhere.safetensors")


def test_seed_decides_the_first_weights(source, tmp_path):
    first, second, other = (
        dict(Trainer(config(seed=seed), source, tmp_path).net.state_dict()) for seed in (3, 3, 4)
    )
    assert_equal(first, second)
    assert not torch.equal(first["decoder.head.weight"], other["decoder.head.weight"])


def test_rate_models_are_known_by_the_names_of_configurations():
    assert isinstance(rate_model("nonzero"), NonzeroCount)


# ---- several processes ------------------------------------------------------------------------

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]

REPLICAS = """
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from napari_hyperthumb.training import loop
from napari_hyperthumb.training.config import load_config
from napari_hyperthumb.training.data import CropSource


class LearnedRate(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.price = torch.nn.Parameter(torch.ones(()))

    def forward(self, scaled, quantised, gray=None):
        return self.price.abs() * scaled.abs().flatten(1).sum(1)


loop.rate_model = lambda name: LearnedRate()
pictures, settings, folder = map(Path, sys.argv[1:])
config = load_config(settings)


class Source(CropSource):
    def batch(self, step, size, rank=0):
        # Only the first process is told to stop, and only the second one at another step.
        trainer.stop_requested = step == (3 if rank == 0 else 1)
        return super().batch(step, size, rank)


torch.manual_seed(0)
trainer = loop.Trainer(config, Source([pictures], patch=config.patch), folder / "run", device="cpu")
torch.manual_seed(trainer.rank)
trainer.run()
save_file(trainer._state() | {"step": torch.tensor(trainer.step)}, folder / f"{trainer.rank}.safetensors")
"""


def run_processes(*arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    command = [*TORCHRUN, *map(str, arguments)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=ENVIRONMENT)
    try:
        out, err = process.communicate(timeout=400)
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun ends its children then
        pytest.fail(f"the processes hang: {process.communicate()}")
    return process.returncode, out, err


needs_gloo = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="this build of torch can't run several processes",
)


@needs_gloo
def test_two_processes_train_one_file(pictures, tmp_path):
    settings = config(steps=4)
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(settings.to_dict()))
    run = tmp_path / "run"
    code, out, err = run_processes(
        "-m", "napari_hyperthumb.cli", "train", pictures,
        "-o", run, "--config", tmp_path / "a.yaml", "--device", "cpu",
    )  # fmt: skip
    assert code == 0, err
    assert out.split() == [str(run / WEIGHTS)]
    assert sorted(path.name for path in run.iterdir()) == sorted([STATE, WEIGHTS, LOG, SHEET])
    assert load_checkpoint(run / WEIGHTS).notes["steps"] == 4
    assert [row["step"] for row in rows_of(run)] == ["4"]


@needs_gloo
def test_replicas_agree_on_weights_rate_model_and_the_last_step(pictures, source, tmp_path):
    settings = config(steps=50, gray=0.0)
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(settings.to_dict()))
    (tmp_path / "replicas.py").write_text(REPLICAS)
    code, _, err = run_processes(tmp_path / "replicas.py", pictures, tmp_path / "a.yaml", tmp_path)
    assert code == 0, err
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1))
    assert_equal(first, second)
    assert int(first["step"]) == 4
    assert any(key.startswith("net.rate.") for key in first)
    assert_equal({key: value for key, value in first.items() if key != "step"}, tensors(tmp_path / "run"))
