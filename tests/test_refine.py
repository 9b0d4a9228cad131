"""Encoder-side effort: better files for the same decoder."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from samples import make_photo

from napari_hyperthumb import RateError, decode, encode
from napari_hyperthumb.codec import model_for
from napari_hyperthumb.jpeg import dct_8x8, dequantise, ycbcr_to_rgb
from napari_hyperthumb.metrics import psnr
from napari_hyperthumb.model import Passes
from napari_hyperthumb.moves import count_bits
from napari_hyperthumb.pipeline import PreparedImage
from napari_hyperthumb.pixels import check_image
from napari_hyperthumb.refine import State, fit_bytes, refine


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    """The same figures on every machine."""
    monkeypatch.setattr("napari_hyperthumb.pipeline.has_bfloat16", lambda device: False)


@pytest.fixture
def prepared(photo, models):
    array, fmt = check_image(photo)
    return PreparedImage(array, fmt, models[2], torch.device("cpu"))


def error_of(prepared, quantised, tables):
    return prepared.error_gradient(quantised, tables)[0]


@pytest.fixture
def start(prepared):
    tables = prepared.tables(0.0)
    return State.at(prepared, 0.0, tables, prepared.quantised(0.0, tables))


def test_the_error_is_that_of_the_decoded_file(photo, prepared, start):
    coding = start.write(start.quantised)
    decoded = decode(coding.data, model=prepared.model)
    wanted = 255**2 / 10 ** (psnr(photo, decoded) / 10)
    error = error_of(prepared, start.quantised, start.tables) / (photo.shape[0] * photo.shape[1])
    # The file's picture is rounded and clipped to 8 bits, which the estimate isn't.
    assert error == pytest.approx(wanted, rel=0.02)


def test_the_gradient_is_that_of_the_error(prepared, start):
    _, slope = prepared.error_gradient(start.quantised, start.tables)
    # Along the steepest direction, so that single-precision errors stay small beside the change.
    direction = slope / slope.norm()
    ends = [error_of(prepared, start.quantised + side * 0.2 * direction, start.tables) for side in (1, -1)]
    assert (ends[0] - ends[1]) / 0.4 == pytest.approx(float(slope.norm()), rel=0.05)


def test_tiles_change_neither_error_nor_gradient(monkeypatch, prepared, start):
    whole, wanted = prepared.error_gradient(start.quantised, start.tables)
    monkeypatch.setattr("napari_hyperthumb.pipeline.GRADIENT_TILE", 32)
    error, gradient = prepared.error_gradient(start.quantised, start.tables)
    assert error == pytest.approx(whole, rel=1e-4)
    torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize(("height", "width"), [(96, 128), (70, 93), (5, 3)])
def test_error_and_gradient_are_those_of_the_network(monkeypatch, photo, models, scale, gray, height, width):
    array, fmt = check_image(photo[:height, :width, 0] if gray else photo[:height, :width])
    prepared = PreparedImage(array, fmt, models[scale], torch.device("cpu"))
    tables = prepared.tables(0.5)
    quantised = prepared.quantised(0.5, tables) + 0.3  # not quite whole: no ties in rectifiers
    leaf = quantised.requires_grad_(True)
    planes = torch.cat([leaf, torch.zeros_like(leaf), torch.zeros_like(leaf)]) if gray else leaf
    decoded = prepared.net.decode(planes[None], torch.from_numpy(tables).float()[None])
    levels = (decoded[:, :1] if gray else ycbcr_to_rgb(decoded))[0, :, :height, :width] + 128
    wanted = torch.from_numpy(array.astype(np.float32)).reshape(height, width, -1).permute(2, 0, 1)
    expected = (levels.clamp(0, 255) - wanted).square().sum() / len(wanted)
    (slope,) = torch.autograd.grad(expected, leaf)

    error, gradient = prepared.error_gradient(quantised.detach(), tables)
    assert error == pytest.approx(float(expected.detach()), rel=1e-4)
    torch.testing.assert_close(gradient, slope, rtol=1e-3, atol=1e-3 * float(slope.abs().max()))
    monkeypatch.setattr(prepared, "_fast", torch.bfloat16)
    half, rough = prepared.error_gradient(quantised.detach(), tables)
    assert half == pytest.approx(error, rel=0.02)
    assert float((rough - gradient).norm() / gradient.norm()) < 0.1


def test_only_the_error_that_counts_is_counted(monkeypatch, photo, prepared, start):
    monkeypatch.setattr("napari_hyperthumb.pipeline.GRADIENT_TILE", 32)
    array, fmt = check_image(photo)
    height, width = array.shape[:2]
    parts = []
    for columns in (slice(0, 40), slice(40, width)):
        counted = (slice(0, height), columns)
        part = PreparedImage(array, fmt, prepared.model, prepared.device, counted=counted)
        parts.append(part.error_gradient(start.quantised, start.tables))
    (left, left_gradient), (right, right_gradient) = parts
    assert left + right == pytest.approx(error_of(prepared, start.quantised, start.tables), rel=1e-4)
    assert left_gradient[:, :, :, -1].abs().max() == 0
    _, whole = prepared.error_gradient(start.quantised, start.tables)
    torch.testing.assert_close(left_gradient + right_gradient, whole, rtol=1e-3, atol=1e-2)


def objective_of(prepared, quantised, tables, level=0.0):
    price = float(prepared.net.bit_price(torch.tensor(level)))
    wanted = dct_8x8(torch.from_numpy(prepared._base)[None])[0]
    off = dequantise(quantised[None], torch.from_numpy(tables).float()[None])[0] - wanted
    thumbnail = float(off.square().sum() * prepared.net.thumbnail_price(torch.tensor(level)))
    return error_of(prepared, quantised, tables) + price * float(count_bits(quantised[None])) + thumbnail


def test_descents_lower_what_they_descend(prepared, start):
    descended = prepared.descended(0.0, start.tables, count=8, settling=0)
    assert torch.equal(descended, descended.round())
    plain = objective_of(prepared, start.quantised, start.tables)
    assert objective_of(prepared, descended, start.tables) < 0.99 * plain
    assert torch.equal(prepared.descended(0.0, start.tables, count=0), start.quantised)


def test_descents_that_are_too_long_are_taken_back(monkeypatch, prepared, start):
    monkeypatch.setattr("napari_hyperthumb.pipeline.STEP", 50.0)  # the first leads to 80 times the error
    descended = prepared.descended(0.0, start.tables, count=12, settling=0)
    assert error_of(prepared, descended, start.tables) < 1.1 * error_of(
        prepared, start.quantised, start.tables
    )


def test_descents_end_when_they_are_told_to(prepared, start):
    asked = iter([True, True, False])
    seen: list[float] = []
    descended = prepared.descended(
        0.0, start.tables, seen.append, count=9, settling=0, going=lambda: next(asked)
    )
    wanted = prepared.descended(0.0, start.tables, count=2, settling=0)
    assert torch.equal(descended, wanted)
    assert seen == sorted(seen) and 0 < seen[-1] < 0.3


def test_settled_coefficients_lose_less_than_ones_rounded_at_once():
    # A photograph and the bundled weights: to tiny ones it makes no difference.
    array, fmt = check_image(make_photo(128, 128))
    prepared = PreparedImage(array, fmt, model_for(None, 2), torch.device("cpu"))
    level, tables = 0.4, prepared.tables(0.4)
    weight = float(prepared.net.bit_price(torch.tensor(level)))

    def objective(settling):
        quantised = prepared.descended(level, tables, count=12, settling=settling)
        assert torch.equal(quantised, quantised.round())
        return error_of(prepared, quantised, tables) + weight * float(count_bits(quantised[None]))

    assert objective(8) < 0.995 * objective(0)


@pytest.mark.parametrize(("passes", "measured"), [((1, 2, 3), 6), ((2, 0, 1), 3), ((4, 4, 0), 0)])
def test_weights_say_how_many_passes_their_files_get(photo, models, monkeypatch, passes, measured):
    net = models[2].net
    settings = dict(zip(Passes._fields, passes, strict=True))
    monkeypatch.setattr(net, "config", dataclasses.replace(net.config, **settings))
    array, fmt = check_image(photo)
    prepared = PreparedImage(array, fmt, models[2], torch.device("cpu"))
    seen, measure = [], prepared.error_gradient
    monkeypatch.setattr(prepared, "error_gradient", lambda *a: seen.append(a) or measure(*a))
    prepared.code(0.0)
    assert net.passes == passes and len(seen) == measured


def test_weights_say_how_many_passes_best_makes(photo, models, monkeypatch):
    net = models[2].net
    settings = {"best_descents": 2, "best_settling": 1, "best_rounds": 3}
    monkeypatch.setattr(net, "config", dataclasses.replace(net.config, **settings))
    array, fmt = check_image(photo)
    prepared = PreparedImage(array, fmt, models[2], torch.device("cpu"))
    seen, measure = [], prepared.error_gradient
    monkeypatch.setattr(prepared, "error_gradient", lambda *a: seen.append(a) or measure(*a))
    refine(prepared, 0.0)
    assert net.best_passes == (2, 1, 3) and len(seen) == 2 + 1 + 1 + 3


@pytest.mark.parametrize("target", ["nbytes", "psnr"])
def test_one_round_is_enough_to_meet_a_target(photo, models, monkeypatch, target):
    model = models[2]
    monkeypatch.setattr(model.net, "config", dataclasses.replace(model.net.config, rounds=1))
    thumbnail = encode(photo, model=model, level=0.0)
    reached = psnr(photo, decode(thumbnail.data, model=model))
    wanted = thumbnail.nbytes if target == "nbytes" else reached
    met = encode(photo, model=model, **{target: wanted})
    if target == "nbytes":
        assert 0.9 * wanted < met.nbytes <= wanted
    else:
        assert psnr(photo, decode(met.data, model=model)) >= wanted


def test_a_round_of_moves_lowers_what_it_is_to_lower(prepared, start):
    weight = float(prepared.net.config.trade_off(torch.tensor([0.0])))

    def objective(quantised):
        return error_of(prepared, quantised, start.tables) + weight * float(count_bits(quantised[None]))

    after = start.moved()
    assert torch.equal(after, after.round())
    assert (after - start.quantised).abs().max() == 1
    assert objective(after) < objective(start.quantised)


def test_a_dearer_bit_makes_a_smaller_file(start):
    sizes = [float(count_bits(start.moved(weight)[None])) for weight in (0.5, 1.0, 2.0)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[2]


def test_fitting_comes_just_below_the_wanted_size(start):
    wanted = len(start.write(start.moved()).data) - 4
    coding = fit_bytes(start, wanted)
    assert coding is not None
    assert 0.985 * wanted <= len(coding.data) <= wanted
    assert fit_bytes(start, 200) is None, "no price of a bit makes it as small as that"


@pytest.mark.parametrize("gray", [False, True])
def test_best_is_better_at_the_same_size(photo, models, gray):
    image = photo[:, :, 1] if gray else photo
    size = {"nbytes": 1500, "model": models[2]}
    fast, best = (encode(image, effort=effort, **size) for effort in ("fast", "best"))
    assert best.nbytes <= 1500
    quality = [psnr(image, decode(x.data, model=models[2])) for x in (fast, best)]
    assert quality[1] > quality[0]


def test_best_is_the_same_every_time(photo, models):
    first, second = (encode(photo, level=0.0, effort="best", model=models[4]).data for _ in range(2))
    assert first == second


def test_a_psnr_costs_fewer_bytes(photo, models):
    wanted = psnr(photo, decode(encode(photo, level=0.2, model=models[2]).data, model=models[2]))
    fast, best = (encode(photo, psnr=wanted, effort=e, model=models[2]) for e in ("fast", "best"))
    assert best.nbytes <= fast.nbytes
    assert psnr(photo, decode(best.data, model=models[2])) >= wanted - 0.01


def test_the_budget_is_kept_and_progress_ends_at_one(prepared):
    seen: list[float] = []
    coding = refine(prepared, 0.0, seconds=1e-9, report=seen.append)
    assert seen[-1] == 1.0
    assert len(coding.data) <= 1.01 * len(prepared.code(0.0).data)


def test_it_can_be_cancelled(photo, models):
    def cancel(fraction: float) -> None:
        if fraction > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode(photo, level=0.0, effort="best", model=models[2], progress=cancel)


@pytest.mark.parametrize("bad", [{"effort": "most"}, {"effort": "best", "seconds": 0}])
def test_bad_effort(photo, models, bad):
    with pytest.raises(RateError, match=r"effort|seconds"):
        encode(np.asarray(photo), model=models[2], level=0.0, **bad)
