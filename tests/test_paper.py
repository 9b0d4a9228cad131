"""The published networks: the reference outputs, the released checkpoint, and use like any other model."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published import FOLDER, parameters, picture, small_net, weights
from safetensors import safe_open
from samples import make_photo
from typer.testing import CliRunner

from napari_hyperthumb import decode, encode, info, pipeline
from napari_hyperthumb._cli_training import add_training_commands
from napari_hyperthumb.bitstream import read_jpeg, write_jpeg
from napari_hyperthumb.checkpoint import Model, load_checkpoint
from napari_hyperthumb.cli import app
from napari_hyperthumb.errors import ModelError
from napari_hyperthumb.files import read_image
from napari_hyperthumb.jpeg import ZIGZAG, rgb_to_ycbcr, ycbcr_to_rgb
from napari_hyperthumb.metrics import psnr
from napari_hyperthumb.paper import PaperConfig, PaperModel
from napari_hyperthumb.pipeline import PreparedImage
from napari_hyperthumb.pixels import check_image
from napari_hyperthumb.released import convert, import_weights, read_released
from napari_hyperthumb.session import Session

CPU = torch.device("cpu")
PARITY = 1e-4
ENTROPY = {
    "entropy_bottleneck.bottlenecks.0._matrix0": torch.rand(64, 3, 1),
    "entropy_bottleneck.bottlenecks.1.matrices.4": torch.rand(64, 1, 3),
    "entropy_bottleneck.bottlenecks.0.quantiles": torch.rand(64, 1, 3),
    "entropy_bottleneck.bottlenecks.1._quantized_cdf": torch.zeros(0, dtype=torch.int32),
    "entropy_bottleneck.bottlenecks.1.likelihood_lower_bound.bound": torch.tensor([1e-9]),
}
TABLES = {f"losslessJPEG.{which}_TABLE": torch.ones(8, 8, dtype=torch.float64) for which in "YC"}


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    return weights()


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    with np.load(FOLDER / "reference.npz") as file:
        return {name: file[name] for name in file}


@pytest.fixture(scope="module")
def imported(published: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that a released checkpoint has, through the command."""
    folder = tmp_path_factory.mktemp("released")
    source, target = folder / "HyperThumbnail_4x_net_g_latest.pth", folder / "paper.safetensors"
    torch.save({"params": {**published, **ENTROPY, **TABLES}}, source)
    result = _command("import-weights", source, target)
    assert result.exit_code == 0, result.output
    assert "paper-x4" in result.output and "11,661,675 values" in result.output
    assert f"{len(ENTROPY)} entries of the entropy model" in result.output
    return target


@pytest.fixture(scope="module")
def full(imported: Path) -> Model:
    return load_checkpoint(imported)


@pytest.fixture(scope="module")
def small(published_weights: Path) -> Model:
    return load_checkpoint(published_weights)


def _command(*words: object) -> Any:
    import typer

    commands = typer.Typer()
    add_training_commands(commands)
    return CliRunner().invoke(commands, [str(word) for word in words], catch_exceptions=False)


# ---- the reference outputs --------------------------------------------------------------------


def test_outputs_equal_those_of_the_authors_code(full, reference):
    net = full.net
    rgb = torch.from_numpy(picture()).permute(2, 0, 1)[None]
    with torch.no_grad():
        lr = net.encoder(rgb)
        coded = net(rgb * 255 - 128, torch.zeros(1))
    zigzag = coded.quantised[0][:, list(ZIGZAG)].numpy()
    found = {
        "lr": lr.numpy(),
        "tables": coded.tables.reshape(1, 2, 8, 8).numpy(),
        "stream_y": zigzag[:1],
        "stream_c": zigzag[1:],
        "lr_decoded": (ycbcr_to_rgb(coded.lr).numpy() + 128) / 255,
        "reconstruction": (coded.hr.numpy() + 128) / 255,
    }
    assert found.keys() == reference.keys()
    for name, expected in reference.items():
        assert found[name].shape == expected.shape, name
        assert np.abs(found[name] - expected).max() <= PARITY, name


