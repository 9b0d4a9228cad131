"""The decoder in PyTorch and OpenVINO: same results, chosen by the rules, no int8 file of other weights."""

from __future__ import annotations

import dataclasses
import shutil
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from samples import make_photo, tiny_net

from napari_hyperthumb import backend as backend_module
from napari_hyperthumb import backend_torch, decode, encode, load_model, pipeline
from napari_hyperthumb.backend import SMALL, TOLERANCE, Backend, Shelf, fineness, pick_backend
from napari_hyperthumb.backend_torch import TorchDecoder
from napari_hyperthumb.bitstream import _quantised, read_jpeg
from napari_hyperthumb.checkpoint import BUNDLED, Model, load_checkpoint, save_checkpoint
from napari_hyperthumb.device import decoding_dtype, has_bfloat16
from napari_hyperthumb.errors import DependencyError, DeviceError, ModelError
from napari_hyperthumb.int8 import MAX_LOSS, Int8, Rounded, int8_of, load_int8, save_int8
from napari_hyperthumb.jpeg import dct_8x8, dequantise, quantise, three_planes, ycbcr_to_rgb
from napari_hyperthumb.model import HyperThumbModel
from napari_hyperthumb.pipeline import reconstruct
from napari_hyperthumb.pixels import Format
from napari_hyperthumb.plain import conditions, plain_decoder
from napari_hyperthumb.tiling import Span, windows

CPU = torch.device("cpu")
HAS_CUDA = torch.cuda.is_available()
"""Here, since the suite hides it later."""
COARSE = np.full((2, 64), 30)
EIGHT_BIT = Format()


def lively_net(scale: int) -> HyperThumbModel:
    """Random weights, the last layers large enough for every part of the decoder to show."""
    net = tiny_net(scale)
    with torch.no_grad():
        for layer in (net.decoder.out, net.decoder.body[0].b, net.decoder.film.net[2]):
            layer.weight.mul_(6)
        net.decoder.frequency[4].weight.mul_(12)
    return net


@pytest.fixture(scope="module", params=[2, 4])
def lively(request, tmp_path_factory) -> Model:
    """A model from a file, for each scale."""
    path = tmp_path_factory.mktemp("lively") / f"lively-x{request.param}.safetensors"
    save_checkpoint(path, lively_net(request.param), name=path.stem)
    return load_checkpoint(path)


def ranges(model: Model) -> Int8:
    """Eight bits for all convolutions of a tiny model, generous enough for any input."""
    plain = plain_decoder(model.net, 3)
    named = {f"frequency.{index}": conv for index, conv in enumerate(plain.frequency)}
    named |= {"head": plain.head, "out": plain.out}
    named |= {
        f"blocks.{i}.{k}": conv
        for i, pair in enumerate(plain.blocks)
        for k, conv in zip("ab", pair, strict=True)
    }
    return Int8(
        {
            name: Rounded(
                torch.tensor(
                    [0.0, 6.0] if name in ("frequency.1", "frequency.2", "blocks.0.b") else [-6.0, 6.0]
                ),
                conv.weight.abs().amax((1, 2, 3)),
                conv.bias,
            )
            for name, conv in named.items()
        },
        model.digest,
        loss=0.01,
        finest=1.0,
    )


@pytest.fixture
def with_int8(lively, tmp_path) -> Model:
    """A copy of the model that has an int8 file of its own."""
    path = tmp_path / "copy.safetensors"
    shutil.copy(lively.path, path)
    model = load_checkpoint(path)
    save_int8(path.with_suffix(".int8"), ranges(model))
    return model


def coefficients(gray: bool, rows: int, columns: int) -> torch.Tensor:
    channels = 1 if gray else 3
    values = torch.randint(-2, 3, (channels, 64, rows, columns)).float()
    values *= torch.rand(values.shape) < 0.2
    values[:, 0] = torch.randint(-25, 26, (channels, rows, columns)).float()
    return values


# ---- the same results -------------------------------------------------------------------------

BACKENDS = ["torch", "openvino"]


def needs(backend: str) -> None:
    if backend.startswith("openvino"):
        pytest.importorskip("openvino")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("gray", [False, True])
