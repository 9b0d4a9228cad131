"""Encoder-side effort: better files for the same decoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_hyperthumb import RateError, decode, encode
from napari_hyperthumb.metrics import psnr
from napari_hyperthumb.pipeline import PreparedImage
from napari_hyperthumb.pixels import check_image
from napari_hyperthumb.refine import Refiner, rate_weight, refine


@pytest.fixture
def prepared(photo, models):
    array, fmt = check_image(photo)
    return PreparedImage(array, fmt, models[2], torch.device("cpu"))


@pytest.fixture
def refiner(prepared):
    return Refiner(prepared, prepared.tables(0.0))


@pytest.fixture
def start(prepared, refiner):
    return refiner.state(prepared.quantised(0.0, prepared.tables(0.0)))


def test_the_error_is_that_of_the_decoded_file(photo, prepared, refiner, start):
    coding = prepared.write(start.quantised, prepared.tables(0.0), 0.0)
    decoded = decode(coding.data, model=prepared.model)
    # The file's picture is rounded and clipped to 8 bits, which the estimate isn't.
    assert start.error == pytest.approx(255**2 / 10 ** (psnr(photo, decoded) / 10), rel=0.02)


def test_the_gradient_is_that_of_the_error(refiner, start):
    slope = refiner.gradient(start.quantised)
    # Along the steepest direction, so that single-precision errors stay small beside the change.
    direction = slope / slope.norm()
    ends = [refiner.error(start.quantised + side * 0.2 * direction) for side in (1, -1)]
    assert (ends[0] - ends[1]) / 0.4 == pytest.approx(float(slope.norm()), rel=0.05)


def test_tiles_change_neither_error_nor_gradient(monkeypatch, prepared, refiner, start):
    monkeypatch.setattr("napari_hyperthumb.refine.TILE", 32)
    tiled = Refiner(prepared, prepared.tables(0.0))
    assert len(tiled._tiles) > 1
    assert tiled.error(start.quantised) == pytest.approx(start.error, rel=1e-4)
    torch.testing.assert_close(
        tiled.gradient(start.quantised), refiner.gradient(start.quantised), rtol=1e-3, atol=1e-5
    )


def test_every_round_lowers_the_objective_or_is_undone(prepared, refiner, start):
    weight = rate_weight(prepared, 0.0)
    state, _ = refiner.polish(
        start, weight, wanted_bits=None, until=float("inf"), report=lambda f: None, rounds=6
    )
    assert state.objective(weight, refiner.pixels) < start.objective(weight, refiner.pixels)
    assert torch.equal(state.quantised, state.quantised.round())
    assert torch.equal(state.quantised[:, 0], start.quantised[:, 0]), "DC is left alone"


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