def test_reference_isnt_met_by_accident(full, reference):
    """One weight a little off shows."""
    rgb = torch.from_numpy(picture()).permute(2, 0, 1)[None]
    changed = PaperModel(PaperConfig())
    changed.load_state_dict(full.net.state_dict())
    changed.eval()
    branches = (f"decoder.{branch}.conv_last.bias" for branch in ("coefficients", "pixels"))
    for name in ("encoder.conv_last.weight", *branches):
        state = {key: value.clone() for key, value in full.net.state_dict().items()}
        state[name].view(-1)[0] += 0.01
        changed.load_state_dict(state)
        with torch.no_grad():
            out = (changed(rgb * 255 - 128, torch.zeros(1)).hr.numpy() + 128) / 255
        assert np.abs(out - reference["reconstruction"]).max() > PARITY, name


def test_file_at_level_0_holds_the_reference(full, reference):
    array, fmt = check_image(picture(), value_range=(0.0, 1.0))
    prepared = PreparedImage(array, fmt, full, CPU)
    tables = prepared.tables(0.0)
    assert np.array_equal(tables.reshape(2, 8, 8), reference["tables"][0])
    quantised = prepared.quantised(0.0, tables)
    zigzag = quantised[:, list(ZIGZAG)].numpy()
    assert np.array_equal(zigzag, np.concatenate([reference["stream_y"], reference["stream_c"]]))
    decoded = prepared.decoded(prepared.code(0.0))
    # Through a file of 8-bit samples, clipped: not the last digits, but the same picture.
    assert psnr(np.clip(reference["reconstruction"][0].transpose(1, 2, 0), 0, 1), decoded, 1.0) > 40


def test_torchjpeg_writes_the_very_coefficients(full, reference):
    pytest.importorskip("torchjpeg.codec", reason="the reference environment has it")
    array, fmt = check_image(picture(), value_range=(0.0, 1.0))
    prepared = PreparedImage(array, fmt, full, CPU)
    tables = prepared.tables(0.0)
    quantised = prepared.quantised(0.0, tables)
    contents = read_jpeg(write_jpeg(quantised, tables, (24, 32), backend="torchjpeg"), backend="torchjpeg")
    assert torch.equal(contents.quantised, quantised)
    out = pipeline.reconstruct(quantised, contents.tables, (96, 128), fmt, full, CPU)
    assert np.abs(out - reference["reconstruction"][0].transpose(1, 2, 0).clip(0, 1)).max() <= PARITY


# ---- the released checkpoint ------------------------------------------------------------------


def test_every_published_name_has_a_place_and_nothing_else_does(published, full):
    assert len(parameters()) == 231
    released = convert(published, "here")
    assert released.state.keys() == full.net.state_dict().keys()
    assert sum(value.numel() for value in released.state.values()) == 11_661_675
    assert torch.equal(full.net.state_dict()["predictor.MLPs.1.final_linear.bias"],
                       published["table_predictor.MLPs.1.final_linear.bias"])  # fmt: skip


def test_imported_weights_are_exact_and_say_what_they_are(imported, published, full):
    with safe_open(imported, framework="pt") as file:
        header = file.metadata()
        values = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    assert header["architecture"] == "paper"
    assert all(value.dtype == torch.float32 for value in values.values())
    for key, value in convert(published, "here").state.items():
        assert torch.equal(values[key], value), key
    assert (full.name, full.scale) == ("paper-x4", 4)
    assert full.notes["source"] == "HyperThumbnail_4x_net_g_latest.pth"


Change = Callable[[dict[str, Any]], Any]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.pop("encoder.conv_last.weight"), "missing weights: encoder.conv_last.weight"),
        (lambda p: p.pop("table_predictor.MLPs.0.final_linear.bias"), "missing weights: predictor"),
        (lambda p: p.update({"extra.weight": torch.ones(1)}), "unexpected weights: extra.weight"),
        (lambda p: p.update({"decoder.body.16.conv1.bias": torch.ones(24)}), "unexpected weights: decoder"),
        (lambda p: p.update({"entropy_bottleneck.bottlenecks.2.quantiles": torch.ones(1)}), "unexpected"),
        (lambda p: p.update({"entropy_bottleneck.bottlenecks.0.other": torch.ones(1)}), "unexpected"),
        (lambda p: p.update({"encoder.conv_first.bias": torch.ones(63)}), "misshapen weights: encoder"),
        (lambda p: p.update({"encoder.conv_first.bias": torch.full((64,), torch.nan)}), "NaN or infinite"),
        (lambda p: p.update({"losslessJPEG.Y_TABLE": torch.full((8, 8), 2.0)}), "isn't all ones"),
        (lambda p: p.update({"encoder.conv_first.bias": 3}), "no named tensor"),
        (lambda p: p.update({7: torch.ones(1)}), "no named tensor"),
    ],
)
def test_anything_but_all_of_the_weights_is_refused(published, change: Change, message):
    entries: dict[Any, Any] = dict(published)
    change(entries)
    with pytest.raises(ModelError, match=message):
        convert(entries, "here")