def test_backends_give_what_the_network_gives(lively, backend, gray):
    """Values as float32, at an odd size; the network's own forward pass is another program altogether."""
    needs(backend)
    quantised, tables = coefficients(gray, 5, 7), np.random.randint(3, 60, (2, 64))
    block = lively.net.config.block
    shape = (5 * block - 3, 7 * block - 6)
    fmt = Format("float32", (0.0, 255.0), gray)
    out = reconstruct(quantised, tables, shape, fmt, lively, CPU, backend=backend)
    with torch.inference_mode():
        table = torch.from_numpy(tables).float()[None]
        three = three_planes(quantised[None]) if gray else quantised[None]
        planes = lively.net.decode(three, table)
        expected = (planes[0, 0] if gray else ycbcr_to_rgb(planes)[0].permute(1, 2, 0)) + 128
    expected = expected[: shape[0], : shape[1]].clamp(0, 255).numpy()
    assert out.shape == expected.shape
    assert expected.std() > 20
    assert np.abs(out - expected).max() < TOLERANCE
    # Eight bits written straight are the same, rounded.
    eight = reconstruct(quantised, tables, shape, Format(gray=gray), lively, CPU, backend=backend)
    assert eight.dtype == np.uint8 and eight.flags.c_contiguous
    assert np.abs(eight - expected).max() <= 0.5 + TOLERANCE


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("few", [0, 64], ids=["two at once", "one by one"])
def test_windows_and_regions_are_parts_of_the_whole(lively, backend, few, monkeypatch):
    needs(backend)
    if backend == "openvino":
        monkeypatch.setattr(backend_module, "FEW", few)
    elif not few:
        pytest.skip("OpenVINO's alone")
    quantised = coefficients(False, 36, 20)
    block = lively.net.config.block
    shape = (36 * block - 1, 20 * block - 2)
    arguments = (quantised, COARSE, shape, Format("float32", (0.0, 255.0)), lively, CPU)
    whole = reconstruct(*arguments, backend=backend)
    region = ((5 * block + 3, 30 * block + 1), (7, 13 * block + 2))
    for tile, wanted in ((4 * block, None), (8 * block, region), (4096, region)):
        out = reconstruct(*arguments, backend=backend, tile=tile, region=wanted)
        (top, bottom), (left, right) = wanted or ((0, shape[0]), (0, shape[1]))
        assert out.shape == (bottom - top, right - left, 3)
        assert np.abs(out - whole[top:bottom, left:right]).max() < TOLERANCE


@pytest.mark.parametrize("few", [0, 64], ids=["two at once", "one by one"])
def test_large_windows_are_for_one_at_a_time_in_half_precision(with_int8, few, monkeypatch):
    monkeypatch.setattr(backend_module, "FEW", few)
    monkeypatch.setattr(backend_module, "has_bfloat16", lambda device: True)
    single, half = Backend("openvino"), Backend("openvino-int8", int8_of(with_int8))
    for scale, side in pipeline.ONLY_TILE.items():
        assert pipeline._window(single, scale) == pipeline.DECODER_TILE
        assert pipeline._window(half, scale) == (side if few else pipeline.HALF_TILE)


def test_eight_bits_are_close_but_not_the_same(with_int8):
    needs("openvino")
    quantised = coefficients(False, 6, 6)
    side = 6 * with_int8.net.config.block
    arguments = (quantised, COARSE, (side, side), Format(), with_int8, CPU)
    exact, rounded = (
        reconstruct(*arguments, backend=name).astype(float) for name in ("openvino", "openvino-int8")
    )
    error = np.sqrt(((exact - rounded) ** 2).mean())
    assert 0.1 < error < 0.1 * exact.std()


def test_half_precision_is_for_pictures_of_eight_bits_and_a_level_off_at_most(lively, monkeypatch):
    quantised = coefficients(False, 6, 6)
    side = 6 * lively.net.config.block
    arguments = (quantised, COARSE, (side, side))
    formats = Format(), Format("uint16", (0.0, 9e4))
    exact = {fmt: reconstruct(*arguments, fmt, lively, CPU) for fmt in formats}
    assert decoding_dtype(CPU) == torch.float32 and decoding_dtype(torch.device("cuda")) == torch.float16
    monkeypatch.setattr(pipeline, "decoding_dtype", lambda device: torch.float16)
    eight, sixteen = ((fmt, reconstruct(*arguments, fmt, lively, CPU)) for fmt in formats)
    off = np.abs(eight[1].astype(int) - exact[eight[0]])
    assert off.max() == 1 and off.mean() < 0.2
    np.testing.assert_array_equal(sixteen[1], exact[sixteen[0]])


