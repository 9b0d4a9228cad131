"""`hyperthumb train` and `hyperthumb evaluate`."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import typer
import yaml
from PIL import Image
from safetensors import safe_open
from samples import make_photo, tiny_config
from typer.testing import CliRunner, Result

from napari_hyperthumb._cli_training import add_training_commands
from napari_hyperthumb.checkpoint import Model, bundled_path, load_checkpoint
from napari_hyperthumb.training import evaluation, loop
from napari_hyperthumb.training.config import TrainingConfig
from napari_hyperthumb.training.loop import STATE, WEIGHTS

Call = Callable[..., Result]
APP = typer.Typer()
add_training_commands(APP)


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run a command in an empty folder and check its exit code."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object, code: int = 0) -> Result:
        result = CliRunner().invoke(APP, list(map(str, arguments)), catch_exceptions=False)
        assert result.exit_code == code, result.output
        return result

    return call


def save(path: str | Path, picture: np.ndarray) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
    return path


# ---- evaluate ---------------------------------------------------------------------------------

pytest.importorskip("torchmetrics", reason="MS-SSIM needs napari-hyperthumb[train]")


def test_evaluate_prints_means_and_writes_every_measurement(call, tmp_path, model_paths, models):
    save("in/a.png", make_photo(32, 40))
    save("in/sub/b.png", make_photo(40, 32)[:, :, 0])
    options = ["--level", -0.5, "--level", 1, "--csv", "out.csv", "--json", "out.json"]
    text = call("evaluate", "in", "--model", model_paths[2], *options).stdout
    expected = [
        evaluation.measure(name, picture, models[2], level)
        for name, picture in (("a.png", make_photo(32, 40)), ("b.png", make_photo(40, 32)[:, :, 0]))
        for level in (-0.5, 1.0)
    ]
    assert f"tiny-x2 {models[2].digest}: means over 2 pictures" in " ".join(text.split())
    for row in evaluation.means(expected):
        assert f"{row.level:+.2f}" in text
        assert f"{row.psnr:.2f}" in text
    assert f"{100 * evaluation.estimate_error(expected):.1f}% rms" in text
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["image"], float(row["psnr"])) for row in rows[:4]] == [(r.image, r.psnr) for r in expected]
    found = json.loads((tmp_path / "out.json").read_text())
    assert [row["nbytes"] for row in found["images"]] == [r.nbytes for r in expected]
    assert len(found["means"]) == 2


def test_evaluate_measures_nine_levels_when_none_is_given(call, tmp_path, model_paths):
    save("a.png", make_photo(16, 16))
    call("evaluate", "a.png", "--model", model_paths[4], "--json", "out.json")
    found = json.loads((tmp_path / "out.json").read_text())
    assert [row["level"] for row in found["images"]] == list(evaluation.DEFAULT_LEVELS)


def test_evaluate_against_a_baseline_fails_when_worse(call, tmp_path, model_paths, other_model, monkeypatch):
    save("a.png", make_photo(384, 512))
    models = {"better": other_model, "worse": load_checkpoint(model_paths[2])}

    def load(name: str) -> Model:
        return models[name]

    def measure(name: str, image: np.ndarray, model: Model, level: float, **_: Any) -> evaluation.Measurement:
        psnr = 30 + 5 * level + 0.25 * (model is models["better"])
        figures = dict.fromkeys(("estimated_nbytes", "ssim", "ms_ssim", "lr_psnr"), 1.0)
        return evaluation.Measurement(
            image=name, level=level, nbytes=2.0, bpp=0.35 + 0.3 * level, psnr=psnr, **figures
        )

    monkeypatch.setattr("napari_hyperthumb.codec.load_model", load)
    monkeypatch.setattr(evaluation, "measure", measure)
    text = call("evaluate", "a.png", "--model", "better", "--baseline", "worse").stdout
    assert "mean difference: +0.250 dB" in text
    assert "PSNR at 0.3 bpp" in text
    assert "(+0.25 against tiny-x2" in text
    assert "+0.000 dB" in call("evaluate", "a.png", "--model", "worse", "--baseline", "worse").stdout
    text = call("evaluate", "a.png", "--model", "worse", "--baseline", "better", code=1).stdout
    assert "mean difference: -0.250 dB" in text


def test_evaluate_without_common_rates_doesnt_pass_for_better(call, model_paths):
    save("a.png", make_photo(16, 16))
    options = ["--model", model_paths[2], "--baseline", model_paths[2], "--level", 0]
    text = call("evaluate", "a.png", *options, code=1).stdout
    assert "nan" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("empty", "empty: no picture there"),
        ("missing.png", "missing.png: no such file"),
        ("bad.png", "bad.png"),
        ("a.png --level 3", "level must be"),
        ("a.png --model missing.safetensors", "no such weights"),
        ("a.png --device abacus", "unknown device"),
        ("a.png --level 0 --csv nowhere/a.csv", "nowhere/a.csv: can't be written"),
    ],
)
def test_what_cant_be_evaluated_is_an_error_in_words(call, tmp_path, model_paths, arguments, message):
    (tmp_path / "empty").mkdir()
    save("a.png", make_photo(16, 16))
    (tmp_path / "bad.png").write_bytes(b"bad")
    model = [] if "--model" in arguments else ["--model", model_paths[2]]
    result = call("evaluate", *arguments.split(), *model, code=1)
    assert result.stderr.startswith("hyperthumb: ")
    assert message in result.stderr


# ---- train ------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for index in range(4):
        save(tmp_path / "pictures" / f"{index}.png", np.roll(make_photo(40, 48), index, 2))
    return tmp_path / "pictures"


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """A configuration file of a tiny model."""
    config = TrainingConfig(
        name="tiny", model=tiny_config(2), patch=32, batch=2, minutes=60, held_out=0.25, warmup_steps=1
    )
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(config.to_dict()))
    return path


def test_train_ends_with_weights_that_code_and_goes_on_later(call, tmp_path, pictures, settings):
    options = ["--config", settings, "--device", "cpu"]
    result = call("train", pictures, "-o", "run", *options, "--steps", 2)
    assert result.stdout.strip() == str(Path("run") / WEIGHTS)
    assert "3 pictures to train on, 1 held out, on cpu, from step 0" in result.stderr
    model = load_checkpoint(tmp_path / "run" / WEIGHTS)
    assert (model.name, model.notes["steps"]) == ("tiny", 2)
    evaluation.measure("a", make_photo(32, 32), model, 0.0)
    result = call("train", pictures, "-o", "run", *options, "--steps", 3)
    assert "from step 2" in result.stderr
    assert load_checkpoint(tmp_path / "run" / WEIGHTS).notes["steps"] == 3


def test_train_names_what_it_skips(call, pictures, settings):
    (pictures / "broken.png").write_bytes(b"broken")
    result = call("train", pictures, "-o", "run", "--config", settings, "--steps", 1)
    assert result.stderr.startswith("skipped: ")
    assert "broken.png" in result.stderr.splitlines()[0]


def test_train_begins_from_weights(call, tmp_path, pictures, settings, model_paths):
    options = ["--config", settings, "--steps", 1, "--start", model_paths[2]]
    call("train", pictures, "-o", "run", *options)
    begun = load_checkpoint(tmp_path / "run" / WEIGHTS).net.state_dict()
    start = load_checkpoint(model_paths[2]).net.state_dict()
    # The decoder's gain is measured, not learned step by step.
    difference = max((begun[key] - start[key]).abs().max().item() for key in start if key != "gain")
    assert 0 < difference < 0.01
    options = ["--config", settings, "--steps", 1, "--start", model_paths[4]]
    assert "its networks differ" in call("train", pictures, "-o", "other", *options, code=1).stderr


def test_interrupted_training_says_so(call, tmp_path, pictures, settings, monkeypatch):
    real = loop.Trainer.train_step

    def step(trainer: loop.Trainer, net: Any) -> loop.Terms:
        trainer.stop_requested = trainer.step == 1
        return real(trainer, net)

    monkeypatch.setattr(loop.Trainer, "train_step", step)
    result = call("train", pictures, "-o", "run", "--config", settings, code=130)
    assert "the same command goes on from here" in result.stderr
    with safe_open(tmp_path / "run" / STATE, framework="pt") as file:
        assert file.metadata()["step"] == "2"


def test_training_that_fails_is_an_error_in_words(call, pictures, settings, monkeypatch):
    def step(trainer: loop.Trainer, net: Any) -> loop.Terms:
        raise loop.TrainingError("step 0: not finite")

    monkeypatch.setattr(loop.Trainer, "train_step", step)
    result = call("train", pictures, "-o", "run", "--config", settings, code=1)
    assert "hyperthumb: step 0: not finite" in result.stderr


class Recorded:
    """Stands in for a trainer and keeps what it was given."""

    rank, step, device, stop_requested = 0, 0, "cpu", False
    given: SimpleNamespace

    def __init__(self, config: TrainingConfig, source: Any, folder: Path, **options: Any) -> None:
        Recorded.given = SimpleNamespace(config=config, source=source, folder=folder, **options)

    def run(self, report: object) -> Path:
        return Path("weights")


@pytest.mark.parametrize("scale", [2, 4])
def test_train_has_settings_of_its_own_for_each_scale(call, pictures, monkeypatch, scale):
    monkeypatch.setattr(loop, "Trainer", Recorded)
    call("train", pictures, "-o", "run", "--scale", scale, "--start", f"ht-x{scale}", "--device", "cpu")
    given = Recorded.given
    assert (given.config.name, given.config.model.scale) == (f"ht-x{scale}", scale)
    assert (given.config.minutes, given.config.steps) == (60.0, None)
    assert (given.start, given.device) == (bundled_path(f"ht-x{scale}"), "cpu")


def test_train_takes_budget_and_shares(call, pictures, settings, monkeypatch):
    save(pictures.parent / "more" / "dark.png", np.zeros((40, 40, 3), np.uint8))
    monkeypatch.setattr(loop, "Trainer", Recorded)
    shares = ["--share", 1, "--share", 3]
    call("train", pictures, "more", "-o", "run", "--config", settings, "--minutes", 2.5, *shares)
    assert Recorded.given.config.minutes == 2.5
    crops = [Recorded.given.source.batch(step, 8).rgb for step in range(30)]
    dark = np.mean([float((crop == -128).flatten(1).all(1).float().mean()) for crop in crops])
    assert dark == pytest.approx(0.75, abs=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("empty -o run", "no usable picture"),
        ("pictures -o run --scale 3", "scale must be 2 or 4"),
        ("pictures -o run --config missing.yaml", "missing.yaml"),
        ("pictures -o run --config odd.yaml", "unknown setting colour"),
        ("pictures -o run --minutes 1 --steps 1", "either minutes or steps"),
        ("pictures -o run --steps 0", "budget"),
        ("pictures -o run --share 0", "share"),
        ("pictures -o run --start missing.safetensors", "missing.safetensors"),
        ("pictures -o run --device abacus", "unknown device"),
        ("pictures -o tiny.yaml --config tiny.yaml", "tiny.yaml: can't be made"),
    ],
)
def test_what_cant_be_trained_is_an_error_in_words(call, tmp_path, pictures, settings, arguments, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd.yaml").write_text(yaml.safe_dump({"name": "odd", "colour": "red"}))
    result = call("train", *arguments.split(), code=1)
    assert message in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_wrong_usage_ends_with_2(call, command):
    assert call(command, code=2).stdout == ""
    assert "Usage" in call(command, "--nonsense", code=2).stderr


def test_nothing_is_infinite_in_json_of_small_pictures(call, tmp_path, model_paths):
    save("a.png", make_photo(8, 8))
    call("evaluate", "a.png", "--model", model_paths[2], "--level", 0, "--json", "out.json")
    found = json.loads((tmp_path / "out.json").read_text(), parse_constant=lambda text: math.nan)
    assert found["images"][0]["ssim"] is None
