"""Weights on disk: what is written comes back, and nothing but whole files of ours is accepted."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from samples import tiny_config, tiny_net

from napari_hyperthumb.checkpoint import (
    BUNDLED,
    FORMAT,
    Model,
    bundled_path,
    load_checkpoint,
    save_checkpoint,
)
from napari_hyperthumb.codec import load_model
from napari_hyperthumb.errors import HyperThumbError, ModelError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights.safetensors"


def write(
    path: Path,
    *,
    state: dict[str, torch.Tensor] | None = None,
    config: dict[str, object] | str | None = None,
    **header: str,
) -> Path:
    """Weights made by hand, by default good ones."""
    if config is None:
        config = dataclasses.asdict(tiny_config(2))
    text = config if isinstance(config, str) else json.dumps(config)
    fields = {"format": FORMAT, "name": "made-x2", "config": text, "notes": "{}", **header}
    save_file(tiny_net(2).state_dict() if state is None else state, path, metadata=fields)
    return path


# ---- round trip -------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [2, 4])
def test_weights_configuration_name_and_notes_come_back(path, scale):
    net = tiny_net(scale)
    save_checkpoint(path, net, name="some-name", notes={"steps": 7}, dtype=torch.float32)
    model = load_checkpoint(path)
    assert (model.name, model.notes, model.scale) == ("some-name", {"steps": 7}, scale)
    assert model.net.config == net.config
    state = model.net.state_dict()
    assert state.keys() == net.state_dict().keys()
    for key, value in net.state_dict().items():
        assert torch.equal(state[key], value), key


def test_weights_are_halved_on_disk_and_float32_in_use(path):
    net = tiny_net(2)
    save_checkpoint(path, net, name="half")
    assert {value.dtype for value in load_file(path).values()} == {torch.float16}
    for key, value in load_checkpoint(path).net.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, net.state_dict()[key].half().float()), key


def test_loaded_model_is_ready_to_use_and_frozen(path):
    model = load_checkpoint(write(path))
    assert not model.net.training
    assert not any(parameter.requires_grad for parameter in model.net.parameters())


def test_digest_is_that_of_the_weights_not_of_their_place(tmp_path):
    first, other = tmp_path / "first.safetensors", tmp_path / "other.safetensors"
    save_checkpoint(first, tiny_net(2), name="same")
    copy = first.rename(tmp_path / "moved.safetensors")
    save_checkpoint(other, tiny_net(2, seed=1), name="same")
    digest = load_checkpoint(copy).digest
    assert digest == hashlib.sha256(copy.read_bytes()).hexdigest()[:16]
    assert load_checkpoint(other).digest != digest


def test_saving_leaves_the_net_as_it_is(path):
    net = tiny_net(2)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    save_checkpoint(path, net, name="x")
    for key, value in net.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, before[key])


def test_weights_of_other_float_types_are_accepted(path):
    state = {key: value.bfloat16() for key, value in tiny_net(2).state_dict().items()}
    assert load_checkpoint(write(path, state=state)).net.predictor.base.dtype == torch.float32


def test_unwritable_weights_are_our_error(tmp_path):
    with pytest.raises(HyperThumbError, match="can't be written"):
        save_checkpoint(tmp_path / "none" / "a.safetensors", tiny_net(2), name="x")


@pytest.mark.parametrize("name", ["my weights", 'a"b', "a<b", "ü", "", "x" * 65, "a/b"])
def test_names_that_a_thumbnail_cant_hold_are_refused(path, name):
    """A file that names such weights couldn't be decoded again."""
    with pytest.raises(ModelError, match="name"):
        save_checkpoint(path, tiny_net(2), name=name)
    assert not path.exists()
    with pytest.raises(ModelError, match="name"):
        load_checkpoint(write(path, name=name))


# ---- files that aren't whole weights of ours --------------------------------------------------


def refused(path: Path, message: str) -> None:
    with pytest.raises(ModelError, match=message) as error:
        load_checkpoint(path)
    assert str(error.value).startswith(f"{path}: ")
    assert str(error.value).count(str(path)) == 1


def test_missing_file(path):
    refused(path, "no such weights file")


def test_folder(path):
    path.mkdir()
    refused(path, "no such weights file")


def test_empty_file(path):
    path.touch()
    refused(path, "not a readable safetensors file")


def test_text(path):
    path.write_text("weights, honestly")
    refused(path, "not a readable safetensors file")


@pytest.mark.parametrize("part", [0.001, 0.1, 0.99])
def test_truncated_file(path, part):
    data = write(path).read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    refused(path, "not a readable safetensors file")


def test_header_of_an_absurd_length(path):
    path.write_bytes((2**62).to_bytes(8, "little") + b"{}")
    refused(path, "not a readable safetensors file")


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return pytest.fail, ("a pickle was run",)