def test_bfloat16_beside_eight_bits_changes_less_than_they_do(with_int8, monkeypatch):
    needs("openvino")
    from napari_hyperthumb import backend_openvino

    if not has_bfloat16(CPU):
        pytest.skip("this CPU has no instructions for bfloat16")
    side = 6 * with_int8.net.config.block
    arguments = (coefficients(False, 6, 6), COARSE, (side, side), Format(), with_int8, CPU)
    exact = reconstruct(*arguments, backend="torch").astype(float)

    def rounded(half: bool) -> np.ndarray:
        monkeypatch.setattr(backend_module, "has_bfloat16", lambda device: half)
        monkeypatch.setattr(backend_openvino, "_compiled", Shelf(backend_openvino.KEPT))
        return reconstruct(*arguments, backend="openvino-int8").astype(float)

    single, half = rounded(False), rounded(True)
    lost, more = (np.sqrt(((a - b) ** 2).mean()) for a, b in ((single, exact), (half, single)))
    assert 0 < more < lost


def test_progress_is_reported_for_each_window_and_can_end_the_work(lively):
    needs("openvino")
    block, seen = lively.net.config.block, []

    def stop(fraction: float) -> None:
        seen.append(fraction)
        if len(seen) == 2:
            raise KeyboardInterrupt

    arguments = (coefficients(False, 30, 4), COARSE, (30 * block, 4 * block), Format(), lively, CPU)
    with pytest.raises(KeyboardInterrupt):
        reconstruct(*arguments, backend="openvino", tile=4 * block, report=stop)
    assert seen == sorted(seen) and seen[-1] < 1
    reconstruct(*arguments, backend="openvino", tile=4 * block, report=seen.append)
    assert seen[-1] == 1


# ---- windows ----------------------------------------------------------------------------------


@given(
    st.integers(1, 60),
    st.integers(1, 60),
    st.integers(1, 20),
    st.integers(0, 8),
    st.data(),
)
def test_windows_cover_the_region_once_in_one_shape(height, width, size, halo, data):
    block = 8
    spans = []
    for side in (height, width):
        start = data.draw(st.integers(0, side - 1))
        spans.append((start * block, data.draw(st.integers(start + 1, side)) * block))
    shape = (height * block, width * block)
    found = windows(shape, size * block, halo * block, block, (spans[0], spans[1]))

    def check(span: Span, length: int) -> None:
        assert 0 <= span.low <= span.start < span.stop <= span.high <= length
        assert span.low % block == span.high % block == span.start % block == span.stop % block == 0
        assert span.low == 0 or span.start - span.low >= halo * block
        assert span.high == length or span.high - span.stop >= halo * block

    covered = np.zeros(shape, int)
    for tile in found:
        check(tile.rows, shape[0])
        check(tile.columns, shape[1])
        covered[tile.rows.start : tile.rows.stop, tile.columns.start : tile.columns.stop] += 1
    (top, bottom), (left, right) = spans
    assert (covered[top:bottom, left:right] == 1).all() and covered.sum() == (bottom - top) * (right - left)
    assert len({(t.rows.high - t.rows.low, t.columns.high - t.columns.low) for t in found}) == 1


def test_windows_take_the_shape_that_leaves_least_to_do_twice():
    found = windows((3456, 6144), 2048, 80, 16)
    assert len(found) == 6
    height, width = (span.high - span.low for span in (found[0].rows, found[0].columns))
    assert (height, width) == (1808, 2160)
    assert len(windows((64, 20_000), 2048, 80, 16)) == 1, "not by sides, by pixels"


def test_reading_gives_the_coefficients_of_the_transform():
    samples = torch.randint(0, 256, (3, 24, 40), dtype=torch.uint8)
    table = torch.randint(5, 50, (1, 2, 64)).float()
    expected = quantise(dct_8x8(samples[None].float() - 128), table)[0]
    found = _quantised(samples, table)
    assert found.shape == expected.shape
    assert (dequantise((found - expected)[None], table).abs() < 51).all()
    assert (found != expected).float().mean() < 1e-3  # where a value is halfway between two


# ---- which one --------------------------------------------------------------------------------


def test_auto_takes_eight_bits_only_where_every_rule_holds(with_int8, monkeypatch):
    needs("openvino")
    monkeypatch.delenv("HYPERTHUMB_BACKEND", raising=False)

    def picked(model=with_int8, device=CPU, fmt=EIGHT_BIT, pixels=SMALL, tables=COARSE) -> str:
        return pick_backend("auto", model, device, fmt, pixels, tables).name

    assert picked() == "openvino-int8"
    assert picked(fmt=Format(gray=True)) == "openvino-int8"
    assert picked(pixels=SMALL - 1) == "torch"
    assert picked(fmt=Format("uint16", (0.0, 255.0))) == "torch"
    assert picked(fmt=Format("uint8", (0.0, 200.0))) == "torch"
    assert picked(device=torch.device("meta")) == "torch"
    assert picked(tables=np.full((2, 64), 2)) == "torch"
    assert fineness(np.full((2, 64), 2)) < 1.0 < fineness(COARSE)
    assert picked(dataclasses.replace(with_int8, path=None)) == "torch"
    lossy = dataclasses.replace(int8_of(with_int8), loss=MAX_LOSS + 0.01)
    save_int8(with_int8.path.with_suffix(".int8"), lossy)
    assert picked() == "torch"


