"""Training configurations: what the YAML files may say, and errors that name the setting."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from napari_hyperthumb.errors import DependencyError, TrainingError
from napari_hyperthumb.model import ModelConfig
from napari_hyperthumb.training.config import TrainingConfig, config_from_dict, load_config

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
BASE: dict[str, Any] = {"name": "test", "model": {"scale": 2}, "steps": 10}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_in_the_repository_loads(path):
    config = load_config(path)
    assert config.name == (path.stem if config.architecture == "paper" else "ht-" + path.stem.split("-")[0])
    assert config.patch % config.model.block == 0
    assert config_from_dict(config.to_dict()) == config


def test_both_scales_have_a_configuration():
    assert {load_config(path).model.scale for path in CONFIGS} == {2, 4}


def test_settings_are_those_of_the_file(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(
        "name: ä\nmodel: {scale: 4, decoder_channels: 8}\nsteps: 7\nlearning_rate: 1.0e-3\ngray: 1\n",
        encoding="utf-8",
    )
    config = load_config(path)
    assert config == TrainingConfig(
        name="ä", model=ModelConfig(scale=4, decoder_channels=8), steps=7, learning_rate=1e-3, gray=1
    )


def test_plain_values_survive_yaml():
    config = config_from_dict(BASE | {"patch": 64, "rate": "nonzero"})
    assert config_from_dict(yaml.safe_load(yaml.safe_dump(config.to_dict()))) == config


# ---- budgets ----------------------------------------------------------------------------------


def test_minutes_and_steps_replace_each_other():
    config = config_from_dict(BASE, minutes=3.0)
    assert (config.minutes, config.steps) == (3.0, None)
    config = config_from_dict(BASE | {"steps": None, "minutes": 5}, steps=4)
    assert (config.minutes, config.steps) == (None, 4)


def test_overrides_that_arent_given_change_nothing():
    assert config_from_dict(BASE, minutes=None, steps=None) == config_from_dict(BASE)


@pytest.mark.parametrize(
    "changes",
    [{"steps": None}, {"minutes": 1.0}, {"steps": 0}, {"steps": -1}, {"steps": None, "minutes": 0.0}],
    ids=str,
)
def test_there_must_be_one_budget_above_0(changes):
    with pytest.raises(TrainingError, match="budget"):
        config_from_dict(BASE | changes)


def test_both_budgets_as_overrides_are_an_error():
    with pytest.raises(TrainingError, match="either minutes or steps"):
        config_from_dict(BASE, minutes=1.0, steps=1)


# ---- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"pach": 64}, "pach"),
        ({"model": {"scale": 2, "chanels": 8}}, "model: unknown setting chanels"),
        ({"name": 3}, "name"),
        ({"patch": "64"}, "patch"),
        ({"patch": 64.0}, "patch"),
        ({"batch": None}, "batch"),
        ({"batch": True}, "batch"),
        ({"learning_rate": "5e-4"}, "learning_rate"),
        ({"steps": 2.5}, "steps"),
        ({"model": 2}, "model"),
        ({"model": None}, "model"),
        ({"model": {"scale": "2"}}, "scale"),
        ({"model": {"scale": 2, "dead_zone": [0.1]}}, "dead_zone"),
        ({"model": {}}, "scale"),
    ],
    ids=str,
)
def test_unknown_settings_and_wrong_types_are_named(changes, named):
    with pytest.raises(TrainingError, match=f"^here.*{named}"):
        config_from_dict(BASE | changes, "here")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"patch": 100}, "patch must be a multiple of 16 at scale 2, not 100"),
        ({"patch": 48, "model": {"scale": 4}}, "patch must be a multiple of 32 at scale 4, not 48"),
        ({"patch": 0}, "patch"),
        ({"batch": 0}, "batch"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"ema": 1}, "ema"),
        ({"gray": 1.5}, "gray"),
        ({"held_out": 1}, "held_out"),
        ({"guidance": -1}, "guidance must not be negative"),
        ({"guidance": -1}, "guidance must not be negative"),
        ({"distortion": "l2"}, "distortion"),
        ({"recode": 0}, "recode"),
        ({"trained": "decoder", "distilled": 1.1}, "distilled must be from 0 to 1"),
        ({"distilled": 1.0}, "trained: decoder"),
        ({"eight_bits": True}, "trained: decoder"),
        ({"trained": "decoder", "eight_bits": 1}, "eight_bits must be bool"),
        ({"trained": "decoder", "distilled": 1.0, "distortion": "l1"}, "distortion: mse"),
        ({"model": {"scale": 2, "decoder_hidden": -1}}, "decoder_hidden"),
        ({"model": {"scale": 2, "settling": 65}}, "settling must be an integer from 0 to 64, not 65"),
        ({"model": {"scale": 2, "rounds": -1}}, "rounds must be"),
        ({"rate": "arithmetic"}, "rate"),
        ({"adam_beta2": 1}, "adam_beta2"),
        ({"architecture": "unet"}, "architecture must be one of hyperthumb, paper"),
        ({"architecture": "paper", "model": {}, "patch": 64}, "rate: huffman"),
        ({"architecture": "paper", "model": {"scale": 2}}, "scale 4"),
        ({"architecture": "paper", "model": {"predictor_hidden": 2}}, "unknown setting predictor_hidden"),
        ({"model": {"scale": 3}}, "scale"),
        ({"model": {"scale": 2, "decoder_blocks": 0}}, "decoder_blocks"),
        ({"model": {"scale": 2, "dead_zone": 0.5}}, "dead_zone"),
    ],
    ids=str,
)
def test_values_that_dont_fit_are_named(changes, named):
    with pytest.raises(TrainingError, match=named):
        config_from_dict(BASE | changes)


@pytest.mark.parametrize("missing", ["name", "model"])
def test_missing_settings_are_named(missing):
    with pytest.raises(TrainingError, match="name" if missing == "name" else "scale"):
        config_from_dict({key: value for key, value in BASE.items() if key != missing})


@pytest.mark.parametrize("values", [None, [], "name: x", 3], ids=str)
def test_anything_but_a_mapping_is_refused(values):
    with pytest.raises(TrainingError, match="expected a mapping"):
        config_from_dict(values)


@pytest.mark.parametrize("content", [b"", b"- a\n- b\n", b"name: [\n", b"\xff\xfe\xff", None], ids=str)
def test_files_that_cant_be_read_are_named(tmp_path, content):
    path = tmp_path / "bad.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TrainingError, match=r"bad\.yaml"):
        load_config(path)


def test_yaml_makes_no_objects(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("name: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(TrainingError, match="can't read"):
        load_config(path)


def test_missing_yaml_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(DependencyError, match=r"napari-hyperthumb\[train\]"):
        load_config(CONFIGS[0])


def test_configurations_dont_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        config_from_dict(BASE).patch = 3