def test_pickle_is_never_run(tmp_path):
    for name, message in (("a.pt", "never pickle"), ("a.safetensors", "not a readable safetensors")):
        (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
        refused(tmp_path / name, message)


def test_weights_of_another_program(path):
    save_file({"layer.weight": torch.zeros(2, 2)}, path)
    refused(path, "not weights of HyperThumb")
    refused(write(path, format="hyperthumb-weights-2"), "not weights of HyperThumb")


def test_missing_weights_are_named(path):
    state = tiny_net(2).state_dict()
    del state["decoder.out.bias"]
    refused(write(path, state=state), "missing weights: decoder.out.bias")


def test_unexpected_weights_are_named(path):
    state = {**tiny_net(2).state_dict(), "decoder.extra": torch.zeros(1)}
    refused(write(path, state=state), "unexpected weights: decoder.extra")


def test_misshapen_weights_are_named(path):
    state = {**tiny_net(2).state_dict(), "decoder.out.bias": torch.zeros(5)}
    refused(write(path, state=state), "misshapen weights: decoder.out.bias")


def test_weights_of_the_other_scale(path):
    refused(write(path, state=tiny_net(4).state_dict()), "misshapen")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinite_weights(path, value):
    state = tiny_net(2).state_dict()
    state["encoder.head.weight"][0, 0, 0, 0] = value
    refused(write(path, state=state), "NaN or infinite")


@pytest.mark.parametrize("name", ["float8_e4m3fn", "complex64", "int8"])
def test_weights_of_types_we_never_write(path, name):
    dtype = getattr(torch, name, None)
    if dtype is None:
        pytest.skip(f"this torch has no {name}")
    state = {key: value.to(dtype) for key, value in tiny_net(2).state_dict().items()}
    refused(write(path, state=state), name)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"attention_heads": 4}, "newer version.*attention_heads"),
        ({"scale": 8}, "scale"),
        ({"scale": 2.0}, "scale"),
        ({"scale": None}, "scale"),
        ({"decoder_channels": "8"}, "decoder_channels"),
        ({"decoder_channels": 10**9}, "decoder_channels"),
        ({"encoder_level_blocks": 1.5}, "encoder_level_blocks"),
        ({"dead_zone": "wide"}, "dead_zone|damaged"),
        ({"dead_zone": None}, "dead_zone|damaged"),
    ],
)
def test_configuration_with_impossible_settings(path, changed, message):
    config = {**dataclasses.asdict(tiny_config(2)), **changed}
    refused(write(path, config=config), message)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", "null", '["scale"]', "{}", "[" * 100_000, "9" * 5000], ids=lambda t: t[:9]
)
def test_configuration_that_isnt_a_json_object(path, text):
    refused(write(path, config=text), "configuration in the header is damaged")


@pytest.mark.parametrize("notes", ["{", "[1]", "7", "[" * 100_000], ids=lambda t: t[:9])
def test_notes_are_a_dictionary_whatever_the_header_says(path, notes):
    assert load_checkpoint(write(path, notes=notes)).notes == {}


def test_configuration_larger_than_its_tensors_allocates_nothing(path, monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", lambda *_: pytest.fail("built"))
    config = {**dataclasses.asdict(tiny_config(2)), "encoder_channels": 1024, "decoder_channels": 1024}
    refused(write(path, config=config), "misshapen")


def test_oversized_file_is_refused_unread(path, monkeypatch):
    monkeypatch.setattr("napari_hyperthumb.checkpoint.MAX_BYTES", 100)
    refused(write(path), "too large")


# ---- by name ----------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", BUNDLED)
def test_bundled_weights_are_whole_and_of_their_scale(scale):
    model = load_model(BUNDLED[scale])
    assert model.scale == scale
    assert model.name == BUNDLED[scale]
    assert bundled_path(BUNDLED[scale]).stat().st_size < 4 * 2**20


def test_model_is_loaded_once_and_again_when_the_file_changes(path):
    save_checkpoint(path, tiny_net(2), name="a")
    first = load_model(path)
    assert load_model(str(path)) is first
    assert load_model(first) is first
    save_checkpoint(path, tiny_net(2), name="longer")
    assert load_model(path).name == "longer"


@pytest.mark.parametrize("name", ["ht-x8", "none.safetensors", "a\0b", ""])
def test_unknown_names_list_the_bundled_ones(name):
    with pytest.raises(ModelError, match="ht-x2"):
        load_model(name)


def test_model_says_its_scale(models):
    assert {scale: model.scale for scale, model in models.items()} == {2: 2, 4: 4}
    assert all(isinstance(model, Model) for model in models.values())


def test_loading_weights_imports_nothing_heavy(model_paths):
    """Some operations on the meta device make torch import sympy, which takes over a second."""
    script = (
        "import sys, torch; before = 'sympy' in sys.modules; from napari_hyperthumb import load_model; "
        f"load_model({str(model_paths[2])!r}); print(before or 'sympy' not in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