def test_an_int8_file_of_other_weights_is_left_unread(with_int8, monkeypatch):
    needs("openvino")
    assert int8_of(with_int8) is not None
    stale = dataclasses.replace(int8_of(with_int8), digest="0123456789abcdef")
    save_int8(with_int8.path.with_suffix(".int8"), stale)
    assert int8_of(with_int8) is None
    assert pick_backend("auto", with_int8, CPU, Format(), SMALL, COARSE) == Backend("torch")
    with pytest.raises(ModelError, match=r"no int8 file of their own.*quantise"):
        pick_backend("openvino-int8", with_int8, CPU, Format(), SMALL, COARSE)


def test_int8_files_come_back_and_damaged_ones_are_refused(lively, tmp_path):
    path = tmp_path / "x.int8"
    save_int8(path, ranges(lively))
    found, saved = load_int8(path), ranges(lively)
    assert (found.digest, found.loss, found.finest) == (lively.digest, 0.01, 1.0)
    assert found.convolutions.keys() == saved.convolutions.keys()
    for name, rounded in found.convolutions.items():
        for key in ("range", "weights", "bias"):
            assert torch.equal(getattr(rounded, key), getattr(saved.convolutions[name], key))
    data = path.read_bytes()
    for damaged in (b"", data[:-5], data[:40], data.replace(b"hyperthumb-int8-1", b"hyperthumb-int8-9")):
        path.write_bytes(damaged)
        with pytest.raises(ModelError, match="make it again"):
            load_int8(path)
    with pytest.raises(ModelError, match="make it again"):
        load_int8(lively.path)
    broken = dict(saved.convolutions)
    broken["out"] = dataclasses.replace(broken["out"], range=torch.tensor([1.0, 1.0]))
    save_int8(path, dataclasses.replace(saved, convolutions=broken))
    with pytest.raises(ModelError, match="make it again"):
        load_int8(path)


@pytest.mark.parametrize("scale", BUNDLED)
def test_bundled_weights_have_an_int8_file_of_their_own(scale):
    """After new weights: make int8."""
    int8 = int8_of(load_model(BUNDLED[scale]))
    assert int8 is not None
    assert int8.loss <= MAX_LOSS
    assert len(int8.convolutions) > 10


def test_decode_says_what_is_wrong_with_a_backend(lively, monkeypatch):
    data = encode(make_photo(40, 50), level=0, model=lively).data
    with pytest.raises(DeviceError, match="unknown backend 'onnx'; choose one of auto, torch"):
        decode(data, model=lively, backend="onnx")
    with pytest.raises(DeviceError, match="unknown backend 'nothing'"), monkeypatch.context() as patch:
        patch.setenv("HYPERTHUMB_BACKEND", "nothing")
        decode(data, model=lively)
    monkeypatch.setattr("napari_hyperthumb.backend.find_spec", lambda name: None)
    with pytest.raises(DependencyError, match=r"needs openvino: pip install 'napari-hyperthumb\[fast\]'"):
        decode(data, model=lively, backend="openvino")
    assert decode(data, model=lively).shape == (40, 50, 3)


def test_the_environment_replaces_auto_alone(lively, monkeypatch):
    needs("openvino")
    monkeypatch.setenv("HYPERTHUMB_BACKEND", "openvino")
    arguments = (lively, CPU, Format(), 100, COARSE)
    assert pick_backend("auto", *arguments).name == "openvino"
    assert pick_backend("torch", *arguments).name == "torch"


def test_a_file_decodes_alike_with_all_backends(lively):
    needs("openvino")
    thumbnail = encode(make_photo(70, 90), level=0.5, model=lively)
    exact, other = (
        decode(thumbnail.data, model=lively, backend=name).astype(int) for name in ("torch", "openvino")
    )
    assert np.abs(exact - other).max() <= 1
    assert (exact != other).mean() < 1e-3
    assert read_jpeg(thumbnail.data).quantised.shape[0] == 3
    assert "openvino" in sys.modules