class Harmful:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_code_in_a_checkpoint_is_never_run(tmp_path):
    trap = tmp_path / "trap"
    for index, dump in enumerate((torch.save, lambda what, path: path.write_bytes(pickle.dumps(what)))):
        path = tmp_path / f"bad{index}.pth"
        dump({"params": {"a": Harmful(trap)}}, path)
        with pytest.raises(ModelError, match="not a PyTorch file of plain tensors") as caught:
            read_released(path)
        assert "weights_only" not in str(caught.value)  # PyTorch's own advice is to run it
        assert not trap.exists()


OTHER = [b"", b"PK\x03\x04", b"\x80\x02}q\x00.", b"\x80\x02X\x00", b"hello " * 99, bytes(300)]


@pytest.mark.parametrize("content", OTHER)
def test_other_files_are_our_error(tmp_path, content):
    path = tmp_path / "bad.pth"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"bad\.pth"):
        read_released(path)


@pytest.mark.parametrize("content", [{}, {"params": 3}, [1, 2], {"params_ema": {}}])
def test_files_without_params_are_our_error(tmp_path, content):
    torch.save(content, tmp_path / "bad.pth")
    with pytest.raises(ModelError, match="no weights under 'params'"):
        read_released(tmp_path / "bad.pth")


def test_command_refuses_what_it_cant_do(tmp_path, imported):
    taken = tmp_path / "taken.safetensors"
    taken.write_bytes(b"mine")
    for words in (
        ("none.pth", tmp_path / "out.safetensors"),
        ("none.pth", taken),
        (imported.parent / "HyperThumbnail_4x_net_g_latest.pth", tmp_path / "out.pth"),
    ):
        assert _command("import-weights", *words).exit_code == 1
    assert taken.read_bytes() == b"mine"
    assert list(tmp_path.iterdir()) == [taken]
    source = imported.parent / "HyperThumbnail_4x_net_g_latest.pth"
    with pytest.raises(ModelError, match="name"):
        import_weights(source, tmp_path / "out.safetensors", "a b")


def test_unknown_architectures_are_refused(published_weights, tmp_path):
    from safetensors.torch import load_file, save_file

    with safe_open(published_weights, framework="pt") as file:
        header = dict(file.metadata())
    path = tmp_path / "new.safetensors"
    save_file(load_file(published_weights), path, {**header, "architecture": "future"})
    with pytest.raises(ModelError, match="unknown architecture 'future'"):
        load_checkpoint(path)
    save_file(load_file(published_weights), path, {k: v for k, v in header.items() if k != "architecture"})
    with pytest.raises(ModelError, match="unknown setting"):  # not taken for ours
        load_checkpoint(path)


@pytest.mark.parametrize("wrong", [{"scale": 2}, {"features": 3}, {"down_layers": 0}, {"decoder_blocks": 0}])
def test_impossible_configurations_are_refused(wrong):
    with pytest.raises(ModelError):
        PaperConfig(**wrong)


# ---- used like ours ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rgb", "gray", "uint16"])
def test_images_come_back_with_shape_and_dtype(small, kind):
    photo = make_photo(70, 101)
    image = {"rgb": photo, "gray": photo[:, :, 0], "uint16": photo[:, :, 1].astype(np.uint16) * 200}[kind]
    thumbnail = encode(image, level=0.3, model=small)
    decoded = decode(thumbnail.data, model=small)
    assert (decoded.shape, decoded.dtype) == (image.shape, image.dtype)
    assert thumbnail.scale == 4 and thumbnail.lr.shape[:2] == (18, 26)
    found = info(thumbnail.data)
    assert (found.model, found.digest) == ("small-paper", small.digest)