def test_compiled_graphs_are_kept_within_bounds(lively, monkeypatch):
    """The same size again compiles nothing; what is kept never grows past the limit."""
    needs("openvino")
    from napari_hyperthumb import backend_openvino

    block, compiled = lively.net.config.block, []
    original = backend_openvino.graph
    monkeypatch.setattr(backend_openvino, "graph", lambda *a, **k: compiled.append(1) or original(*a, **k))
    monkeypatch.setattr(backend_openvino, "_compiled", Shelf(40 * block**2))

    def run(rows: int) -> int:
        arguments = (coefficients(False, rows, 4), COARSE, (rows * block, 4 * block), EIGHT_BIT, lively, CPU)
        reconstruct(*arguments, backend="openvino")
        return len(compiled)

    assert [run(rows) for rows in (4, 4, 5, 4, 5)] == [1, 1, 2, 2, 2]
    found = [run(rows) for rows in (6, 4, 12, 12)]
    assert found == [3, 4, 5, 6], "4 and 5 had to go; 12 is too large"
    assert sum(held for _, held in backend_openvino._compiled._items.values()) <= 40 * block**2


def test_eight_bits_made_again_for_the_same_weights_get_a_graph_of_their_own(with_int8, monkeypatch):
    needs("openvino")
    from napari_hyperthumb import backend_openvino

    path = with_int8.path.with_suffix(".int8")
    side = 6 * with_int8.net.config.block
    arguments = (coefficients(False, 6, 6), COARSE, (side, side), EIGHT_BIT, with_int8, CPU)
    before = reconstruct(*arguments, backend="openvino-int8")
    int8 = load_int8(path)
    fewer = {name: one for name, one in int8.convolutions.items() if name != "out"}
    save_int8(path, dataclasses.replace(int8, convolutions=fewer))
    after = reconstruct(*arguments, backend="openvino-int8")
    monkeypatch.setattr(backend_openvino, "_compiled", Shelf(backend_openvino.KEPT))
    np.testing.assert_array_equal(after, reconstruct(*arguments, backend="openvino-int8"))
    assert (after != before).any()


def test_a_graph_serves_all_files_of_a_size_and_no_other_weights(lively, tmp_path, monkeypatch):
    """What CUDA replays; a capture is replaced by doing the same work again, in the same place."""
    other_net = lively_net(lively.net.config.scale)
    save_checkpoint(tmp_path / "other.safetensors", other_net, name="other")
    other = load_checkpoint(tmp_path / "other.safetensors")
    captured = []

    def again(work):
        captured.append(work)
        out = work().fill_(-1)  # a capture computes nothing
        return lambda: out.copy_(work())

    monkeypatch.setattr(backend_torch, "captured", again)
    monkeypatch.setattr(backend_torch, "CAN_CAPTURE", True)
    monkeypatch.setattr(backend_torch, "_graphs", Shelf(10**6))
    monkeypatch.setattr(backend_torch, "_last", None)

    def decoder(model: Model, step: int, key: str | None) -> TorchDecoder:
        tables = torch.full((1, 2, 64), float(step))
        plain, found = plain_decoder(model.net, 3), conditions(model.net.decoder, tables, 3)
        return TorchDecoder(plain, found, CPU, eight_bit=True, key=key and (key,))

    def window(rows: int) -> torch.Tensor:
        return torch.randint(-3, 4, (rows, 5, 3 * 64)).float()

    fine, coarse, strange = decoder(lively, 20, "a"), decoder(lively, 40, "a"), decoder(other, 20, "b")
    unnamed = decoder(lively, 20, None)
    exact = {one: one.twin() for one in (fine, coarse, strange, unnamed)}
    work = [(fine, 4)] * 3 + [
        (coarse, 4),
        (fine, 4),
        (strange, 4),
        (fine, 4),
        (fine, 3),
        (coarse, 3),
        (coarse, 4),
    ]
    counts = []
    with torch.inference_mode():
        for one, rows in [*work, *[(unnamed, 2)] * 3]:
            x = window(rows)
            assert (one.replayed(x) == exact[one].levels(x)).all()
            counts.append(len(captured))
    assert counts == [0, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2]


@pytest.mark.skipif(not HAS_CUDA, reason="needs a GPU")
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_cuda_decodes_as_the_cpu_does(lively, dtype):
    """Several windows and files of one size: run, captured, replayed."""
    block, fmt = lively.net.config.block, Format(dtype, (0.0, 255.0))
    for step in (30, 20, 40):
        coded = coefficients(False, 20, 9), np.full((2, 64), step), (20 * block, 9 * block), fmt, lively
        tile = {"tile": 4 * block, "backend": "torch"}
        exact, found = (
            reconstruct(*coded, torch.device(name), **tile).astype(int) for name in ("cpu", "cuda")
        )
        assert np.abs(exact - found).max() <= 1