def test_command_takes_it(published_weights, tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    Image.fromarray(make_photo(40, 56)).save("a.png")
    for words in (["encode", "a.png", "--level", "0.5"], ["decode", "a.ht.jpg", "-o", "b.png"]):
        result = CliRunner().invoke(app, [*words, "--model", str(published_weights)], catch_exceptions=False)
        assert result.exit_code == 0, result.output
    assert read_image("b.png").shape == (40, 56, 3)
    assert "small-paper" in CliRunner().invoke(app, ["info", "a.ht.jpg"]).output
    # Without the weights nothing is guessed.
    assert CliRunner().invoke(app, ["decode", "a.ht.jpg", "-o", "c.png"]).exit_code == 1


def test_level_multiplies_the_tables(small):
    prepared = PreparedImage(*check_image(make_photo(64, 96)), small, CPU)
    exact = small.net.predictor(prepared._statistics, torch.zeros(1))
    for level, factor in ((-1.0, 4.0), (0.0, 1.0), (0.5, 0.5), (1.0, 0.25)):
        expected = (exact * factor).round().clamp(1, 255)[0].numpy()
        assert np.array_equal(prepared.tables(level), expected), level
    sizes = [len(prepared.code(level).data) for level in (-1.0, -0.5, 0.0, 0.5, 1.0)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]
    assert prepared.tables(-4.0).max() <= 255


def test_tables_are_those_of_a_baseline_jpeg(small):
    for statistics in (torch.zeros(1, 128), torch.full((1, 128), 1e4)):
        for level in (-1.0, 1.0):
            tables = small.net.tables(statistics, torch.tensor([level]))
            assert tables.min() >= 1 and tables.max() <= 255 and torch.equal(tables, tables.round())


def test_wanted_bytes_are_met(small):
    image = make_photo(160, 192)
    ends = [encode(image, level=level, model=small).nbytes for level in (-1, 1)]
    wanted = sum(ends) // 2
    found = encode(image, nbytes=wanted, model=small).nbytes
    assert 0.97 * wanted <= found <= wanted


def test_refinement_runs_through_its_decoder(small):
    image = make_photo(64, 64)
    plain = encode(image, level=0.0, model=small)
    refined = encode(image, level=0.0, model=small, effort="best")
    quality = [psnr(image, decode(t.data, model=small)) for t in (plain, refined)]
    assert quality[1] > quality[0] or refined.nbytes < plain.nbytes


def test_a_file_holds_what_the_forward_pass_saw(small):
    image = make_photo(64, 96)
    prepared = PreparedImage(*check_image(image), small, CPU)
    rgb = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() - 128
    with torch.no_grad():
        coded = small.net(rgb, torch.tensor([0.5]))
    tables = prepared.tables(0.5)
    assert np.array_equal(tables, coded.tables[0].numpy())
    assert (prepared.quantised(0.5, tables) - coded.quantised[0]).abs().max() <= 1
    shown = pipeline.reconstruct(coded.quantised[0], tables, (64, 96), check_image(image)[1], small, CPU)
    expected = (coded.hr[0].permute(1, 2, 0) + 128).round().clamp(0, 255).numpy()
    assert np.abs(shown.astype(int) - expected).max() <= 1


def _coded_in_tiles(model: Model, image: np.ndarray, tile: int) -> tuple[np.ndarray, ...]:
    """LR planes, tables, and what made-up coefficients decode to."""
    array, fmt = check_image(image)
    prepared = PreparedImage(array, fmt, model, CPU, tile=tile)
    tables = prepared.tables(0.0)
    lr = prepared.lr_planes(0.0)
    quantised = torch.from_numpy(np.random.default_rng(0).integers(-2, 3, (3, 64, 17, 23))).float()
    shape = (17 * 32, 23 * 32)
    out = pipeline.reconstruct(quantised, tables, shape, fmt, model, CPU, tile=tile)
    return lr, tables, out.astype(int)


def test_tiled_equals_untiled(small, monkeypatch):
    image = make_photo(400, 600)
    whole = _coded_in_tiles(small, image, 2048)
    assert small.net.config.encoder_halo < 200 and small.net.config.pixel_halo < 100
    monkeypatch.setattr("napari_hyperthumb.paper.CONTEXT_TILE", 96)
    parts = _coded_in_tiles(small, image, 64)
    np.testing.assert_allclose(parts[0], whole[0], atol=1e-3)
    assert np.array_equal(parts[1], whole[1])
    assert np.abs(parts[2] - whole[2]).max() <= 1


@pytest.mark.parametrize("name", ["encoder_halo", "pixel_halo", "coefficient_halo"])
def test_tiled_equals_untiled_only_thanks_to_the_surroundings(small, monkeypatch, name):
    image = make_photo(400, 600)
    whole = _coded_in_tiles(small, image, 2048)
    monkeypatch.setattr(PaperConfig, name, property(lambda self: 0))
    monkeypatch.setattr("napari_hyperthumb.paper.CONTEXT_TILE", 96)
    parts = _coded_in_tiles(small, image, 64)
    changed = 0 if name == "encoder_halo" else 2
    assert np.abs(parts[changed] - whole[changed]).max() > 1


@pytest.mark.parametrize("layers", [1, 2])
def test_halo_covers_what_the_encoder_sees(layers):
    """By gradients: nothing beyond the halo reaches a block, and what does comes near to it."""
    config = PaperConfig(features=4, down_layers=layers)
    net = PaperModel(config).encoder
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.rand(parameter.shape) + 0.1)
    side = 2 * config.encoder_halo + config.block
    planes = torch.rand(1, 3, 32, side * 2 // 32 * 32 + 64, requires_grad=True)
    out = net(planes)
    middle = planes.shape[3] // 2 // 32 * 32
    out[..., middle // 4 : middle // 4 + 8].sum().backward()
    assert planes.grad is not None
    seen = planes.grad.abs().sum((0, 1, 2)).nonzero().flatten()
    reach = max(middle - int(seen[0]), int(seen[-1]) - (middle + 31))
    assert config.encoder_halo - 96 < reach <= config.encoder_halo


def test_session_steps_and_reopens(small):
    image = make_photo(64, 96)
    session = Session(image, models={4: small})
    assert session.scales == (4,)
    step = session.step(0.5, 4)
    again = session.reopen(step.thumbnail.data)
    assert np.array_equal(again.image, step.image)


# ---- as trained -------------------------------------------------------------------------------


def _rgb(n: int = 2) -> torch.Tensor:
    photo = torch.from_numpy(make_photo(64, 64)).permute(2, 0, 1)[None].float() - 128
    return photo.repeat(n, 1, 1, 1)


def test_training_sees_noise_at_the_published_rate_and_use_sees_rounding():
    net = small_net()
    at = torch.tensor([-1.0, 1.0])
    trained = net.train()(_rgb(), at)
    off = (trained.quantised - trained.scaled).detach()
    assert off.abs().max() <= 0.5001 and float(off.std()) == pytest.approx(12**-0.5, rel=0.05)
    assert not torch.equal(trained.tables, trained.tables.round())
    # The same picture twice: nothing but noise tells the two apart, whatever their levels.
    assert (trained.tables[0] - trained.tables[1]).abs().max() <= 1
    used = net.eval()(_rgb(), at)
    assert torch.equal(used.quantised, used.quantised.round())
    assert torch.equal(used.tables, used.tables.round())
    assert used.tables[0].mean() > 2 * used.tables[1].mean()


def test_gradients_reach_every_parameter():
    net = small_net().train()
    out = net(_rgb(), torch.zeros(2))
    (out.hr.square().mean() + out.scaled.abs().mean()).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_gray_images_have_no_chroma_and_one_table():
    for net in (small_net().train(), small_net().eval()):
        out = net(_rgb(), torch.zeros(2), torch.tensor([True, False]))
        assert out.quantised[0, 1:].abs().max() == 0
        assert torch.equal(out.tables[0, 0], out.tables[0, 1])
        assert (out.hr[0] - out.hr[0, :1]).abs().max() < 1e-3
        assert out.quantised[1, 1:].abs().max() > 0


def test_base_is_the_encoders_output_clamped():
    net = small_net()
    rgb = _rgb(1)
    with torch.no_grad():
        net.encoder.conv_last.weight.mul_(10)
        raw = net.encoder((rgb + 128) / 255)
        base = net.encoder.base(rgb_to_ycbcr(rgb))
    assert raw.min() < 0 or raw.max() > 1
    torch.testing.assert_close((ycbcr_to_rgb(base) + 128) / 255, raw.clamp(0, 1), atol=1e-4, rtol=0)
